"""Tests. ``ROOT`` is the checkout; no test counts the folders above itself."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
