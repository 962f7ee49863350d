"""Settings of ``variant="stochastic"``."""

from __future__ import annotations

from dataclasses import dataclass

from bench_apts.optimizers.apts.search import LARGEST, SMALLEST


@dataclass(frozen=True)
class StochasticSettings:
    """Settings of ``variant="stochastic"``; one default for every problem and every N.

    Attributes:
        samples: Budget: samples that a rank will process, on average over the ranks, every pass
            counted. The schedule runs over it.
        radius: A fixed radius, without search or adaptation; 0 lets the method find its own.
        start: Where the search for the radius begins: from below, since a first step that is
            too long cannot be told from a good one by a single noisy test. A hundred times off
            either way costs little on easy problems and points on hard ones (measured).
        judge: Whether steps are judged on fresh minibatches; False keeps every step.
        schedule: Whether steps shrink linearly to 0 over the second half of the budget.
        longest_round: Upper bound on H, the local steps between two all-reduces; a power of 2.
        rounds_per_length: Rounds before H doubles.
        sharing: Share of the first moment that a round of more than one local step replaces by
            what the mean displacement says of all ranks' moments; 0 leaves it local.
        beta1: Decay of Adam's first moment.
        beta2: Decay of Adam's second moment.
    """

    samples: int
    radius: float = 0.0
    start: float = 1e-3
    judge: bool = True
    schedule: bool = True
    longest_round: int = 16
    rounds_per_length: int = 16
    sharing: float = 0.5
    beta1: float = 0.9
    beta2: float = 0.99

    def __post_init__(self) -> None:
        if not self.samples >= 1:  # nor NaN
            raise ValueError(f"samples must be a positive number, not {self.samples}")
        if not self.radius >= 0:
            raise ValueError(f"radius must be a number of at least 0, but is {self.radius}")
        if not SMALLEST <= self.start <= LARGEST:
            raise ValueError(f"start must lie between {SMALLEST} and {LARGEST}, but is "
                             f"{self.start}")
        if not 0 <= self.sharing <= 1:
            raise ValueError(f"sharing must lie between 0 and 1, but is {self.sharing}")
        if self.longest_round < 1 or self.longest_round & (self.longest_round - 1):
            raise ValueError(f"longest_round must be a power of 2, not {self.longest_round}")
        if self.rounds_per_length < 1:
            raise ValueError("rounds_per_length must be at least 1")
