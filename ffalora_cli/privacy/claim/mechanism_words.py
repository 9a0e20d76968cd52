"""Describes the mechanism of a plan, in words and numbers: clip, noise, who adds it."""

from __future__ import annotations

from typing import Any

from ffalora_cli.privacy.planning.plan import Floats, PrivacyPlan

CLIPS = {
    "flat": "one norm over all covered tensors, cut to max_grad_norm",
    "per_layer": "each layer cut to max_grad_norm / sqrt(layers); together max_grad_norm",
    "automatic": "every gradient scaled by max_grad_norm / (norm + 0.01), below max_grad_norm",
}
GROUPS = "; a row's gradient first, then the sum over a unit's rows"
LOCAL = (
    "every client clips its whole upload and adds the noise itself, so the server need not be "
    "trusted; sensitivity 2 max_grad_norm (its rows replaced by any others), and what stays with "
    "the client (personal tensors) is not released"
)
CENTRAL = "the server clips every upload and adds noise once to their sum; it is trusted with them"
EXAMPLE = "every client adds noise to the sum of clipped gradients of each local step"
ADAPTIVE = (
    "max_grad_norm is where the clip starts; it follows a quantile of the gradient norms, and the "
    "noised count of unclipped units behind it is paid out of the same noise multiplier"
)


def mechanism(plan: PrivacyPlan) -> dict[str, Any]:
    """Clip rule, sensitivity, who adds how much noise, as JSON values under stable keys.

    ``noise_on_release`` is the noise sd on a step's sum (unit ``client``: on the sum of uploads, or
    with local noise on each), in units of ``max_grad_norm``; smallest and largest client.
    """
    local = plan.client_noise == "local"
    where = EXAMPLE if plan.inside_clients else LOCAL if local else CENTRAL
    adaptive = None
    if plan.clip_quantile is not None and plan.count_noise is not None:
        adaptive = {
            "quantile": plan.clip_quantile,
            "lr": plan.clip_lr,
            "count_noise": _range(plan.count_noise),
            "note": ADAPTIVE,
        }
    return {
        "clip": plan.clip,
        "clip_note": CLIPS[plan.clip] + (GROUPS if plan.unit in ("text", "column") else ""),
        "sensitivity": (2.0 if local else 1.0) * plan.max_grad_norm,
        "noise_by": where,
        "noise_on_release": _range(plan.added_noise),
        "adaptive_clip": adaptive,
    }


def _range(values: Floats) -> list[float]:
    return [float(values.min()), float(values.max())]
