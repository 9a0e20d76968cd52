"""Tunes: reads what is asked for, plays it in stages, prices and words it."""
