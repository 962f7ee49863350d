"""Settings of the published APTS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench_apts.optimizers.apts.radius import RadiusRule
from bench_apts.optimizers.presets import PRESETS, SOLVERS


@dataclass(frozen=True)
class PaperSettings:
    """Settings of ``variant="paper"``; the defaults are those behind the paper's experiments.

    Attributes:
        radius: Initial trust-region radius Δ₀.
        min_radius: Lower bound of the radius.
        max_radius: Upper bound of the radius.
        accept: η₁, the smallest ratio ρ of a step that is kept, positive and at most 1/4.
        shrink: Factor on the radius where ρ < 1/4.
        grow: Factor on the radius where ρ > 3/4.
        local_iterations: H; 0 leaves out the local phase, which makes a plain data-parallel
            trust-region method of it.
        local_shrink: Factor on the local phase's own radius where its ρ < ``local_low``.
        local_grow: Factor on it where its ρ > ``local_high``.
        local_low: See ``local_shrink``.
        local_high: See ``local_grow``.
        norm: ``"l2"``: local radius Δ/N, local steps and reductions are summed; ``"linf"``:
            local radius Δ, they are averaged.
        consistency: ``"gradient"``: the correction enters local values and gradients, as the
            paper's formula says; ``"value"``: values only, as in the code behind its curves.
        capped: Whether a local displacement, and so the combined step, stays within the radius;
            False lets a local phase's own radius grow up to ``max_radius`` and bounds each step
            alone, which is how the code behind the paper's curves could leave the radius.
        global_pass: Whether an outer iteration ends with one trust-region iteration on the
            global loss.
        solver: Model and step of the local iterations: ``"first-order"``, ``"l-sr1"`` (limited
            memory, step by orthonormal basis) or ``"tr-adam"`` (Adam's direction).
        global_solver: The same for the global pass.
        memory: Pairs that L-SR1 holds.
        retries: How often a trust-region iteration, local or global, tries again with a step
            shorter by ``shrink`` (``local_shrink``) where its step is refused; 0 keeps to the
            cost model. Each try is a forward pass (a local one before the last iteration a
            backward pass too) and a global one an all-reduce of one float; the global ones stop
            at ``min_radius``.
        window: A step is accepted if it lowers the loss, by a share of the prediction, below
            the largest of the current loss and of the ``window`` − 1 losses accepted before
            (NAPTS, arXiv 2605.14860); 1 is the ordinary, monotone rule. The radius follows the
            ordinary ratio.
    """

    radius: float = 0.01
    min_radius: float = 1e-3
    max_radius: float = 4.0
    accept: float = 0.25
    shrink: float = 0.5
    grow: float = 2.0
    local_iterations: int = 5
    local_shrink: float = 0.5
    local_grow: float = 2.0
    local_low: float = 0.25
    local_high: float = 0.75
    norm: str = "l2"
    consistency: str = "gradient"
    capped: bool = True
    global_pass: bool = True
    solver: str = "first-order"
    global_solver: str = "first-order"
    memory: int = 5
    retries: int = 0
    window: int = 1

    def __post_init__(self) -> None:
        for name, known in (("norm", ("l2", "linf")), ("consistency", ("gradient", "value")),
                            ("solver", SOLVERS), ("global_solver", SOLVERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not "
                                 f"{getattr(self, name)!r}")
        if self.local_iterations < 0 or (self.local_iterations == 0 and not self.global_pass):
            raise ValueError("need local iterations, a global pass, or both")
        if not 0 < self.min_radius <= self.radius <= self.max_radius:
            raise ValueError(f"radius {self.radius} is not a positive number within "
                             f"[{self.min_radius}, {self.max_radius}]")
        if self.memory < 1 or self.window < 1 or self.retries < 0:
            raise ValueError("memory and window must be at least 1, retries at least 0")
        _ = self.rule, self.local_rule  # which complain about their numbers

    @property
    def preconditions(self) -> bool:
        """Whether there is a local phase."""
        return self.local_iterations > 0

    @property
    def rule(self) -> RadiusRule:
        """Acceptance of outer steps and of the global pass, and what the radius makes of it."""
        return RadiusRule(accept=self.accept, shrink=self.shrink, grow=self.grow,
                          smallest=self.min_radius, largest=self.max_radius)

    @property
    def local_rule(self) -> RadiusRule:
        """How a local phase's own radius follows its ratios."""
        return RadiusRule(low=self.local_low, high=self.local_high, shrink=self.local_shrink,
                          grow=self.local_grow, smallest=self.min_radius,
                          largest=self.max_radius)


def paper_settings(preset: str = "paper", **explicit: Any) -> PaperSettings:
    """Makes settings from a preset, one of ``PRESETS``; explicit ones override it.

    Raises:
        ValueError: The preset is unknown, or a value is out of its range.
        TypeError: A setting is unknown.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {preset!r}")
    chosen: dict[str, Any] = PRESETS[preset] | explicit
    return PaperSettings(**chosen)
