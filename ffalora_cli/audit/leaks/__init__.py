"""Compares what leaves a run with what leaves of its neighbours."""
