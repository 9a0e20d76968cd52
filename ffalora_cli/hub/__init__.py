"""The Hugging Face hub and its cache: which commit, which files, and why something is not there."""
