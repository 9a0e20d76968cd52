"""Rows dealt to clients."""
