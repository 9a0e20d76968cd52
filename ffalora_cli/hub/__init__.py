"""Reads the Hugging Face hub and its cache: commits, files, and reasons of failures."""
