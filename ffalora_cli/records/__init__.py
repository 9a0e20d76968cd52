"""What a run leaves on disk, and its mirrors. The files are the truth."""
