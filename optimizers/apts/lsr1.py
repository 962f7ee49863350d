"""Limited-memory SR1: a quadratic model of indefinite curvature from a few gradient differences.

B = γI + ΨM⁻¹Ψᵀ with Ψ = Y − γS (Byrd, Nocedal, Schnabel, Math. Program. 63 (1994), theorem 5.1).
M⁻¹ is never formed: the updates are replayed on inner products, each skipped where its
denominator is too small, which gives B = γI + Φ diag(w) Φᵀ with Φ = ΨC, one column per pair.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bench_apts.optimizers.apts.obs import Solution, solve

_SKIP = 1e-8
"""r of the skipping rule |sᵀ(y − Bs)| ≥ r‖s‖‖y − Bs‖ (Nocedal, Wright, equation 6.26)."""

_LEARNT = 1e-6
"""Share of ‖y‖ below which y − Bs is rounding: the model knows the pair already."""

_CHUNK = 1 << 14
"""Elements per block of an inner product, so that its float64 copies stay in the cache."""


def products(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Returns the inner products ``(k, j)`` of ``(k, n)`` with ``(j, n)``, all in float64.

    Differences of them decide which pairs depend on one another, where float32 has too few
    digits.
    """
    total = torch.zeros(len(rows), len(columns), dtype=torch.float64, device=rows.device)
    for start in range(0, rows.shape[1], _CHUNK):
        place = slice(start, start + _CHUNK)
        total.addmm_(rows[:, place].double(), columns[:, place].double().T)
    return total


def rough(rows: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    """Returns the inner products ``(k,)`` of ``(k, n)`` with ``(n,)``, to about 1e-7.

    Each block in the dtype of the rows, their sum in float64: a third of the time.
    """
    total = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for start in range(0, rows.shape[1], _CHUNK):
        place = slice(start, start + _CHUNK)
        total += rows[:, place] @ column[place]
    return total


def replay(steps: Any, mixed: Any, changes: Any, base: float) -> tuple[Any, Any]:
    """Replays the SR1 updates from γI, oldest first, on inner products alone.

    Args:
        steps: ``(k, k)``, SᵀS.
        mixed: ``(k, k)``, SᵀY.
        changes: ``(k, k)``, YᵀY.
        base: γ.

    Returns:
        C ``(k, k)``, upper triangular, and w ``(k,)``: B = γI + ΨC diag(w) (ΨC)ᵀ, where an
        update that the skipping rule leaves out has w = 0.
    """
    size = len(steps)
    slopes = mixed.T - base * steps  # ΨᵀS
    gram = changes - base * (mixed + mixed.T) + base**2 * steps
    coefficients, weights = np.zeros((size, size)), np.zeros(size)
    for j in range(size):
        along = coefficients.T @ slopes[:, j]
        column = -coefficients @ (weights * along)
        column[j] += 1.0
        rest = math.sqrt(max(0.0, float(column @ gram @ column)))
        denominator = float(column @ slopes[:, j])
        if (rest > _LEARNT * math.sqrt(changes[j, j])
                and abs(denominator) >= _SKIP * math.sqrt(steps[j, j]) * rest > 0):
            coefficients[:, j], weights[j] = column, 1 / denominator
    return coefficients, weights


class LSR1:
    """The quadratic model, learning from pairs (s, y) of one minibatch each.

    γ is half the smallest |sᵀy|/sᵀs held: below the curvature along the steps, as Erway,
    Griffin, Marcia, Omheni, Optim. Methods Softw. 35 (2020) advise, so that the updates add what
    is missing. Without pairs the model is linear.

    ``step`` waits for the device once, for a handful of inner products; nothing else here does.
    Memory: 2(m + 1) vectors of n floats, one pair of rows being the place for the next pair.

    Args:
        like: ``(n,)``, whose device and (at least float32) dtype the memory takes.
        memory: m, the number of pairs held.
    """

    learns = True

    def __init__(self, like: torch.Tensor, memory: int) -> None:
        dtype = torch.promote_types(like.dtype, torch.float32)
        self._size = memory + 1
        self._rows = torch.zeros(2 * self._size, like.numel(), dtype=dtype, device=like.device)
        self._order: list[int] = []
        self._gram = np.zeros((2 * self._size, 2 * self._size))
        self._pending: tuple[int, torch.Tensor] | None = None
        self._base, self._weights = 0.0, np.zeros(0)
        self._columns = np.zeros((2 * self._size, 0))
        self._form: torch.Tensor | None = None
        self.waits = 0

    def learn(self, step: torch.Tensor, gradient: torch.Tensor, before: torch.Tensor) -> None:
        """Takes in the pair (s, y): a step, and the gradients at its end and at its start."""
        if self._pending:
            self._absorb(self._fetch(self._pending[1]))
        slot = next(i for i in range(self._size) if i not in self._order)
        pair = self._rows[slot :: self._size]
        pair[0] = step
        torch.sub(gradient, before, out=pair[1])
        self._pending = slot, products(self._rows, pair)

    def step(self, gradient: torch.Tensor, radius: torch.Tensor, norm: str) -> torch.Tensor:
        """Returns the model's minimiser over ‖p‖ ≤ δ.

        In the ∞-norm that is the minimiser over the smallest 2-norm ball around the cube, of
        radius √n·δ, cut to the cube coordinate by coordinate; where the cut step does not
        lower the model, the uncut one is shortened until it fits, which always does.
        """
        if norm == "l2":
            return self._minimise(gradient, radius)
        step = self._minimise(gradient, radius * math.sqrt(gradient.numel()))
        cut = torch.minimum(torch.maximum(step, -radius), radius)
        highest = step.abs().max().clamp_min(torch.finfo(step.dtype).tiny)
        short = step * (radius / highest).clamp_max(1.0)
        return torch.where(self.reduction(gradient, cut) > 0, cut, short)

    def _minimise(self, gradient: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        wide = gradient.to(self._rows.dtype)[None]
        wanted = [products(self._rows, wide), products(wide, wide),
                  radius.double().reshape(1, 1)]
        if self._pending:
            wanted.append(self._pending[1].T.reshape(-1, 1))
        found = self._fetch(torch.cat(wanted))[:, 0]
        count = 2 * self._size
        if self._pending:
            self._absorb(found[count + 2 :].reshape(2, count).T)
        slopes, square, limit = found[:count], float(found[count]), float(found[count + 1])
        solution = self._solve(np.where(np.isfinite(slopes), slopes, 0.0), square, limit)
        mixture = torch.from_numpy(self._columns @ solution.along).to(self._rows)
        step = torch.mv(self._rows.T, mixture).sub_(wide[0], alpha=solution.scale)
        # Rounding in float32 must not leave the ball.
        step.mul_(limit / torch.linalg.vector_norm(step).clamp_min(limit))
        return step.to(gradient.dtype)

    def _solve(self, slopes: Any, square: float, radius: float) -> Solution:
        if not math.isfinite(square):  # no model of such a gradient; the caller rejects the step
            return Solution(math.nan, np.zeros(len(self._weights)), 0.0, 0.0, math.nan)
        columns, dimension = self._columns, self._rows.shape[1]
        try:
            return solve(columns.T @ self._gram @ columns, self._weights, self._base,
                         columns.T @ slopes, square, radius, dimension)
        except np.linalg.LinAlgError:  # an eigendecomposition that did not converge
            nothing = np.zeros(0)
            linear = solve(np.zeros((0, 0)), nothing, 0.0, nothing, square, radius, dimension)
            return replace(linear, along=np.zeros(columns.shape[1]))

    def reduction(self, gradient: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Returns −(gᵀp + ½pᵀBp) for any step p, a scalar on the device."""
        linear = -torch.dot(gradient, step)
        if self._form is None:
            return linear
        wide = step.to(self._rows.dtype)
        along = rough(self._rows, wide)
        bent = along @ (self._form @ along) + self._base * torch.dot(wide, wide)
        return linear - 0.5 * bent.to(linear.dtype)

    def _fetch(self, values: torch.Tensor) -> Any:
        self.waits += 1
        return values.cpu().numpy()

    def _absorb(self, found: Any) -> None:
        """Decides on the pending pair by its inner products ``(2(m + 1), 2)``, and rebuilds B."""
        assert self._pending is not None
        slot, self._pending = self._pending[0], None
        others = [row for i in [*self._order, slot] for row in (i, i + self._size)]
        if not np.isfinite(found[others]).all():
            self._rows[slot :: self._size].zero_()  # else 0·NaN would spoil the next step
            return
        place = [slot, slot + self._size]
        self._gram[:, place], self._gram[place, :] = found, found.T
        weights = self._rebuild([*self._order, slot])
        if weights[-1] == 0:
            self._rebuild(self._order)
            return
        self._order.append(slot)
        if len(self._order) == self._size:
            self._rebuild(self._order[1:])
            self._order.pop(0)

    def _rebuild(self, order: list[int]) -> Any:
        """Makes B from the pairs in the slots ``order``, oldest first; returns their weights."""
        first, second = list(order), [i + self._size for i in order]
        gram = self._gram
        steps, mixed = gram[np.ix_(first, first)], gram[np.ix_(first, second)]
        squares = np.diag(steps)
        rates = np.abs(np.diag(mixed))[squares > 0] / squares[squares > 0]
        self._base = float(rates.min()) / 2 if len(rates) else 0.0
        coefficients, weights = replay(
            steps, mixed, gram[np.ix_(second, second)], self._base)
        self._columns = np.zeros((2 * self._size, len(order)))
        self._columns[second] = coefficients
        self._columns[first] = -self._base * coefficients
        self._weights = weights
        form = (self._columns * weights) @ self._columns.T
        self._form = torch.from_numpy(form).to(self._rows.device)
        return weights

    def state_dict(self) -> dict[str, Any]:
        """Returns copies of the pairs and their inner products."""
        if self._pending:
            self._absorb(self._fetch(self._pending[1]))
        return {"rows": self._rows.clone(), "order": list(self._order),
                "gram": torch.from_numpy(self._gram.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` returned.

        Raises:
            ValueError: It holds another number of pairs or of parameters.
        """
        if state["rows"].shape != self._rows.shape:
            raise ValueError("the saved memory has another shape: set memory as it was")
        self._rows.copy_(state["rows"])
        self._order, self._pending = list(state["order"]), None
        self._gram = state["gram"].cpu().numpy().copy()
        self._rebuild(self._order)
