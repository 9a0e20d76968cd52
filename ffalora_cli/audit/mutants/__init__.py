"""Broken mechanisms that the checks have to catch."""
