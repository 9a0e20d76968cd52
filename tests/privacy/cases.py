"""Configurations shared by the privacy tests: the paper's federation, changed key by key."""

from __future__ import annotations

from typing import Any

from ffalora_cli.config.schema import FederationConfig, PrivacyConfig, ServerOptimizerConfig


def federation(**changes: Any) -> FederationConfig:
    values: dict[str, Any] = {
        "num_clients": 3,
        "cohort_size": None,
        "cohort_sampling": "full",
        "rounds": 1000,
        "local_steps": 10,
        "local_batch_size": 200,
        "local_optimizer": "sgd",
        "local_lr": 0.5,
        "local_momentum": 0.0,
        "local_weight_decay": 0.0,
        "weights": "uniform",
        "server_optimizer": ServerOptimizerConfig("sgd", 1.0, 0.0, 0.99, 1e-3),
        "downlink": "cached",
        "wire_dtype": "float32",
        "eval_every": 1,
        "eval_clients": False,
    }
    return FederationConfig(**(values | changes))


def privacy(**changes: Any) -> PrivacyConfig:
    """RDP, because it plans in milliseconds; the rules do not depend on the accountant."""
    values: dict[str, Any] = {
        "unit": "text",
        "epsilon_target": 6.0,
        "delta": 1e-5,
        "noise_multiplier": None,
        "max_grad_norm": 2.0,
        "accountant": "rdp",
        "calibration": "per_client",
        "noise": "reproducible",
    }
    return PrivacyConfig(**(values | changes))
