"""APTS-S: stochastic local phases under a trust region that fresh minibatches judge."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import torch

from bench_apts.optimizers.apts import radius_search
from bench_apts.optimizers.apts.moments import Moments
from bench_apts.optimizers.apts.muon_moments import MuonMoments
from bench_apts.optimizers.apts.radius_drift import RadiusDrift
from bench_apts.optimizers.apts.rank_agreement import RankAgreement, average_round
from bench_apts.optimizers.quantized_mean import QuantizedMean
from bench_apts.plugins.state_copies import copied

if TYPE_CHECKING:
    from bench_apts.optimizers.apts.flat_problem import FlatProblem
    from bench_apts.optimizers.apts.rank_agreement import RankGroup
    from bench_apts.optimizers.apts.stochastic_settings import StochasticSettings

_OFTEN = 0.2
"""Share of the budget during which tests are frequent."""

_FULL = 0.5
"""Share of the budget during which steps have full length and the radius moves without a
rejection; over the rest they shrink linearly. Half a cosine over the whole budget cost CIFAR-10
two points (measured): it shrinks steps where the radius is being looked for."""

_HORIZON = 128
"""Local steps that a training without a known budget is taken to have, before it is taken to have
twice as many whenever half of them are done: a part of each is like the second fourth of a known
budget, in which the radius moves, and steps never shrink before ``finish``."""

_STATE = ("anchor", "start", "way", "anchor_buffers", "start_buffers", "sums", "round", "done",
          "taken", "since_test", "processed", "horizon", "finishing", "testing", "following",
          "travel", "samples", "rate")

_WAY_SCALARS = 3
"""Numbers that measuring the way reduces over the ranks: see ``_follow_way``."""


class StochasticMethod:
    """One local step on a fresh minibatch per call of ``iterate``.

    A round is H local steps per rank in Adam's direction, followed by one all-reduce of the mean
    displacement; H doubles from 1 to 16. D, the radius, is the length per coordinate::

        w ── local step 1 ─ … ─ local step H ──► w + sᵢ   on rank i, Σ lr = travel
        │  first minibatch: gradient, and in a testing        │
        │  round the six sums that judge w against w_r        │ all-reduce: s = Σ cᵢsᵢ / Σ cᵢ
        ▼                                                     ▼
        rejected: w ← w_r, steps halved, m ← 0   accepted or not judged: w ← w + s

    Here w_r is the last accepted point, with fresh losses of both on the samples of one
    minibatch, the slope along w − w_r, and their standard errors. A test takes place every 8
    local steps or more and travels as six scalars with the round's own all-reduce. A rejection
    throws the round away and restores w_r bit for bit. D begins at a prior, which the way of the
    weights moves during the first half of the budget (``RadiusDrift``); or it is looked for from
    below by tests every 4 steps, and moved by later ones (``RadiusSearch``).

    With H = 1 the mean gradient is reduced and every rank takes the same step: data-parallel
    Adam. Otherwise the displacement tells each rank what the others' first moments were, which
    its own moves towards (``Moments.share``): the noise of one rank's small minibatches fades from
    it.

    Where shards differ in size, means are over all samples, and the share of the budget that is
    used up advances by the mean over the ranks, so that all decide alike. A rank without samples
    in a local step takes none. Where the closure fails on one of several ranks, that rank sits
    out the rest of the round, and at its end all ranks raise ``RankError``. After any exception
    the last accepted point is restored (unless judged: the start of the round), the first moment
    cleared, and the next call begins a round. A gradient that is not finite is no exception: the
    next test rejects what it made of the weights.

    Memory beyond model and gradients: w_r, the round's start, Adam's two moments and, over half of
    the budget, the way, each of n floats, and nothing of that size for a while. Gradients stay
    where autograd writes them; what travels (a mean gradient with H = 1, else a displacement)
    takes the memory of the values.

    Args:
        problem: The rank's loss and its parameters.
        ranks: The ranks that work together.
        settings: See there.
        rows: Of each parameter with elements, the rows of a matrix that goes in Muon's direction,
            else 0; see ``MuonMoments``.
    """

    COLLECTS = False

    def __init__(
        self, problem: FlatProblem, ranks: RankGroup, settings: StochasticSettings,
        rows: list[int] | None = None,
    ) -> None:
        self._problem, self._flat = problem, problem.flat
        self._settings = settings
        self._search = _make_search(settings)
        # Of displacements, and of gradients: a coarse gradient costs more (measured).
        self._means = {several: QuantizedMean(
            self._flat.values, settings.bits if several else max(8, settings.bits),
            settings.block, group=ranks.group) for several in (True, False)}
        betas = settings.beta1, settings.beta2
        self._moments = (MuonMoments(self._flat, *betas, rows) if rows
                         else Moments(self._flat, *betas))
        self._agreement = RankAgreement(ranks, self._flat.values, presumed=0)
        self._anchor, self._start = self._flat.values.clone(), self._flat.values.clone()
        self._anchor_buffers = self._start_buffers = self._flat.save_buffers()
        self._drift = self._search if isinstance(self._search, RadiusDrift) else None
        self._way = torch.zeros_like(self._start) if self._drift else None
        self._sums = self._start.new_zeros(self.slots(settings))
        self._window: deque[float] = deque(maxlen=5)
        self._round = self._done = self._since_test = self._taken = 0
        self._horizon = _HORIZON
        self._finishing: tuple[float, float, float] | None = None
        self._processed = self._travel = 0.0
        self._samples, self._rate = 0, 0.0
        self._testing = self._following = False

    @staticmethod
    def slots(settings: StochasticSettings) -> int:
        """Return the largest number of scalars that travel with a message."""
        drifts = isinstance(_make_search(settings), RadiusDrift)
        return radius_search.SCALARS + _WAY_SCALARS * drifts

    @property
    def radius(self) -> float:
        """D, the length of a full step per coordinate."""
        return self._search.radius

    @property
    def _length(self) -> int:
        """H of the present round."""
        doublings = self._round // self._settings.rounds_per_length
        return min(self._settings.longest_round, 1 << min(doublings, 30))

    @property
    def _spent(self) -> float:
        """Share of the budget that is used up; without a known one at most a half."""
        if self._finishing is not None:
            share, begin, samples = self._finishing
            return min(1.0, share + (1 - share) * (self._processed - begin) / samples)
        if self._settings.samples is None:
            return min(_FULL, self._taken / self._horizon)
        return min(1.0, self._processed / self._settings.samples)

    def finish(self, samples: float) -> None:
        """Let steps shrink linearly to 0 over so many more samples of a rank, on average."""
        self._finishing = max(self._spent, _FULL), self._processed, samples

    def iterate(self) -> tuple[torch.Tensor, dict[str, Any]]:
        """Do one local step, and at the end of a round the all-reduce; see ``APTS.step``."""
        try:
            losses, length = self._local_step(), self._length
            local = {"local_passes": 2 * (length > 1)}
            if self._done < length:
                return losses.mean(), local | {"radius": self.radius, "agreed": False}
            last = local | self._end_round(length)
        except BaseException:  # also the user's interruption: values may be anywhere
            if not self._settings.judge:
                self._anchor.copy_(self._start)
                self._anchor_buffers = self._start_buffers
            self._restore_accepted()
            self._done = 0
            raise
        self._round += 1
        self._done = 0
        return losses.mean(), last | {"radius": self.radius, "agreed": True}

    def _local_step(self) -> torch.Tensor:
        """Do the local part of a step; return the losses ``(b,)``, none if that failed."""
        agreement = self._agreement
        if self._done == 0:
            self._begin_round()
        testing = self._testing and self._done == 0
        losses = self._start.new_empty(0)
        if not agreement.failed:
            try:
                losses = self._problem.evaluate(backward=True).reshape(-1)
                if self._done == 0 and self._following:
                    self._sums[radius_search.SCALARS :] = self._follow_way(losses)
                if testing:
                    self._sums[: radius_search.SCALARS] = self._measure(losses)
            except Exception as error:
                agreement.fail(error)
            else:
                self._samples += len(losses)
        # Within a round no rank knows what the others process: it assumes the rate of the last
        # round, and the end of this one corrects it (``_end_round``).
        self._processed += (1 + testing) * self._rate
        if self._length > 1:  # with H = 1 the step waits for the mean gradient
            self._travel += self.radius * self._factor()
            if len(losses):
                self._step()
        self._done += 1
        self._taken += 1
        self._since_test += 1
        return losses

    def _end_round(self, length: int) -> dict[str, Any]:
        """End a round of ``length`` local steps: reduce, judge, step; return diagnostics."""
        flat, agreement = self._flat, self._agreement
        together = agreement.ranks.size > 1
        if length > 1:  # the message is this rank's displacement sᵢ, else its gradient
            torch.sub(flat.values, self._start, out=flat.payload)
        elif together and not agreement.failed:
            flat.gather()
        expected, agreement.count = self._rate, self._samples / length
        first = 0 if self._testing else radius_search.SCALARS
        end = len(self._sums) if self._following else radius_search.SCALARS
        sums = average_round(
            agreement, flat, self._sums[first:end] if first < end else None,
            None if self._settings.bits == 32 else self._means[length > 1], self._round)
        self._rate = agreement.total / agreement.ranks.size
        self._processed += (length + self._testing) * (self._rate - expected)
        last: dict[str, Any] = {}
        if self._drift and self._following and sums[-1]:
            slope, loss, count = sums[-_WAY_SCALARS:]
            last["overshoot"] = self._drift.observe(slope / count, loss / count, self._spent)
        tested = sums[: radius_search.SCALARS]
        if self._testing and tested[-1] and not self._judge(tested, last):
            self._restore_accepted()  # the mean displacement is dropped with the round
        elif length > 1:
            if together:
                self._moments.share(self._travel, self._settings.sharing)
            torch.add(self._start, flat.payload, out=flat.values)  # w + s
        else:
            if together:
                flat.scatter()
                flat.values.copy_(self._start)  # which the message may have replaced
            self._step()  # from the mean gradient: the same step on every rank
        return last

    def _begin_round(self) -> None:
        """Begin a round and decide whether the point it starts from will be judged."""
        unknown = self._settings.samples is None and self._finishing is None
        while unknown and 2 * self._taken >= self._horizon:
            self._horizon *= 2
            self._search.double_budget()
        self._begin_way()
        self._start.copy_(self._flat.values)
        self._start_buffers = self._flat.save_buffers()
        self._sums.zero_()
        self._travel, self._samples = 0.0, 0
        self._agreement.begin()
        if self._round == 0:  # weights may have been loaded since the optimizer was made
            self._anchor.copy_(self._start)
            self._anchor_buffers = self._start_buffers
        self._testing = self._settings.judge and self._since_test >= self._interval
        if self._testing:
            self._since_test = 0

    def _begin_way(self) -> None:
        """Bring the way up to the values, before ``_start`` becomes a copy of them."""
        self._following = self._drift is not None and self._drift.follows(self._spent)
        if not self._following:
            self._way = None  # for good: its memory is free for the rest of the budget
        if self._drift is None or self._way is None:
            return
        self._way.sub_(self._start).add_(self._flat.values)
        if self._round == 0 or self._drift.renews(self._spent):
            self._way.zero_()

    @property
    def _interval(self) -> int:
        """Local steps between two tests."""
        if self._search.searching:
            return 4
        early = self._spent < _OFTEN or not self._window  # also where the budget is a few steps
        return 8 if early else self._settings.late_interval

    def _step(self) -> None:
        """Do one step in Adam's direction from the latest gradients."""
        self._moments.step(self.radius * self._factor())

    def _factor(self) -> float:
        """Return step length over radius: a ramp up to 1, and linearly to 0 at the end."""
        if not self._settings.schedule:
            return 1.0
        ramp = 1.0 if self._settings.radius else self._search.ramp(self._spent)
        return min(1.0, ramp, (1 - self._spent) / (1 - _FULL))

    def _follow_way(self, losses: torch.Tensor) -> torch.Tensor:
        """Return q·count, Σℓ and count at the round's start: see ``RadiusDrift``.

        Args:
            losses: ``(b,)``, whose gradients are the latest; there may be none.
        """
        if self._way is None or not len(losses):
            return self._start.new_zeros(_WAY_SCALARS)
        slope = self._slope(self._way)
        count = torch.full_like(slope, len(losses))
        return torch.stack([slope * count, losses.sum(), count])

    def _slope(self, step: torch.Tensor) -> torch.Tensor:
        """Return ⟨∇f, step⟩, a scalar, by the latest gradients; the step is ``(n,)``."""
        flat = self._flat
        return torch.stack([torch.dot(gradient, part) for gradient, part
                            in zip(flat.gradients, flat.split(step), strict=True)]).sum()

    def _measure(self, after: torch.Tensor) -> torch.Tensor:
        """Return the six sums of a test (see ``StepQuality.from_sums``) on this rank's samples.

        Args:
            after: ``(b,)``, the fresh losses at the round's start, whose gradients are the latest;
                there may be none.
        """
        if not len(after):
            return self._start.new_zeros(radius_search.SCALARS)
        flat = self._flat
        # q = ⟨∇f(w), w − w_r⟩; the values may hold w − w_r, as ``_start`` is a copy of w.
        slope = self._slope(flat.values.sub_(self._anchor))
        buffers = flat.save_buffers()
        flat.values.copy_(self._anchor)  # the same minibatch at w_r: a forward pass alone
        before = self._problem.evaluate(backward=False).reshape(-1)
        if len(before) != len(after):
            raise ValueError(f"the closure returned {len(before)} losses after {len(after)} "
                             "within one step")
        flat.values.copy_(self._start)
        flat.restore_buffers(buffers)
        count = torch.full_like(slope, len(before))
        return torch.stack([before.sum(), after.sum(), slope * count, after.square().sum(),
                            (after - before).square().sum(), count])

    def _judge(self, sums: list[float], last: dict[str, Any]) -> bool:
        """Accept or reject the round's start, and move the radius.

        Returns:
            Whether it is accepted, the same on all ranks: they judge the same sums.
        """
        quality, search = radius_search.StepQuality.from_sums(sums), self._search
        accepted = search.accepts(quality, self._window)
        last |= {"accepted": accepted, "actual_reduction": -quality.change,
                 "best_length": radius_search.best_length(quality.change, quality.slope)}
        if accepted:
            self._anchor.copy_(self._start)
            self._anchor_buffers = self._start_buffers
            self._window.append(quality.after)
        if not self._settings.radius:
            search.update(quality, accepted, self._spent, settled=self._spent >= _FULL)
            last["at_bound"] = search.bounded
        return accepted

    def _restore_accepted(self) -> None:
        """Go back to the last accepted point, bit for bit, and clear the first moment."""
        self._flat.values.copy_(self._anchor)
        self._flat.restore_buffers(self._anchor_buffers)
        self._moments.forget()
        self._since_test = 0

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all that decides the future, on this rank."""
        return copied({name: getattr(self, f"_{name}") for name in _STATE} | {
            "search": self._search.state_dict(), "window": list(self._window),
            "failure": self._agreement.failure, "moments": self._moments.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned on this rank."""
        state = copied(state)
        for name in _STATE:
            setattr(self, f"_{name}", state[name])
        self._search.load_state_dict(state["search"])
        self._window = deque(state["window"], maxlen=5)
        self._agreement.begin(state["failure"])
        self._moments.load_state_dict(state["moments"])


def _make_search(settings: StochasticSettings) -> radius_search.RadiusSearch:
    """Return what the radius comes from; a fixed one is found from the beginning."""
    if settings.radius:
        return radius_search.RadiusSearch(settings.radius, searching=False)
    if settings.search == "bracket":
        return radius_search.RadiusSearch(settings.start)
    return RadiusDrift(settings.start)
