"""Evaluation passes."""
