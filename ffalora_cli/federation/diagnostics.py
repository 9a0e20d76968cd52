"""Says what ``diagnostics=mechanism`` looks at: uploaded tensors, and the noise planned for them.

Noise on both factors has a product of its own (Sun et al., ICLR 2024, arXiv 2403.12313). Its size
follows from the planned standard deviation; the noise that was added is not looked at.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from ffalora_cli.federation.ranks import cut
from ffalora_cli.federation.server.mechanism import Mechanism, Pairs
from ffalora_cli.federation.server.release import ExampleRelease, LocalRelease
from ffalora_cli.federation.setting import Setting
from ffalora_cli.types import Floats, ServerState, Tensors


def measuring(setting: Setting, before: Tensors, number: int) -> Mechanism:
    """What is measured of an exchange: tensors that clients upload and have in common."""
    sent = [spec.name for spec in setting.manifest(number).specs]
    return Mechanism(
        pairs_of(setting), before, [name for name in sent if name not in setting.personal]
    )


def pairs_of(setting: Setting) -> Pairs:
    """The pairs of a form that has them, where no factor is a client's own."""
    form = setting.network.form
    if not form.pair or {*form.pair} & {*setting.method.personal}:
        return {}
    left, right = form.pair
    return {s.name: (f"{s.name}.{left}", f"{s.name}.{right}") for s in setting.network.sites}


def noise_sums(
    setting: Setting,
    state: ServerState,
    before: Tensors,
    number: int,
    ids: np.ndarray,
    weights: np.ndarray,
) -> dict[str, float]:
    """Expected squares of ``z_B z_A`` and of ``z_B A + B z_A`` in an upload, all sites together.

    With independent entries of standard deviation s, ``E|z_B z_A|^2 = s^4 d_out rank d_in``,
    ``E|z_B A|^2 = s^2 d_out |A|^2`` and ``E|B z_A|^2 = s^2 d_in |B|^2``; the mean over clients is
    weighted as their uploads are. A factor that is not trained has no noise.

    Args:
        setting: of the federation.
        state: before the exchange.
        before: global tensors the clients started from.
        number: of the exchange.
        ids: of the clients whose uploads count ``[clients]``.
        weights: of them, sum 1.

    Returns:
        Nothing without privacy, without pairs, or where the plan does not tell s.
    """
    pairs, sd = pairs_of(setting), upload_noise(setting, state, number, ids)
    if sd is None or not pairs or not len(ids):
        return {}
    trained = {spec.name for spec in setting.trainable(number)}
    product = linear = 0.0
    for rows, rank in setting.by_rank(ids):
        shapes = setting.shapes(rank)
        square = float(weights[rows] @ sd[rows] ** 2)
        fourth = float(weights[rows] @ sd[rows] ** 4)
        for left, right in pairs.values():
            b, a = (cut(before[n].double(), shapes[n]) for n in (left, right))
            noised_b, noised_a = left in trained, right in trained
            if noised_b and noised_a:
                product += fourth * b.shape[0] * a.numel()
            linear += square * noised_b * b.shape[0] * float(a.square().sum())
            linear += square * noised_a * a.shape[1] * float(b.square().sum())
    return {"product": product, "linear": linear}


def upload_noise(
    setting: Setting, state: ServerState, number: int, ids: np.ndarray
) -> Floats | None:
    """Planned noise sd of every entry of the clients' uploads ``[clients]``.

    The noise of a local step goes through the optimiser, which is linear in it for SGD (momentum
    and decay included); what it does to later gradients is not counted.

    Returns:
        None where nothing is noised in uploads, and for AdamW, whose steps are not linear in it.
    """
    release, optimizer = setting.release(number), setting.optimizer(setting.place(number)[0])
    if isinstance(release, LocalRelease):
        return release.plan.added_noise[ids] * release.plan.max_grad_norm
    if not isinstance(release, ExampleRelease) or optimizer.name != "sgd":
        return None
    private = release.privacy(ids, state)
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    stepping, response = optimizer.build([weight]), []
    for step in range(setting.config.local_steps):  # an impulse at the first
        weight.grad = torch.full_like(weight, float(step == 0))
        stepping.step()
        response.append(weight.item())
    return private.noise_sd / private.expected_batch * math.hypot(*response)
