"""Scoring: metrics from confusion matrices, evaluation passes."""
