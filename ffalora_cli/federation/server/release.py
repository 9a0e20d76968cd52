"""Applies the mechanism of a private release, at a client or at the server, with its noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from ffalora_cli import keys
from ffalora_cli.engine.job import ExamplePrivacy, LocalResult
from ffalora_cli.engine.stacked.round_tensors import views
from ffalora_cli.federation.round_metrics import of_clients
from ffalora_cli.federation.wire.ledger import CommunicationLedger
from ffalora_cli.federation.wire.payload import pack
from ffalora_cli.keys import Key
from ffalora_cli.metric_keys import CLIP, UNCLIPPED
from ffalora_cli.privacy.mechanism import example_level
from ffalora_cli.privacy.mechanism.adaptive_clip import next_clip, released_share
from ffalora_cli.privacy.mechanism.client_level import clip_updates, private_mean
from ffalora_cli.privacy.planning.plan import PrivacyPlan
from ffalora_cli.types import Dense, ServerState, Stack, Tensors

SEAMS = ("ExampleRelease.privacy",)


def check_round(plan: PrivacyPlan, model: torch.nn.Module, trained: Iterable[str]) -> None:
    """Before every private round: what is trained is covered, what is not is frozen.

    Raises:
        RuntimeError: a method or model broke the plan; nothing of the round has been released.
    """
    uncovered = set(trained) - set(plan.covered)
    if uncovered:
        raise RuntimeError(f"{sorted(uncovered)} is not covered by the privacy plan")
    thawed = [name for name, p in model.named_parameters() if p.requires_grad]
    if thawed:
        raise RuntimeError(f"{thawed[:3]} of the frozen model can be trained: not covered")


@dataclass(frozen=True)
class ExampleRelease:
    """Example-level DP-SGD in every client, and the clip it uses.

    Attributes:
        plan: of a unit inside a client.
        secret: key of the noise.
    """

    plan: PrivacyPlan
    secret: Key

    def clip(self, state: ServerState) -> float:
        """C of the round after ``state``."""
        return self.plan.max_grad_norm if state.max_grad_norm is None else state.max_grad_norm

    def privacy(self, ids: np.ndarray, state: ServerState) -> ExamplePrivacy:
        """What the engine needs to train these clients privately."""
        clip = self.clip(state)
        return ExamplePrivacy(
            max_grad_norm=clip,
            noise_sd=self.plan.added_noise[ids] * clip,
            expected_batch=self.plan.expected_batch[ids],
            secret=self.secret,
            clip=self.plan.clip,
        )


@dataclass(frozen=True)
class LocalRelease:
    """Client-level privacy without a trusted server: every client noises its whole upload.

    Attributes:
        plan: with unit ``client`` and local noise; each client pays for its own participations.
        secret: key of the noise.
    """

    plan: PrivacyPlan
    secret: Key

    def uploads(
        self,
        round: int,
        ids: np.ndarray,
        before: Tensors,
        trained: Stack,
        extents: Mapping[str, np.ndarray] | None = None,
    ) -> Stack:
        """Clip each client's update by one norm over all its tensors, add its own noise.

        Args:
            round: from 1.
            ids: of the clients ``[clients]``.
            before: global tensors the clients started from.
            trained: ``[clients, ...]`` by name: all that is about to be sent.
            extents: as in ``LocalJob``.

        Returns:
            The same names and shapes; what any server does with them is post-processing.
        """
        clip = self.plan.max_grad_norm
        clipped, _ = clip_updates({n: v - before[n] for n, v in trained.items()}, clip)
        layout = {n: tuple(v.shape[1:]) for n, v in clipped.items()}
        drawn = example_level.step_noise(
            layout,
            ids.tolist(),
            self.plan.added_noise[ids] * clip,
            keys.derive(self.secret, "upload noise"),
            round,
            0,
            extents=extents,
        )
        # In the noise's own precision, and rounded once: see ``keys.SecureKey``.
        return {
            n: (before[n].to(noise.dtype) + clipped[n] + noise).float()
            for n, noise in views(drawn, layout).items()
        }


@dataclass(frozen=True)
class ClientRelease:
    """The central mechanism of one run.

    Attributes:
        plan: with unit ``client``: noise multiplier, clip and expected cohort are the same for all.
        secret: key of the noise.
    """

    plan: PrivacyPlan
    secret: Key

    def add(self, total: Tensors, before: Tensors, uploads: Stack) -> Tensors:
        """``total`` (empty at first) plus a chunk's clipped updates.

        Args:
            total: sums by name so far.
            before: global tensors the chunk started from.
            uploads: ``[clients, ...]`` by name.
        """
        updates = {name: value - before[name] for name, value in uploads.items()}
        clipped, _ = clip_updates(updates, self.plan.max_grad_norm)
        sums = {name: value.double().sum(0) for name, value in clipped.items()}
        return {name: value + total.get(name, 0.0) for name, value in sums.items()}

    def mean(self, round: int, total: Tensors, before: Tensors) -> Tensors:
        """The released global tensors; for an empty cohort ``total`` holds zeros."""
        change = private_mean(
            {name: value.to(torch.float32) for name, value in total.items()},
            float(self.plan.added_noise[0]),
            self.plan.max_grad_norm,
            float(self.plan.expected_batch[0]),
            self.secret,
            round,
        )
        return {name: before[name] + value for name, value in change.items()}


def release_of(
    plan: PrivacyPlan | None, secret: Key
) -> ExampleRelease | LocalRelease | ClientRelease | None:
    """The mechanism of a plan."""
    if plan is None:
        return None
    if plan.inside_clients:
        return ExampleRelease(plan, secret)
    return (LocalRelease if plan.client_noise == "local" else ClientRelease)(plan, secret)


def adapt_clip(
    release: ExampleRelease | LocalRelease | ClientRelease | None,
    communication: CommunicationLedger,
    round: int,
    ids: np.ndarray,
    results: list[LocalResult],
    state: ServerState,
) -> tuple[ServerState, dict[str, float]]:
    """Release the shares of unclipped examples and move C (``privacy.mechanism.adaptive_clip``).

    C goes down to every client of the cohort and its share up, four bytes each and counted.

    Returns:
        State with the next round's C, and metrics; both untouched where the clip is fixed.
    """
    if not isinstance(release, ExampleRelease) or release.plan.clip_quantile is None:
        return state, {}
    plan, clip = release.plan, release.clip(state)
    metrics = {CLIP: clip}
    if not len(ids):
        return state, metrics
    assert plan.count_noise is not None and plan.clip_quantile is not None
    shares = released_share(
        of_clients([r.units - r.clipped for r in results], ids),
        of_clients([r.units for r in results], ids),
        ids,
        round,
        plan.steps_per_round,
        plan.expected_batch[ids],
        plan.count_noise[ids],
        release.secret,
    )
    sent = torch.from_numpy(shares).float()  # as the server reads it
    down = Dense("max_grad_norm", "setup", torch.tensor([[clip]]))
    up = Dense("unclipped_share", "setup", sent[:, None])
    communication.add(round, "downlink", ids, pack([down], "float32").lines)
    communication.add(round, "uplink", ids, pack([up], "float32").lines)
    metrics[UNCLIPPED] = float(sent.mean())
    after = next_clip(clip, sent.double().numpy(), plan.clip_quantile, plan.clip_lr)
    return replace(state, max_grad_norm=after), metrics
