"""An optimizer that does nothing, so that a trial is the harness alone: a plug-in file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench_apts.contract import Backend, Batch, Loss, StepReport, World

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


class Idle:
    """Reports a step that it does not take."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    def step(self, batch: Batch) -> StepReport:
        return StepReport(0.0, len(batch.targets), 1, 1)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def evaluation_model(self) -> torch.nn.Module:
        return self.model


def build(model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World) -> Idle:
    return Idle(model)


backend = Backend(name="nothing", summary="takes no step", hyperparameters={}, build=build)
