"""Exact and statistical checks of clip, noise, sampling and accounting."""
