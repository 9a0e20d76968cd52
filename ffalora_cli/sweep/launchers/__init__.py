"""Launchers play the jobs of a sweep: one file each."""
