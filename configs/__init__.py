"""The shipped Hydra configuration (installed as ``ffalora_cli.configs``)."""
