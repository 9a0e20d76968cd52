"""Configuration: typed, checked, identified. Standard library only."""
