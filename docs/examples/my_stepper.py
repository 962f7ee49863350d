"""A backend with a stepper of its own: sign descent by majority vote (arXiv 1802.04434).

Each rank votes with the signs of its gradient, and all take the step that most voted for.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from bench_apts.contract import (
    Backend,
    Batch,
    Hyperparameter,
    LogUniform,
    Loss,
    Stepper,
    StepReport,
    World,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


class SignStepper:
    """Keeps replicas together by itself: equal weights, equal steps."""

    def __init__(
        self, model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World
    ) -> None:
        self.model, self.loss, self.world = model, loss, world
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.lr = values["lr"]

    def step(self, batch: Batch) -> StepReport:
        """One forward pass, one backward pass and one all-reduce of the votes."""
        import torch
        import torch.distributed as dist

        loss = self.loss(self.model(batch.inputs), batch.targets)
        votes = torch.cat([g.sign().flatten() for g in torch.autograd.grad(loss, self.parameters)])
        if self.world.size > 1:
            dist.all_reduce(votes)
        parts = votes.sign_().split([p.numel() for p in self.parameters])
        with torch.no_grad():
            for parameter, part in zip(self.parameters, parts, strict=True):
                parameter.sub_(part.view_as(parameter), alpha=self.lr)
        return StepReport(loss.detach(), samples=len(batch.targets), forwards=1, backwards=1)

    def state_dict(self) -> dict[str, Any]:
        """Returns copies of the weights and buffers; there is no other state."""
        return copy.deepcopy(self.model.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` returned."""
        self.model.load_state_dict(state)

    def evaluation_model(self) -> torch.nn.Module:
        """Returns the model, the same on every rank, with BatchNorm statistics of rank 0."""
        from bench_apts.plugins.replicas import align_buffers

        align_buffers(self.model)
        return self.model


def build(
    model: torch.nn.Module, loss: Loss, values: Mapping[str, Any], world: World
) -> Stepper:
    """Builds the stepper; the harness has put equal weights on every rank."""
    return SignStepper(model, loss, values, world)


backend = Backend(
    name="my-signs",
    summary="sign descent by majority vote",
    hyperparameters={"lr": Hyperparameter(1e-3, "step per coordinate", LogUniform(1e-4, 1e-2))},
    build=build,
)
