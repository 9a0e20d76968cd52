"""What a run leaves on disk, and its trackers. The files are the truth."""
