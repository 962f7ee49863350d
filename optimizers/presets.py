"""Names and settings of the published APTS that its library and its backends share.

A module of its own, because listing backends must not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench_apts.core.spec import Scalar

SOLVERS = ("first-order", "l-sr1", "tr-adam")
"""Models of the loss, each with its step."""

PRESETS: dict[str, dict[str, Scalar]] = {
    "paper": {},
    "reference": {"retries": 10, "consistency": "value", "capped": False},
    "2026": {
        "radius": 0.1, "min_radius": 0.01, "max_radius": 1.0, "shrink": 0.9, "grow": 1.2,
        "local_iterations": 3, "local_shrink": 0.6, "local_grow": 1.5, "local_low": 0.3,
        "local_high": 0.7, "memory": 3,
    },
}
"""``"paper"``: the method and the settings of arXiv 2502.05133, the defaults of
``PaperSettings``; ``"reference"``: with what the code behind its curves did besides;
``"2026"``: what a later version of that code changed."""

SAMPLING: dict[str, dict[str, Scalar]] = {"2026": {"growth": 1.5, "overlap": 0.33}}
"""What they change in how minibatches are cut, which is the harness's business."""

SEARCHES = ("drift", "bracket")
"""How APTS-S finds its radius."""

DIRECTIONS = ("adam", "muon")
"""What the local steps of APTS-S follow; "muon" is for hidden matrices alone."""

PRIOR = 0.01
"""Where the radius of APTS-S begins: within a factor of two of the best fixed one on CIFAR-10 at
8x8, MNIST and digits, 4 times too short for Friedman-1 (validation data, N = 4 to 16)."""

STOCHASTIC_PRESETS: dict[str, dict[str, Scalar]] = {
    "current": {},
    "2026-11": {"bits": 32, "longest_round": 16, "test_interval": 8, "start": 1e-3,
                "search": "bracket"},
}
"""``"current"``: the defaults of ``StochasticSettings``; ``"2026-11"``: those of the numbers of
November 2026 in docs/evidence."""

STOCHASTIC_BACKEND: dict[str, dict[str, Scalar]] = {
    "2026-11": {"minibatch": 16, "pooled": 128, "direction": "adam"}}
"""What they change in the harness: the minibatch, and which parameters go in Muon's direction."""


def preset_values(presets: Mapping[str, Mapping[str, Scalar]], preset: str,
                  explicit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a preset; explicit ones override it.

    Raises:
        ValueError: The preset is unknown.
    """
    if preset not in presets:
        raise ValueError(f"preset must be one of {', '.join(presets)}, not {preset!r}")
    return {**presets[preset], **explicit}
