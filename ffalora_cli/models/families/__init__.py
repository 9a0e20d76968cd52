"""Forwards without padding."""
