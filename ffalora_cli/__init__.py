"""ffalora: private federated LoRA fine-tuning, one command a run."""

__version__ = "0.1.0"
