"""The published data-parallel APTS (arXiv 2502.05133, algorithm 1)."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

import torch

from bench_apts.optimizers.apts import solvers
from bench_apts.optimizers.apts.local import minimise
from bench_apts.optimizers.apts.paper_settings import PaperSettings, paper_settings
from bench_apts.optimizers.apts.radius import acceptance_ratio
from bench_apts.optimizers.apts.shard import Shard

if TYPE_CHECKING:
    from bench_apts.optimizers.apts.collective import Ranks
    from bench_apts.optimizers.apts.problem import Problem

__all__ = ["PaperMethod", "PaperSettings", "paper_settings"]


class PaperMethod:
    """One outer iteration per call of ``iterate``.

    (1) Loss and gradient of all shards, one all-reduce; (2) every rank minimises its first-order
    consistent local objective within the trust region; (3) the local steps are combined, one
    all-reduce; (4) the combined step is accepted or rejected by the ratio of actual to predicted
    reduction, one all-reduce; (5) optionally one trust-region iteration on the global loss, with
    another all-reduce of one float. With H local iterations that is H + 3 forward and H + 1
    backward passes and 3n + 4 floats in 4 calls; without (5) H + 2 and H passes and 2n + 3
    floats in 3 calls. A single process sends nothing. The host waits for the device at (1), (4)
    and (5), where all ranks decide.

    L-SR1 costs the same passes and messages: its pairs are differences of gradients that are
    there anyway, within the local phase for the local model and between (1) and (4) for the
    global one. Only without a local phase does the global model need another backward pass, at
    its trial point, and n floats more. It waits for the device once per step.

    BatchNorm statistics are averaged over the ranks as they are after the pass at the iterate;
    what the later passes of the iteration do to them is undone. After an exception every rank
    stands at the last accepted point.
    """

    SLOTS = 1

    def __init__(self, problem: Problem, ranks: Ranks, settings: PaperSettings) -> None:
        self._flat, self._ranks = problem.flat, ranks
        self._settings, self._rule = settings, settings.rule
        self._shard = Shard(problem, ranks)
        self._iterate = torch.empty_like(self._flat.values)
        self._local, self._global = (
            solvers.make(name, self._flat.values, settings.memory)
            for name in (settings.solver, settings.global_solver))
        self._accepted: deque[float] = deque(maxlen=settings.window - 1)
        self.radius = settings.radius

    def iterate(self) -> tuple[torch.Tensor, dict[str, Any]]:
        """Does one outer iteration; see ``APTS.step``."""
        self._iterate.copy_(self._flat.values)
        started = self._flat.save_buffers()
        try:
            return self._outer_iteration()
        except Exception:
            self._flat.values.copy_(self._iterate)
            self._flat.restore_buffers(started)
            raise

    def _outer_iteration(self) -> tuple[torch.Tensor, dict[str, Any]]:
        flat, settings = self._flat, self._settings
        self._shard.begin()
        own_value = self._shard.evaluate(backward=True, first=True)
        own_gradient = flat.gradient.clone() if settings.local_iterations else None
        loss = self._gather(own_value)
        buffers = flat.save_buffers()
        value, gradient = flat.scalars[0].clone(), flat.gradient.clone()
        last: dict[str, Any] = {}
        point = loss
        if own_gradient is not None:
            step, predicted = self._precondition(own_value, own_gradient, gradient)
            point = self._judge(step, predicted, loss, gradient, last)
        if settings.global_pass:
            point = self._descend(point, gradient, last)
        flat.restore_buffers(buffers)
        return value, last | {"radius": self.radius, "loss": point}

    def _gather(self, own_value: torch.Tensor) -> float:
        """Averages losses, gradients and statistics at the iterate; returns the mean loss."""
        flat, shard = self._flat, self._shard
        own_square = torch.dot(flat.gradient, flat.gradient)
        flat.scalars[0] = own_value
        flat.pack_buffers()
        shard.mean(flat.message, flat.size, first=True)
        square = torch.dot(flat.gradient, flat.gradient)
        loss: float
        loss, length = torch.stack([flat.scalars[0], square]).tolist()
        if not math.isfinite(loss + length) or (self._ranks.size == 1 and not shard.count):
            own = torch.stack([own_value, own_square]).tolist()
            loss, mend = shard.agree(own[0], not math.isfinite(sum(own)))
            flat.message.mul_(mend)
            flat.scalars[0] = loss
        flat.unpack_buffers()
        return loss

    def _at(self, step: torch.Tensor, backward: bool) -> torch.Tensor:
        """Returns this rank's loss at the iterate plus ``step``; the parameters stay there."""
        torch.add(self._iterate, step, out=self._flat.values)
        return self._shard.evaluate(backward)

    def _everywhere(self, step: torch.Tensor, backward: bool) -> torch.Tensor:
        """Returns the mean loss at the iterate plus ``step``, on request with its gradient."""
        value = self._at(step, backward)
        if not backward:
            message = value.reshape(1)
            self._shard.mean(message, 0)
            return message[0]
        self._flat.scalars[0] = value
        self._shard.mean(self._flat.with_scalars, self._flat.size)
        return self._flat.scalars[0]

    def _precondition(
        self, own_value: torch.Tensor, own_gradient: torch.Tensor, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Runs the local phase and combines the local steps.

        Returns:
            The combined step ``(n,)`` and the predicted reduction, which is NaN where the
            closure failed on some rank.
        """
        settings, message = self._settings, self._flat.with_scalars
        summed = settings.norm == "l2"
        corrects = settings.consistency == "gradient"
        # Where it corrects the gradients, nobody needs the own one any more.
        correction = torch.sub(gradient, own_gradient, out=own_gradient if corrects else None)
        local = minimise(
            self._at,
            gradient=gradient if corrects else own_gradient,
            value=own_value,
            gradient_buffer=self._flat.gradient,
            correction=correction,
            corrects_gradient=corrects,
            radius=self.radius / self._ranks.size if summed else self.radius,
            iterations=settings.local_iterations,
            norm=settings.norm,
            solver=self._local,
            rule=settings.local_rule,
            capped=settings.capped)
        message[:-1] = local.step
        message[-1] = local.reduction
        if not self._shard.count:  # no samples, no say
            message.zero_()
        if self._shard.failed:
            message[-1] = torch.nan
        (self._ranks.sum if summed else self._ranks.mean)(message)
        return self._flat.gradient.clone(), message[-1].clone()

    def _judge(
        self,
        step: torch.Tensor,
        predicted: torch.Tensor,
        loss: float,
        gradient: torch.Tensor,
        last: dict[str, Any],
    ) -> float:
        """Accepts or rejects the combined step and lets the radius follow.

        Args:
            step: ``(n,)``.
            predicted: The predicted reduction, a scalar.
            loss: Mean loss at the iterate.
            gradient: ``(n,)``, its gradient; afterwards that at the point where the parameters
                are left, if a global pass follows.
            last: Takes the diagnostics.

        Returns:
            The loss at the point where the parameters are left.
        """
        further = self._settings.global_pass
        value = self._everywhere(step, further)
        trial, model = self._decide(loss, value, predicted, last)
        last |= {"actual_reduction": loss - trial, "predicted_reduction": model}
        if further and self._global.learns:
            self._global.learn(step, self._flat.gradient, gradient)
        if last["accepted"] and further:
            gradient.copy_(self._flat.gradient)
        return trial if last["accepted"] else loss

    def _descend(self, loss: float, gradient: torch.Tensor, last: dict[str, Any]) -> float:
        """Does one trust-region iteration on the global loss.

        Returns:
            The loss at the point where the parameters are left.
        """
        radius = torch.full_like(gradient[0], self.radius)
        step = self._global.step(gradient, radius, self._settings.norm)
        predicted = self._global.reduction(gradient, step)
        learns = self._global.learns and not self._settings.local_iterations
        value = self._everywhere(step, learns)
        names = "global_" if "rho" in last else ""
        trial, _ = self._decide(loss, value, predicted, last, names)
        if learns:
            self._global.learn(step, self._flat.gradient, gradient)
        return trial if last[f"{names}accepted"] else loss

    def _decide(
        self,
        loss: float,
        value: torch.Tensor,
        predicted: torch.Tensor,
        last: dict[str, Any],
        names: str = "",
    ) -> tuple[float, float]:
        """Accepts or rejects the point that the parameters are at; moves iterate and radius.

        Returns:
            The loss at the point and the predicted reduction, as numbers.
        """
        trial, model = torch.stack([value, predicted]).tolist()
        if math.isnan(trial) or math.isnan(model):
            self._shard.inquire()
        rho = acceptance_ratio(loss - trial, model)
        highest = max([loss, *self._accepted])
        accepted = acceptance_ratio(highest - trial, model) >= self._rule.accept
        self.radius = self._rule.update(self.radius, rho)
        if accepted:
            self._iterate.copy_(self._flat.values)
            self._accepted.append(trial)
        else:
            self._flat.values.copy_(self._iterate)
        last |= {f"{names}rho": rho, f"{names}accepted": accepted}
        return trial, model

    def state_dict(self) -> dict[str, Any]:
        """Returns copies of what the method remembers between outer iterations, on this rank."""
        return {"radius": self.radius, "window": list(self._accepted),
                "shard": self._shard.state_dict(), "local": self._local.state_dict(),
                "global": self._global.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` returned on this rank."""
        self.radius = float(state["radius"])
        self._accepted = deque(state["window"], maxlen=self._settings.window - 1)
        self._shard.load_state_dict(state["shard"])
        self._local.load_state_dict(state["local"])
        self._global.load_state_dict(state["global"])
