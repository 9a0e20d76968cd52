"""Measurements and trials that take longer than tests."""
