"""Runs chosen, grouped and held against each other."""
