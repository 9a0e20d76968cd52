"""Rows from files, packages and the hub."""
