"""Mirrors of the local records, one file each."""
