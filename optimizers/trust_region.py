"""The trust-region backends: APTS and, with one subdomain, the plain trust-region method."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

from bench_apts.contract import Backend, Batch, Hyperparameter, Loss, Stepper, StepReport, World

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

HYPERPARAMETERS = {
    "radius": Hyperparameter(0.01, "initial trust-region radius"),
    "min_radius": Hyperparameter(1e-3, "lower bound of the radius"),
    "max_radius": Hyperparameter(4.0, "upper bound of the radius"),
    "local_iterations": Hyperparameter(5, "local trust-region iterations per outer iteration"),
    "norm": Hyperparameter("l2", "norm of the trust region", options=("l2", "linf")),
    "consistency": Hyperparameter(
        "gradient", "what the first-order correction enters", options=("gradient", "value")),
    "global_pass": Hyperparameter(True, "end with an iteration on the global loss"),
    "batch_factor": Hyperparameter(1, "minibatch as a multiple of the suite's"),
}


class TrustRegionStepper:
    """Steps an ``APTS`` on this rank's share of each minibatch."""

    def __init__(
        self, model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World
    ) -> None:
        from bench_apts.optimizers.apts import APTS

        settings = {key: value for key, value in values.items() if key != "batch_factor"}
        self.model, self.loss = model, loss
        self.optimizer = APTS(model.parameters(), buffers=model.buffers(), **settings)

    def step(self, batch: Batch) -> StepReport:
        """One outer iteration; all its passes are over the same share."""

        def closure(backward: bool) -> torch.Tensor:
            loss = self.loss(self.model(batch.inputs), batch.targets)
            if backward:
                loss.backward()
            value: torch.Tensor = loss.detach()
            return value

        loss = self.optimizer.step(closure)
        last = self.optimizer.last
        forwards = int(last["forwards"])
        return StepReport(
            loss, forwards * len(batch.targets), forwards, int(last["backwards"]),
            diagnostics={key: last[key] for key in ("radius", "rho", "accepted")})

    def state_dict(self) -> dict[str, Any]:
        """Returns copies of weights, buffers and the optimizer's state."""
        return copy.deepcopy(
            {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def evaluation_model(self) -> torch.nn.Module:
        """Returns the model, which is the same on every rank."""
        return self.model


def _build(
    model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World, **fixed: Any
) -> Stepper:
    return TrustRegionStepper(model, loss, {**values, **fixed}, world)


def _batch(suite_batch: int, values: Mapping[str, Any], ranks: int) -> int:
    return suite_batch * int(values["batch_factor"])


apts = Backend(
    name="apts",
    summary="APTS, arXiv 2502.05133: local trust regions, one global judgement",
    hyperparameters=HYPERPARAMETERS,
    build=_build,
    tuning_free=True,
    batch_size=_batch,
    sources=("bench_apts.optimizers.apts",),
)

tr = Backend(
    name="tr",
    summary="first-order trust-region method: APTS with one subdomain",
    hyperparameters={key: knob for key, knob in HYPERPARAMETERS.items()
                     if key not in ("local_iterations", "consistency", "global_pass")},
    build=partial(_build, local_iterations=0),
    tuning_free=True,
    batch_size=_batch,
    sources=("bench_apts.optimizers.apts",),
)
