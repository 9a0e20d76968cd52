"""Defines the exit codes that a script may rely on."""

DONE = 0
FAILED = 1
BAD_USAGE = 2  # or a bad config; nothing was written
PARTLY_DONE = 3  # a sweep of which some jobs failed
INTERRUPTED = 130  # by Ctrl-C; a signal n ends with 128 + n, so SIGTERM with 143
BROKEN_PIPE = 141  # whoever read what a verb prints went away before its end
