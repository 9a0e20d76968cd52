"""All clients of a cohort in one pass."""
