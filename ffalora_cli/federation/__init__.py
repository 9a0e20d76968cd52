"""Plays a federation: payloads, ledger, cohorts, server, and the round that ties them together."""
