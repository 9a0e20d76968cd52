"""Crashes, corruption and hostile input."""
