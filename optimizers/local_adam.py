"""Local-SGD-Adam: the ablation that shows what the trust region adds to APTS-S.

Stich, arXiv 1805.09767, with Adam's steps in the place of SGD's: H local steps per rank, then the
weights are averaged. H and its growth, messages, batches, Adam's decays, the shrinking of
steps and the sharing of first moments are those of ``apts``, whose code runs here. The radius is
a learning rate that tuning finds, no point is judged, and no step is ever rejected.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench_apts.contract import Backend, Hyperparameter, LogUniform, Loss, Stepper, World
from bench_apts.optimizers.trust_region import (
    SHORT_ROUNDS,
    SOURCES,
    STOCHASTIC,
    apts,
    per_rank,
    stochastic,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

_TRUST_REGION = ("radius", "start", "judge", "test_interval", "search")


def build(
    model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World
) -> Stepper:
    """Build the stepper of ``apts`` with a radius that stays at the learning rate."""
    shared = {key: value for key, value in values.items() if key != "lr"}
    return stochastic(model, loss, shared | {"radius": values["lr"], "judge": False}, world)


backend = Backend(
    name="local-adam",
    summary="Local-SGD-Adam: the local phases of apts without its trust region, lr tuned",
    hyperparameters={
        "lr": Hyperparameter(1e-3, "learning rate of local steps", LogUniform(1e-4, 1e-1),
                             above=0),
        **{key: knob for key, knob in STOCHASTIC.items() if key not in _TRUST_REGION},
        "direction": replace(STOCHASTIC["direction"], default="adam"),
    },
    build=build,
    batch_size=per_rank,
    presets={preset: {key: value for key, value in values.items() if key not in _TRUST_REGION}
             for preset, values in apts.presets.items()},
    traffic=SHORT_ROUNDS,
    sources=(*SOURCES, "bench_apts.optimizers.trust_region"),
)
