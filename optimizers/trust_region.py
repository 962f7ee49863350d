"""The trust-region backends: APTS and, with one subdomain, the plain trust-region method."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

from bench_apts.contract import Backend, Batch, Hyperparameter, Loss, Stepper, StepReport, World

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

SHOWN = ("radius", "rho", "accepted", "best_length")
"""Diagnostics of the optimizer that go into the records."""

PAPER = {
    "radius": Hyperparameter(0.01, "initial trust-region radius"),
    "min_radius": Hyperparameter(1e-3, "lower bound of the radius"),
    "max_radius": Hyperparameter(4.0, "upper bound of the radius"),
    "local_iterations": Hyperparameter(5, "local trust-region iterations per outer iteration"),
    "norm": Hyperparameter("l2", "norm of the trust region", options=("l2", "linf")),
    "consistency": Hyperparameter(
        "gradient", "what the first-order correction enters", options=("gradient", "value")),
    "global_pass": Hyperparameter(True, "end with an iteration on the global loss"),
}

STOCHASTIC = {
    "minibatch": Hyperparameter(32, "fresh samples of each rank per local step"),
    "radius": Hyperparameter(0.0, "a fixed radius; 0 lets the method find its own"),
    "judge": Hyperparameter(True, "judge steps on fresh minibatches"),
    "schedule": Hyperparameter(True, "shrink steps with half a cosine over the budget"),
    "longest_round": Hyperparameter(16, "most local steps between two all-reduces"),
    "rounds_per_length": Hyperparameter(16, "rounds before their length doubles"),
}

BATCH_FACTOR = {"batch_factor": Hyperparameter(1, "minibatch as a multiple of the suite's")}


class TrustRegionStepper:
    """Steps an ``APTS`` on this rank's share of each minibatch."""

    def __init__(
        self, model: torch.nn.Module, loss: Loss, variant: str, settings: Mapping[str, Any]
    ) -> None:
        from bench_apts.optimizers.apts import APTS

        self.model, self.loss = model, loss
        self.optimizer = APTS(
            model.parameters(), variant=variant, buffers=model.buffers(), **settings)

    def step(self, batch: Batch) -> StepReport:
        """One step of the method; all its passes are over the same share."""

        def closure(backward: bool) -> torch.Tensor:
            losses = self.loss(self.model(batch.inputs), batch.targets, reduction="none")
            if backward:
                losses.mean().backward()
            values: torch.Tensor = losses.detach()
            return values

        loss = self.optimizer.step(closure)
        last = self.optimizer.last
        return StepReport(
            loss, last["forwards"] * len(batch.targets), last["forwards"], last["backwards"],
            agreed=last.get("agreed", True),
            diagnostics={name: last[name] for name in SHOWN if name in last})

    def state_dict(self) -> dict[str, Any]:
        """Returns copies of weights, buffers and the optimizer's state."""
        return copy.deepcopy(
            {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def evaluation_model(self) -> torch.nn.Module:
        """Returns the model, the same on every rank wherever a step reports ``agreed``."""
        return self.model


def _paper(
    model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World, **fixed: Any
) -> Stepper:
    settings = {key: value for key, value in values.items() if key != "batch_factor"}
    return TrustRegionStepper(model, loss, "paper", settings | fixed)


def _stochastic(
    model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World
) -> Stepper:
    settings = {key: value for key, value in values.items() if key != "minibatch"}
    settings["samples"] = max(1, world.budget_samples // world.size)
    return TrustRegionStepper(model, loss, "stochastic", settings)


def _multiple(suite_batch: int, values: Mapping[str, Any], ranks: int) -> int:
    return suite_batch * int(values["batch_factor"])


def _per_rank(suite_batch: int, values: Mapping[str, Any], ranks: int) -> int:
    return int(values["minibatch"]) * ranks


apts = Backend(
    name="apts",
    summary="APTS-S: stochastic local phases under a trust region judged on fresh minibatches",
    hyperparameters=STOCHASTIC,
    build=_stochastic,
    tuning_free=True,
    batch_size=_per_rank,
    sources=("bench_apts.optimizers.apts",),
)

apts_paper = Backend(
    name="apts-paper",
    summary="APTS as published (arXiv 2502.05133), first-order local and global trust regions",
    hyperparameters=PAPER | BATCH_FACTOR,
    build=_paper,
    tuning_free=True,
    batch_size=_multiple,
    sources=("bench_apts.optimizers.apts",),
)

tr = Backend(
    name="tr",
    summary="first-order trust-region method: the published APTS with one subdomain",
    hyperparameters={key: knob for key, knob in (PAPER | BATCH_FACTOR).items()
                     if key not in ("local_iterations", "consistency", "global_pass")},
    build=partial(_paper, local_iterations=0),
    tuning_free=True,
    batch_size=_multiple,
    sources=("bench_apts.optimizers.apts",),
)
