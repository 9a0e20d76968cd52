"""Tests in ten seconds that this machine computes what it should: four checks, no data.

Every check compares the machinery with something independent of it: the stacked engine with
Opacus on one client at a time, a checkpoint with the tensors it was made from, noise with its
distribution, accountants with published values.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ffalora_cli import keys
from ffalora_cli.config.schema import AdapterConfig
from ffalora_cli.data.encode import Encoded
from ffalora_cli.engine.build import build_engine
from ffalora_cli.engine.job import ExamplePrivacy, LocalJob, LocalOptimizer, stack_step
from ffalora_cli.methods import registry
from ffalora_cli.models.backbone import Backbone
from ffalora_cli.models.network import Network, build_network
from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.mechanism import batches, example_level
from ffalora_cli.records.checkpoint import STATE, Checkpoint, CheckpointFolder
from ffalora_cli.tasks.targets import Targets
from ffalora_cli.tasks.text_classification import TASK

CLIENTS, ROWS, BATCH, STEPS = 2, 12, 5, 2
TOLERANCE = 1e-3  # relative; both engines agree within 1e-5 on fp32 that is fp32
DRAWS = 200_000
ORACLE = {"pld": 1.828237, "rdp": 2.101365}
"""Epsilon of noise multiplier 1, rate 0.01, 1000 steps, delta 1e-5: dp-accounting 0.6 (grid 1e-5)
and Opacus 1.6."""


@dataclass(frozen=True)
class Result:
    """Outcome of one check, in a line."""

    name: str
    passed: bool
    said: str


def self_test(device: str = "cpu") -> list[Result]:
    """Run every check; one that raises has failed.

    Args:
        device: on which the round is trained and noise is drawn.
    """
    results = []
    for check in (_gradients, _noise, _checkpoint, _epsilon):
        try:
            passed, said = check(device)
        except Exception as error:  # whatever is broken on this machine is the finding
            passed, said = False, f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        results.append(Result(check.__name__.removeprefix("_"), passed, said))
    return results


def _gradients(device: str) -> tuple[bool, str]:
    """A clipped round of two clients: all at once against one by one with Opacus."""
    network = _tiny_network(device)
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 12, CLIENTS * ROWS)
    keyed = np.arange(len(lengths), dtype=np.uint64)
    examples = Encoded(
        ids=rng.integers(5, 60, lengths.sum()).astype(np.int32),
        type_ids=None,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        targets=Targets(rng.integers(0, 3, len(lengths))),
        hashes=keyed,
        text_keys=keyed,
        sequence_keys=keyed,
        pad_id=0,
        fingerprint="self-test",
    )
    job = _round(network)
    stacked, reference = (
        build_engine(name, network, examples, 64).train(job) for name in ("stacked", "reference")
    )
    gap = max(
        float((stacked.trained[name] - alone).norm() / alone.norm())
        for name, alone in reference.trained.items()
    )
    cut = float(reference.clipped.sum() / reference.examples.sum())
    said = f"a clipped round differs by {gap:.1e} from Opacus, one client at a time ({device})"
    return gap < TOLERANCE and 0.0 < cut < 1.0, said


def _tiny_network(device: str) -> Network:
    from transformers import BertConfig, BertForSequenceClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=60,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=40,
            num_labels=3,  # type: ignore[call-arg]  # a keyword of its base class
            initializer_range=0.15,  # the usual 0.02 makes gradients too small to be clipped
        )
        model = BertForSequenceClassification(config).eval().requires_grad_(False).to(device)
    adapter = AdapterConfig(4, 8.0, "query_value", "kaiming", 0, 0.0)
    backbone = Backbone(model, "self-test", (), TASK)
    return build_network(backbone, adapter, ("attention.self.query", "attention.self.value"))


def _round(network: Network) -> LocalJob:
    """Some steps of clients that own disjoint rows, clipped; noise would hide small differences."""
    secret = keys.derive(0, "self-test")
    owned = np.arange(CLIENTS * ROWS).reshape(CLIENTS, ROWS)
    steps = [
        stack_step(
            [
                batches.poisson_batch(secret, c, 1, step, owned[c], BATCH / ROWS)
                for c in range(CLIENTS)
            ]
        )
        for step in range(STEPS)
    ]
    factors = registry.get("ffa_lora").exchange(1).trained
    trained = [spec.name for spec in network.specs if spec.factor in factors]
    start = {n: network.initial[n].expand(CLIENTS, *network.initial[n].shape) for n in trained}
    batch = np.full(CLIENTS, float(BATCH))
    return LocalJob(
        round=1,
        clients=np.arange(CLIENTS),
        batches=steps,
        start=start,
        common={n: v for n, v in network.initial.items() if n not in start},
        trainable=tuple(trained),
        optimizer=LocalOptimizer("sgd", 0.5),
        privacy=ExamplePrivacy(0.6, np.zeros(CLIENTS), batch, secret),
    )


def _noise(device: str) -> tuple[bool, str]:
    """Mean and spread of keyed draws, and that another key draws something else."""
    sd, key = np.array([2.0, 2.0]), keys.derive(0, "self-test")
    drawn = example_level.step_noise({"x": (DRAWS,)}, [0, 1], sd, key, 1, 0, device).double().cpu()
    mean, spread = float(drawn[0].mean()), float(drawn[0].std())
    # Five standard deviations of the estimates: fails by chance once in a million.
    straight = abs(mean) < 5 * 2 / DRAWS**0.5 and abs(spread - 2) < 5 * 2 / (2 * DRAWS) ** 0.5
    product = float((drawn[0] * drawn[1]).mean())
    apart = abs(product) < 5 * 4 / DRAWS**0.5
    said = f"{DRAWS:,} draws of sd 2: mean {mean:.4f}, sd {spread:.4f}; clients' draws unrelated"
    return straight and apart, said


def _checkpoint(device: str) -> tuple[bool, str]:
    """Written, verified and read back bit for bit; a flipped byte is noticed."""
    tensors = {"a": torch.randn(3, 5), "b": torch.arange(4), "c": torch.tensor([float("inf")])}
    with tempfile.TemporaryDirectory(prefix="ffalora-doctor-") as folder:
        run = Path(folder)
        CheckpointFolder(run).write(Checkpoint(1, tensors, {}, {}, {}, {}))
        back = CheckpointFolder(run).newest()
        same = back is not None and all(torch.equal(back.tensors[n], v) for n, v in tensors.items())
        (file,) = run.glob(f"*/*/{STATE}")
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        noticed = CheckpointFolder(run).newest() is None
    return same and noticed, "read back bit for bit; a flipped bit is noticed"


def _epsilon(device: str) -> tuple[bool, str]:
    """Both accountants against values computed elsewhere."""
    found = {name: Accountant(name, 1e-5).epsilon([(1.0, 0.01, 1000)]) for name in ORACLE}
    good = all(abs(found[name] - value) < 1e-3 * value for name, value in ORACLE.items())
    values = ", ".join(f"{n.upper()} {v:.4f} (is {ORACLE[n]:.4f})" for n, v in found.items())
    return good, f"noise 1, rate 0.01, 1,000 steps, delta 1e-5: {values}"
