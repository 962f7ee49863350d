"""Settings of ``variant="stochastic"``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench_apts.optimizers.apts.radius_search import LARGEST, SMALLEST
from bench_apts.optimizers.presets import PRIOR, SEARCHES, STOCHASTIC_PRESETS, preset_values
from bench_apts.optimizers.quantized_layout import BITS


@dataclass(frozen=True)
class StochasticSettings:
    """Settings of ``variant="stochastic"``; one default for every problem and every N.

    Attributes:
        samples: Budget: samples that a rank will process, on average over the ranks, every pass
            counted. The schedule runs over it. None where it is not known: steps keep their
            length until ``APTS.finish``.
        radius: A fixed radius, without search or adaptation; 0 lets the method find its own.
        start: The radius that the search begins with.
        search: ``"drift"``: a radius that stays where it begins unless the way of the weights
            speaks against it (``RadiusDrift``); ``"bracket"``: a start-up from below, 1e-3 say,
            by tests (``RadiusSearch``).
        judge: Whether steps are judged on fresh minibatches; False keeps every step.
        schedule: Whether steps shrink linearly to 0 over the second half of the budget.
        longest_round: Upper bound on H, the local steps between two averages; a power of 2.
        rounds_per_length: Rounds before H doubles.
        bits: Of a number in the message of a displacement, one of ``BITS``; 32 for all-reduces
            of floats. Messages of rounds of one step, gradients, have at least 8.
        block: Numbers of a message of fewer than 32 bits that share a step (``quantized_mean``).
        test_interval: Local steps between two tests once a fifth of the budget is used up; 4
            while ``"bracket"`` starts up, else 8 until there. 0 for 128 / ``longest_round``, 8 to
            32: the shorter the rounds, the larger a share of the samples do frequent tests take.
        sharing: Share of the first moment that a round of more than one local step replaces by
            what the mean displacement says of all ranks' moments; 0 leaves it local.
        beta1: Decay of Adam's first moment.
        beta2: Decay of Adam's second moment.
    """

    samples: int | None = None
    radius: float = 0.0
    start: float = PRIOR
    search: str = "drift"
    judge: bool = True
    schedule: bool = True
    longest_round: int = 4
    rounds_per_length: int = 16
    bits: int = 4
    block: int = 256
    test_interval: int = 0
    sharing: float = 0.5
    beta1: float = 0.9
    beta2: float = 0.99

    def __post_init__(self) -> None:
        if self.samples is not None and not self.samples >= 1:  # nor NaN
            raise ValueError(f"samples must be a positive number, not {self.samples}")
        if not self.radius >= 0:
            raise ValueError(f"radius must be a number of at least 0, but is {self.radius}")
        if not SMALLEST <= self.start <= LARGEST:
            raise ValueError(f"start must lie between {SMALLEST} and {LARGEST}, but is "
                             f"{self.start}")
        if self.search not in SEARCHES:
            raise ValueError(f"search must be one of {', '.join(SEARCHES)}, not {self.search!r}")
        if not 0 <= self.sharing <= 1:
            raise ValueError(f"sharing must lie between 0 and 1, but is {self.sharing}")
        if self.longest_round < 1 or self.longest_round & (self.longest_round - 1):
            raise ValueError(f"longest_round must be a power of 2, not {self.longest_round}")
        if self.rounds_per_length < 1:
            raise ValueError("rounds_per_length must be at least 1")
        if self.bits not in BITS:
            raise ValueError(f"bits must be one of {', '.join(map(str, BITS))}, not {self.bits}")
        if self.block < 8 or self.block % 8:
            raise ValueError(f"block must be a multiple of 8, not {self.block}")
        if self.test_interval < 0:
            raise ValueError(f"test_interval must be at least 0, not {self.test_interval}")

    @property
    def late_interval(self) -> int:
        """Local steps between two tests once a fifth of the budget is used up."""
        return self.test_interval or min(32, max(8, 128 // self.longest_round))


def stochastic_settings(preset: str = "current", **explicit: Any) -> StochasticSettings:
    """Make settings from a preset, one of ``STOCHASTIC_PRESETS``; explicit ones override it.

    Raises:
        ValueError: The preset is unknown, or a value is out of its range.
        TypeError: A setting is unknown.
    """
    return StochasticSettings(**preset_values(STOCHASTIC_PRESETS, preset, explicit))
