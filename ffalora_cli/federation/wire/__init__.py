"""Payloads and their bytes."""
