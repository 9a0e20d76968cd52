"""Sets what ``engine.precision`` means for matrix products.

``tf32`` is a switch of torch's for the whole process: the run that was built last decides. The
products that clip and sum per-example gradients are kept out of it: there its eleven bits would
round a gradient after its norm was taken, and make it longer than the clip.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.config.rules import check_precision
from ffalora_cli.models.families.quantised import check_package


def set_precision(precision: str, device: str) -> None:
    """Products of fp32 matrices in TF32 or, whatever was set before, in fp32.

    Args:
        precision: ``engine.precision``.
        device: as ``pick_device`` returns it; where it is a GPU, torch's current one.

    Raises:
        ConfigError: the device has no TF32, or a package is missing.
    """
    check_precision(precision, device)
    check_package(precision)
    if precision == "tf32" and not torch.cuda.is_tf32_supported():
        raise ConfigError(
            f"engine.precision=tf32: {torch.cuda.get_device_name()} has no TF32 units; "
            "use engine.precision=fp32"
        )
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"  # of convolutions; torch's default is on


@contextmanager
def exact_products() -> Iterator[None]:
    """Products of fp32 matrices in fp32 for a while, whatever ``engine.precision`` is."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
