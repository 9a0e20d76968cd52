"""Federated LoRA methods, one file each; the folder is the list."""
