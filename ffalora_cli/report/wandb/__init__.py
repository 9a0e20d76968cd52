"""Runs read from W&B, and saved views."""
