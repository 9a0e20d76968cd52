"""Checking, combining and releasing uploads."""
