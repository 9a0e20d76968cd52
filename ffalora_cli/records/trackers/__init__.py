"""Trackers: copies of the local records, one file each."""
