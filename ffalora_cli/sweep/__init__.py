"""Many jobs: the grid, its record on disk, and who runs each job in a fresh process."""
