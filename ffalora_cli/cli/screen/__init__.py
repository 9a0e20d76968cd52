"""What a terminal is shown: progress, tables, words."""
