"""Noise and rounds for a budget."""
