"""ffalora_cli/engine."""
