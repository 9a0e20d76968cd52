"""Frozen backbones, adapter sites, heads."""
