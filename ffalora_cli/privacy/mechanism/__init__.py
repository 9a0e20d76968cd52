"""Clip, noise, row sampler, secret."""
