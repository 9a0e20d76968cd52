"""Trains a cohort locally and scores models; the only room that knows a device."""
