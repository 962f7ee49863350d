"""The published data-parallel APTS (arXiv 2502.05133, algorithm 1)."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

import torch

from bench_apts.optimizers.apts import local_steps
from bench_apts.optimizers.apts.acceptance import IterationDecision
from bench_apts.optimizers.apts.local_steps import minimise
from bench_apts.optimizers.apts.rank_agreement import RankAgreement, name_ranks

if TYPE_CHECKING:
    from bench_apts.optimizers.apts.acceptance import PaperSettings
    from bench_apts.optimizers.apts.flat_problem import FlatProblem
    from bench_apts.optimizers.apts.rank_agreement import RankGroup


class PaperMethod:
    """One outer iteration per call of ``iterate``.

    (1) Loss and gradient of all shards, one all-reduce; (2) every rank minimises its first-order
    consistent local objective within the trust region; (3) the local steps are combined, one
    all-reduce; (4) the combined step is accepted or rejected by the ratio of actual to predicted
    reduction, one all-reduce; (5) optionally one trust-region iteration on the global loss, with
    another all-reduce of one float. With H local iterations that is H + 3 forward and H + 1
    backward passes and 3n + 4 floats in 4 calls; without (5) H + 2 and H passes and 2n + 3
    floats in 3 calls. A single process sends nothing.

    Decisions are masks on the device; the host waits for it once, at the end, and then learns
    them all. An iteration that went wrong is found out there too: it has stayed where it began
    (see ``_gather``), and all ranks raise the same exception, or begin it again where only the
    numbers of samples were others than before. The very first iteration of several ranks, which
    mostly do not know these numbers yet, waits after (1) as well, and begins again there. Each
    trial that may be retried (``PaperSettings.retries``) costs another wait. As local retries are
    each rank's own affair, the number of its passes then travels with the first loss that is
    averaged alone after them, one float more.

    L-SR1 costs the same passes and messages: its pairs are differences of gradients that are
    there anyway, within the local phase for the local model and between (1) and (4) for the
    global one. Only without a local phase does the global model need another backward pass, at
    its trial point, and n floats more.

    BatchNorm statistics are averaged over the ranks as they are after the pass at the iterate;
    what the later passes of the iteration do to them is undone. After an exception every rank
    stands at the last accepted point.

    Beyond parameters and message three vectors of n floats are held: the iterate, its mean
    gradient, and this rank's correction; and autograd's gradients until they are in the message.
    """

    COLLECTS = True

    def __init__(self, problem: FlatProblem, ranks: RankGroup, settings: PaperSettings) -> None:
        self._flat, self._ranks, self._settings = problem.flat, ranks, settings
        self._problem = problem
        self._agreement = RankAgreement(ranks, problem.flat.values, presumed=1)
        self._settled = ranks.size == 1  # whether all ranks are known to know Σ cᵢ
        values = self._flat.values
        self._iterate, self._gradient = torch.empty_like(values), torch.empty_like(values)
        self._correction = torch.empty_like(values[: values.numel() * settings.preconditions])
        self._local, self._global = (
            local_steps.make(name, values, settings.memory)
            for name in (settings.solver, settings.global_solver))
        self._accepted: deque[float] = deque(maxlen=settings.window - 1)
        self.radius = settings.radius
        self._local_passes = self._local_forwards = 0
        self._uneven = bool(settings.retries and settings.preconditions and ranks.size > 1)
        self._unsent = False  # whether other ranks do not know this one's passes
        self._mean_forwards = values.new_zeros(())

    @staticmethod
    def slots(settings: PaperSettings) -> int:
        """Return the number of scalars that travel with a message."""
        return 1

    def iterate(self) -> tuple[torch.Tensor, dict[str, Any]]:
        """Do one outer iteration; see ``APTS.step``."""
        self._iterate.copy_(self._flat.values)
        self._local_forwards = 0
        started = self._flat.save_buffers()
        try:
            found = self._outer_iteration()
            if found is None:  # begin again, now that all ranks know the numbers of samples
                self._flat.values.copy_(self._iterate)
                self._flat.restore_buffers(started)
                found = self._outer_iteration(again=True)
            if found is None:
                raise FloatingPointError("the mean loss or its gradient is not finite, though "
                                         "that of every rank is")
            return found
        except Exception:
            self._flat.values.copy_(self._iterate)
            self._flat.restore_buffers(started)
            raise

    def _outer_iteration(
        self, again: bool = False
    ) -> tuple[torch.Tensor, dict[str, Any]] | None:
        """Do one outer iteration; None where numbers of samples were not as announced."""
        flat, settings, agreement = self._flat, self._settings, self._agreement
        agreement.begin()
        own_value = self._evaluate(backward=True, first=not again)
        if self._ranks.size == 1 and not agreement.count:
            raise ValueError("no rank has a sample")
        own_square = torch.dot(flat.payload, flat.payload)
        self._correction.copy_(flat.payload[: len(self._correction)])  # ∇Lᵢ for now
        value, checked = self._gather(own_value)  # (1)
        if not self._settled:
            self._settled = math.isfinite(checked.item())
            if not self._settled:
                self._agree(unsound=not math.isfinite((own_value + own_square).item()))
                return None
        buffers = flat.save_buffers()
        decision = IterationDecision(settings.rule, checked, self.radius, self._accepted)
        if settings.preconditions:
            self._precondition(own_value, decision)  # (2) to (4)
        if settings.global_pass:
            self._descend(decision)  # (5)
        flat.restore_buffers(buffers)
        (own, mean), last = decision.read(  # the host waits here, once
            own_value + own_square, self._mean_forwards)
        if math.isnan(decision.started):
            self._agree(unsound=not math.isfinite(own))
            return None
        if decision.marked:
            agreement.exchange()
        self.radius = last["radius"]
        self._accepted.extend(decision.accepted)
        if self._uneven:
            last["forwards_beyond"] = mean - self._local_forwards
        return value, last | {"at_bound": settings.rule.bounded(self.radius),
                              "local_passes": self._local_passes}

    def _evaluate(self, backward: bool, first: bool = False) -> torch.Tensor:
        """Return this rank's mean loss, a scalar, and leave its gradient in the buffer.

        An empty shard has the loss 0 and no gradient. After an exception (with more than one
        rank) loss and gradient are NaN and the closure is not called again.

        Args:
            backward: Whether the gradient is wanted.
            first: Whether the number of losses may be another than before.
        """
        agreement, flat = self._agreement, self._flat
        try:
            if not agreement.failed:
                losses = self._problem.evaluate(backward)
                count = losses.numel() if losses.dim() else 1
                if not first and count != agreement.count:
                    raise ValueError(f"the closure returned {count} losses after "
                                     f"{agreement.count} within one step")
                agreement.count = count
                if count:
                    loss = losses.mean()  # NaN is the mark, so what is not finite travels as ∞
                    return torch.where(loss.isfinite(), loss, torch.full_like(loss, torch.inf))
        except Exception as error:
            agreement.fail(error)
        nothing = torch.nan if agreement.failed else 0.0
        if backward:
            flat.message.fill_(nothing)  # with NaN, so that no solver learns from it
        return flat.values.new_full((), nothing)

    def _mean(self, message: torch.Tensor, place: int, announce: bool = False) -> None:
        """Average this rank's means over all samples of all ranks, in place; see _evaluate.

        Args:
            message: Gradient, loss, statistics.
            place: Where in it the loss stands, which a mark takes the place of.
            announce: Whether the number of losses may be another than announced.
        """
        if self._ranks.size > 1:
            self._agreement.weigh(message)
            self._agreement.mark(message[place:place + 1], announce)
            self._ranks.mean(message)

    def _agree(self, unsound: bool) -> None:
        """Find out together why the mean loss or gradient is not finite.

        Where it returns, some numbers of losses were not as announced, and now all are known.

        Args:
            unsound: Whether this rank's own loss or gradient is not finite.

        Raises:
            RankError: The closure failed somewhere.
            FloatingPointError: A loss or a gradient is not finite somewhere.
            ValueError: No rank has a sample.
        """
        found = self._agreement.exchange(*(
            float(unsound and rank == self._ranks.rank) for rank in range(self._ranks.size)))
        if any(found):
            raise FloatingPointError("the loss at the current iterate or its gradient is not "
                                     f"finite on {name_ranks(found)}")

    def _gather(self, own_value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Average losses, gradients and statistics at the iterate.

        Where the result is not finite the gradients are taken to be zero: no rank evaluates the
        closure at parameters that are not finite.

        Returns:
            The mean loss, and the same but NaN where it or its gradient is not finite; no step
            from there is ever accepted.
        """
        flat = self._flat
        flat.scalars[0] = own_value
        if self._ranks.size > 1:
            flat.pack_buffers()
            self._mean(flat.message, flat.size, announce=True)
            flat.unpack_buffers()
        value = flat.scalars[0].clone()
        square = torch.dot(flat.payload, flat.payload)
        sound, zero = (value + square).isfinite(), torch.zeros_like(value)
        torch.where(sound, flat.payload, zero, out=self._gradient)
        if self._settings.consistency == "value":  # else no step follows the rank's own gradient
            torch.where(sound, self._correction, zero, out=self._correction)
        return value, torch.where(sound, value, torch.nan)

    def _at(self, step: torch.Tensor, backward: bool) -> torch.Tensor:
        """Return this rank's loss at the iterate plus ``step``; the parameters stay there."""
        torch.add(self._iterate, step, out=self._flat.values)
        return self._evaluate(backward)

    def _everywhere(self, step: torch.Tensor, backward: bool) -> torch.Tensor:
        """Return the mean loss at the iterate plus ``step``, on request with its gradient."""
        value = self._at(step, backward)
        if not backward:
            message = value.reshape(1)
            if self._unsent:
                message = torch.stack([value, value.new_tensor(self._local_forwards)])
            self._mean(message, 0)
            if self._unsent:
                self._mean_forwards, self._unsent = message[1], False
            return message[0]
        self._flat.scalars[0] = value
        self._mean(self._flat.with_scalars, self._flat.size)
        return self._flat.scalars[0]

    def _precondition(self, own_value: torch.Tensor, decision: IterationDecision) -> None:
        """Run the local phase, combine the local steps, and judge the combined step."""
        before, forwards = self._problem.passes, self._problem.forwards
        predicted = self._local_phase(own_value)
        self._local_passes = self._problem.passes - before
        self._local_forwards += self._problem.forwards - forwards
        self._unsent = self._uneven
        further = self._settings.global_pass
        learns = further and self._global.learns
        step = self._flat.payload
        if learns:  # the correction is no longer needed, the message is: for the trial gradient
            step = self._correction.copy_(step)
        trial = self._everywhere(step, further)
        if learns:
            self._global.learn(step, self._flat.payload, self._gradient)
        accepted = decision.judge(trial, predicted)
        if further:
            torch.where(accepted, self._flat.payload, self._gradient, out=self._gradient)
        self._settle(accepted, not further)

    def _local_phase(self, own_value: torch.Tensor) -> torch.Tensor:
        """Leave the combined step in the gradient buffer.

        Returns:
            The predicted reduction, which is NaN where the closure failed on some rank.
        """
        # Rank i minimises L̃ᵢ(s) = Lᵢ(θ + s) + ⟨g − ∇Lᵢ(θ), s⟩ within its share of the radius;
        # steps and reductions are summed (2-norm, radius Δ/N) or averaged (∞-norm, radius Δ).
        settings, message, ranks = self._settings, self._flat.with_scalars, self._ranks
        summed = settings.norm == "l2"
        corrects = settings.consistency == "gradient"
        own_gradient = self._correction
        # Where the correction enters the gradients, the rank's own one is not needed any more.
        correction = torch.sub(self._gradient, own_gradient,
                               out=own_gradient if corrects else None)
        local = minimise(
            self._at,
            gradient=self._gradient if corrects else own_gradient,
            value=own_value,
            gradient_buffer=self._flat.payload,
            correction=correction,
            corrects_gradient=corrects,
            radius=self.radius / ranks.size if summed else self.radius,
            iterations=settings.local_iterations,
            norm=settings.norm,
            solver=self._local,
            rule=settings.local_rule,
            capped=settings.capped,
            retries=settings.retries)
        message[:-1] = local.step
        message[-1] = local.reduction
        if not self._agreement.count:  # a rank without samples contributes nothing
            message.zero_()
        self._agreement.mark(message[-1:], announce=False)
        (ranks.sum if summed else ranks.mean)(message)
        return message[-1].clone()

    def _descend(self, decision: IterationDecision) -> None:
        """Do one trust-region iteration on the global loss."""
        solver, gradient = self._global, self._gradient
        step = solver.step(gradient, decision.radius.to(gradient.dtype), self._settings.norm)
        learns = solver.learns and not self._settings.preconditions
        for left in range(self._settings.retries, -1, -1):
            predicted = solver.reduction(gradient, step)
            trial = self._everywhere(step, learns)
            if learns:
                solver.learn(step, self._flat.payload, gradient)
            if not left or not decision.again(trial, predicted):
                break
            step = step * decision.shorten().to(step.dtype)
        self._settle(decision.judge(trial, predicted), final=True)

    def _settle(self, accepted: torch.Tensor, final: bool) -> None:
        """Make the point that the parameters are at the iterate, or go back.

        Args:
            accepted: The decision, on the device.
            final: Whether the parameters are to stand there too.
        """
        values, iterate = self._flat.values, self._iterate
        torch.where(accepted, values, iterate, out=values if final else iterate)

    def state_dict(self) -> dict[str, Any]:
        """Return copies of what the method remembers between outer iterations, on this rank."""
        return {"radius": self.radius, "window": list(self._accepted),
                "announced": self._agreement.announced,
                "total": self._agreement.total, "settled": self._settled,
                "local": self._local.state_dict(), "global": self._global.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned on this rank."""
        self.radius = float(state["radius"])
        self._accepted = deque(state["window"], maxlen=self._settings.window - 1)
        self._agreement.announced, self._agreement.total = state["announced"], state["total"]
        self._settled = state["settled"]
        self._local.load_state_dict(state["local"])
        self._global.load_state_dict(state["global"])
