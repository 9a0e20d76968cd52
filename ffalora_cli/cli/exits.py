"""Exit codes: what a script may rely on."""

DONE = 0
FAILED = 1
BAD_USAGE = 2  # or a bad config; nothing was written
PARTLY_DONE = 3  # a sweep of which some jobs failed
INTERRUPTED = 130
TERMINATED = 143
