"""Reconstruction of training rows from uploads."""
