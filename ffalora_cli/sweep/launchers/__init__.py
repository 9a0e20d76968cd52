"""Who runs the jobs of a sweep: one file per launcher."""
