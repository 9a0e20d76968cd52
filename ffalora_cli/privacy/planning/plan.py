"""The privacy plan: sampling, clip, noise and accountant of a run, fixed together before training.

Everything the mechanism does and the statement claims is read from one ``PrivacyPlan``. Epsilon
spent is a function of the plan and of the steps each client was charged for, of nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ffalora_cli.privacy.accounting.accountant import Accountant, Steps
from ffalora_cli.privacy.accounting.curves import Curves
from ffalora_cli.privacy.accounting.sampling import RELATIONS
from ffalora_cli.privacy.mechanism.adaptive_clip import gradient_noise
from ffalora_cli.privacy.mechanism.clipping import ClipKind
from ffalora_cli.privacy.planning.exposure import Participation
from ffalora_cli.privacy.planning.shared_rows import Holders
from ffalora_cli.types import Floats, Ints


@dataclass(frozen=True, eq=False)
class PrivacyPlan:
    """What a run may claim; arrays are ``[num_clients]``.

    Inside a client (``inside_clients``) a step is one local step on its own rows, and ``examples``
    is the number of its units. At unit ``client`` a step is one round and ``examples`` is the
    number of clients. With central noise every client is charged for every round (drawn or not) and
    ``expected_batch`` is the expected cohort; with local noise a client is charged for the rounds
    it takes part in, at rate 1, for replacing all of its rows by any others, which moves a clipped
    upload by up to 2 ``max_grad_norm``.
    """

    unit: Literal["row", "text", "column", "client"]
    accountant: Accountant
    max_grad_norm: float
    calibration: str
    noise: str  # "reproducible" | "secure"
    epsilon_target: float | None
    steps_per_round: int
    covered: tuple[str, ...]  # names of the tensors that are clipped and noised
    examples: Ints  # units that the rate is a share of
    sample_rate: Floats
    accounted_rate: Floats  # >= sample_rate: what epsilon is computed for
    expected_batch: Floats  # the denominator
    planned_rounds: Ints  # a client takes part in no more
    planned_steps: Ints
    noise_multiplier: Floats  # noise sd over sensitivity: what epsilon is computed for
    epsilon_planned: Floats
    curves: Curves  # epsilon by steps
    warnings: tuple[str, ...] = ()
    trials: float = 1.0  # expected runs of a random-stopping search; 1 = none
    trial_distribution: str = "geometric"
    trial_runs: int = 0  # that chose this run's settings, each with a ledger of its own
    trial_splits: tuple[tuple[Steps, ...], ...] = ()  # what they charged, as ``across`` reads it
    shared: Holders = ()
    clip: ClipKind = "flat"
    clip_quantile: float | None = None  # None: max_grad_norm stays; else it is where C starts
    clip_lr: float = 0.2
    count_noise: Floats | None = None  # sd on a step's count of unclipped examples (adaptive clip)
    client_noise: Literal["central", "local"] = "central"
    rows_per_unit: int | None = None  # most rows of a unit that a step uses; None: all
    participation: Participation | None = None  # None: every client pays for every round
    epsilon_claimed: float = 0.0  # planned, of the worst unit
    content: Literal["text", "image"] = "text"  # of a row, for the words of the claim

    @property
    def added_noise(self) -> Floats:
        """Noise sd on what is released (a step's sum, an upload) in units of ``max_grad_norm``.

        The noise multiplier itself, but where the clip adapts (more: the count of unclipped
        examples takes its share) and for local noise (twice: the sensitivity is 2C).
        """
        if self.client_noise == "local":
            return 2.0 * self.noise_multiplier
        if self.count_noise is None:
            return self.noise_multiplier
        return gradient_noise(self.noise_multiplier, self.count_noise)

    @property
    def inside_clients(self) -> bool:
        """Whether units are groups of rows of one client."""
        return self.unit != "client"

    @property
    def charges_everybody(self) -> bool:
        """Whether a round costs every client a step: being drawn or not is in the rate."""
        return self.unit == "client" and self.client_noise == "central"

    @property
    def num_clients(self) -> int:
        """Number of clients."""
        return len(self.examples)

    @property
    def relation(self) -> str:
        """What neighbouring data sets differ in."""
        return (
            "replace one" if self.client_noise == "local" else RELATIONS[self.accountant.sampling]
        )

    @property
    def bounds_one_row(self) -> bool:
        """Whether one row of a unit of several moves its clipped sum by ``max_grad_norm`` at most.

        A projection does not expand; scaling to nearly C does, and so do rows drawn within a unit
        (another one takes a drawn one's place) and the adaptive clip's count (it flips a bit).
        """
        projects = self.clip != "automatic" and self.clip_quantile is None
        return self.unit in ("text", "column") and projects and self.rows_per_unit is None

    def joint_epsilon(self, steps_taken: Ints, coarse: bool = False) -> float:
        """Epsilon of the worst unit that several clients hold, all of them composed; 0 without.

        Args:
            steps_taken: of each client ``[num_clients]``.
            coarse: quickly, on a coarse grid of privacy losses.
        """
        accountant = self.accountant.coarse if coarse else self.accountant
        return accountant.worst(self.steps_of_shared(steps_taken))

    def steps_of_clients(self, steps_taken: Ints) -> list[tuple[float, float, int]]:
        """(noise_multiplier, accounted rate, steps) of each client, as the accountants read it."""
        columns = (self.noise_multiplier, self.accounted_rate, steps_taken)
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def steps_of_shared(self, steps_taken: Ints) -> list[list[tuple[float, float, int]]]:
        """The steps of the clients that hold a unit together, one list a set of clients."""
        steps = self.steps_of_clients(steps_taken)
        return [[steps[client] for client in held] for held in self.shared]
