"""Kinds of task, one file each: targets, losses, scores. Any package may add one."""
