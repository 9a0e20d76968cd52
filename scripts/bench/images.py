"""Models of images beside PEFT + Opacus: one private round at 112 pixels, fp32, one thread.

    python -m scripts.bench.images                      ViT-S/16 and DINOv2-S/14, 2 clients x 8
    python -m scripts.bench.images --models dinov2_small --reps 5

Random weights; FFA-LoRA on query and value. Both run in turns; ratios are of processor seconds
within one repetition. Exit code 1 when an update is not the peer's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
import torch

from ffalora_cli.config.schema import AdapterConfig
from ffalora_cli.data.images import DIGEST, Images
from ffalora_cli.engine.stacked.engine import StackedEngine
from ffalora_cli.models.backbone import Backbone
from ffalora_cli.models.families.vision import allow_any_size
from ffalora_cli.models.network import build_network
from ffalora_cli.tasks.image_classification import TASK
from ffalora_cli.tasks.targets import Targets
from scripts.bench.contestants import update_of
from scripts.bench.peers import PeftOpacus
from scripts.bench.workload import Profile, make_job, rows_of

SMALL = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "num_labels": 10}
MODELS = {
    "vit_small": ("ViT", SMALL | {"intermediate_size": 1536, "patch_size": 16}),
    "dinov2_small": ("Dinov2", SMALL | {"mlp_ratio": 4, "patch_size": 14, "image_size": 518}),
}
SIDE, TOLERANCE = 112, 1e-4


def main(argv: list[str] | None = None) -> int:
    """Measure one model after the other; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(MODELS), help="some of them, with commas")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8, help="images of a client in a step")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    profile = Profile(args.clients, args.batch, 1)
    rows = [measured(name, profile, args.reps) for name in args.models.split(",")]
    print("\n".join(map(json.dumps, rows)))
    return int(any(not row["difference"] <= TOLERANCE for row in rows))


def measured(name: str, profile: Profile, reps: int) -> dict[str, Any]:
    """Processor seconds of both, the median ratio, and how far the updates are apart."""
    import transformers

    family, settings = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**settings)
    model = getattr(transformers, f"{family}ForImageClassification")(config)
    allow_any_size(model)
    backbone = Backbone(model.eval().requires_grad_(False), "random", (), TASK)
    adapter = AdapterConfig(8, 8.0, "query_value", "kaiming", 0, 0.0)
    network = build_network(backbone, adapter, ("attention.q_proj", "attention.v_proj"))
    examples = noise(rows_of(profile).size, (SIDE // settings["patch_size"]) ** 2 + 1)
    job = make_job(network, profile, "ffa", True)
    engine, peer = StackedEngine(network, examples, 2048), PeftOpacus(network, examples, "fp32")
    seconds: list[tuple[float, float]] = []
    for _ in range(reps + 1):  # the first warms up
        start = time.process_time()
        ours = engine.train(job).trained
        middle = time.process_time()
        theirs = peer.train(job)
        seconds.append((middle - start, time.process_time() - middle))
    one, other = update_of(job, ours), update_of(job, theirs)
    cost = np.array(seconds[1:])
    return {
        "model": name,
        "stacked_s": round(float(np.median(cost[:, 0])), 3),
        "peft_opacus_s": round(float(np.median(cost[:, 1])), 3),
        "ratio": round(float(np.median(cost[:, 0] / cost[:, 1])), 3),
        "difference": float((one - other).norm() / other.norm()),
    }


def noise(count: int, tokens: int) -> Images:
    """Random images and labels."""
    drawn = np.random.default_rng(0)
    keys = np.arange(count, dtype=np.uint64)
    return Images(
        targets=Targets(drawn.integers(0, SMALL["num_labels"], count)),
        hashes=keys,
        text_keys=keys,
        pixels=drawn.integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.uint8),
        places=np.arange(count),
        digests=np.zeros((count, DIGEST), np.uint8),
        tokens=tokens,
        scale=1 / 255,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        fingerprint="bench",
    )


if __name__ == "__main__":
    sys.exit(main())
