"""Plays many jobs: the grid, its record on disk, each job in a fresh process."""
