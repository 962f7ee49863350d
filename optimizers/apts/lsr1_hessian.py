"""Limited-memory SR1: a quadratic model of indefinite curvature from a few gradient differences.

B = γI + ΨM⁻¹Ψᵀ with Ψ = Y − γS (Byrd, Nocedal, Schnabel, Math. Program. 63 (1994), theorem 5.1).
M⁻¹ is never formed: the updates are replayed on inner products, each skipped where its
denominator is too small, which gives B = γI + Φ diag(w) Φᵀ with Φ = ΨC, one column per pair.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from bench_apts.optimizers.apts.obs import Spectrum, solve, spectrum

_SKIP = 1e-8
"""r of the skipping rule |sᵀ(y − Bs)| ≥ r‖s‖‖y − Bs‖ (Nocedal, Wright, equation 6.26)."""

_KNOWN = 1e-6
"""Share of ‖y‖ below which y − Bs is rounding: the model knows the pair already."""

_CHUNK = 1 << 14
"""Elements per block of an inner product: on a CPU its float64 copies stay in the cache."""

_CHUNK_DEVICE = 1 << 18
"""The same elsewhere, where what counts is that there are few kernels to launch."""


def _chunk(like: torch.Tensor) -> int:
    return _CHUNK if like.is_cpu else _CHUNK_DEVICE


def products(rows: torch.Tensor, places: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Return inner products, all in float64 and from one sweep over the rows.

    Differences of them decide which pairs depend on one another, where float32 has too few
    digits: where few elements dominate, ``rough`` is wrong by 2e-6 of a square.

    Args:
        rows: ``(k, n)``.
        places: ``(j,)``, int64, some of the rows.
        vector: ``(n,)``, of the dtype of the rows.

    Returns:
        ``(k + 1, j + 1)``: of the rows and the vector with the rows at ``places`` and the vector.
    """
    count, size = rows.shape
    width = min(_chunk(rows), size)
    block = rows.new_empty(count + 1, width, dtype=torch.float64)
    chosen = torch.cat([places, places.new_full((1,), count)])
    sums = block.new_empty(-(-size // width), len(chosen), count + 1)
    for part, piece, found in zip(
            torch.split(rows, width, 1), torch.split(vector, width), sums, strict=True):
        block.resize_(count + 1, len(piece))  # the last one may be shorter
        block[:-1].copy_(part)
        block[-1].copy_(piece)
        # For so few columns faster than one matrix product, which would first pack the block.
        for column, place in zip(block.index_select(0, chosen), found, strict=True):
            torch.mv(block, column, out=place)
    return sums.sum(0).T


def rough(rows: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    """Return the inner products ``(k,)`` of ``(k, n)`` with ``(n,)``, to about 1e-6.

    Each block in the dtype of the rows, their sum in float64: a quarter of the time.
    """
    width = _chunk(rows)
    blocks = zip(torch.split(rows, width, 1), torch.split(column, width), strict=True)
    sums = [torch.mv(part, piece) for part, piece in blocks]
    return torch.stack(sums).sum(0, dtype=torch.float64)


def replay(
    steps: torch.Tensor, mixed: torch.Tensor, changes: torch.Tensor, base: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Replay the SR1 updates from γI, oldest first, on inner products alone.

    Any leading dimensions are replayed side by side.

    Args:
        steps: ``(…, k, k)``, SᵀS.
        mixed: ``(…, k, k)``, SᵀY.
        changes: ``(…, k, k)``, YᵀY.
        base: ``(…)``, γ.

    Returns:
        C ``(…, k, k)``, upper triangular, and w ``(…, k)``: B = γI + ΨC diag(w) (ΨC)ᵀ, where an
        update that the skipping rule leaves out has w = 0.
    """
    size = steps.shape[-1]
    rate = base[..., None, None]
    slopes = mixed.mT - rate * steps  # ΨᵀS
    gram = changes - rate * (mixed + mixed.mT) + rate**2 * steps
    # Row i: what pair i leaves unexplained, y − Bs for the B so far, as a combination of the
    # columns of Ψ, and its products with all s and with all columns of Ψ.
    unit = torch.eye(size, dtype=steps.dtype, device=steps.device).expand_as(steps)
    table = torch.cat([unit, slopes, gram], -1)
    smallest = changes.diagonal(dim1=-2, dim2=-1) * _KNOWN**2
    skipped = steps.diagonal(dim1=-2, dim2=-1) * _SKIP**2
    weights, nothing = [], torch.zeros_like(base)
    for j in range(size):
        row = table[..., j, :]
        along = row[..., size + j : 2 * size]  # with the s of this pair and of the later ones
        denominator = along[..., 0]
        rest = (row[..., :size] * row[..., 2 * size :]).sum(-1)
        # NaN compares false: such a pair is left out.
        used = ((rest > smallest[..., j])
                & (denominator * denominator > skipped[..., j] * rest))
        weights.append(torch.where(used, denominator.reciprocal(), nothing))
        shares = along[..., 1:] * weights[-1][..., None]
        table[..., j + 1 :, :].addcmul_(shares[..., None], row[..., None, :], value=-1)
    return table[..., :size].mT, torch.stack(weights, -1)


class _Model(NamedTuple):
    """B = γI + (RᵀK) diag(t) (RᵀK)ᵀ with orthonormal RᵀK, R being the rows of the memory."""

    base: torch.Tensor
    mixture: torch.Tensor
    parts: Spectrum


class LSR1Hessian:
    """The quadratic model, learning from pairs (s, y) of one minibatch each.

    γ is half the smallest |sᵀy|/sᵀs held: below the curvature along the steps, as Erway,
    Griffin, Marcia, Omheni, Optim. Methods Softw. 35 (2020) advise, so that the updates add what
    is missing. Without pairs the model is linear. A pair that the skipping rule leaves out, or
    that is not finite, is forgotten; any other takes the place of the oldest.

    Nothing here fetches a value from the device, and no shape or order of operations depends on
    one; on CUDA ``torch.linalg.eigh`` does, its error flag, twice per pair. Memory: 2(m + 1)
    vectors of n floats, one pair of rows being the place for the next pair.

    Args:
        like: ``(n,)``, whose device and (at least float32) dtype the memory takes.
        memory: m, the number of pairs held.
    """

    learns = True

    def __init__(self, like: torch.Tensor, memory: int) -> None:
        dtype = torch.promote_types(like.dtype, torch.float32)
        self._size = size = memory + 1
        self._rows = torch.zeros(2 * size, like.numel(), dtype=dtype, device=like.device)
        # Rows of all s, oldest first and the free one last, then those of all y; what is not
        # taken is zero.
        self._order = torch.arange(2 * size, device=like.device)
        self._gram = self._zeros(2 * size, 2 * size)  # of the rows in that order
        self._pending = False
        nothing = Spectrum(self._zeros(memory, memory), self._zeros(memory),
                           self._zeros(memory).bool())
        self._model = _Model(self._zeros(), self._zeros(2 * size, memory), nothing)

    def _zeros(self, *shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self._rows.device)

    def learn(self, step: torch.Tensor, gradient: torch.Tensor, before: torch.Tensor) -> None:
        """Learn from the pair (s, y): a step, and the gradients at its end and at its start.

        Its inner products wait for those of the next ``step``.
        """
        if self._pending:
            any_vector = self._rows[0]
            self._absorb(products(self._rows, self._free(), any_vector))
        pair = step, gradient - before
        for row, value in zip(torch.split(self._free(), 1), pair, strict=True):
            self._rows.index_copy_(0, row, value.to(self._rows.dtype)[None])
        self._pending = True

    def step(self, gradient: torch.Tensor, radius: torch.Tensor, norm: str) -> torch.Tensor:
        """Return the model's minimiser over ‖p‖ ≤ δ.

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
        wide = gradient.to(self._rows.dtype)
        free = self._free()
        found = products(self._rows, free if self._pending else free[:0], wide)
        if self._pending:
            self._absorb(found)
        model = self._model
        solution = solve(model.parts, model.base, self._along(found[:-1, -1]), found[-1, -1],
                         radius.double(), len(wide))
        step = torch.mv(self._rows.T, (model.mixture @ solution.along).to(wide.dtype))
        step.addcmul_(wide, solution.scale.to(wide.dtype), value=-1)
        # Rounding in float32 must not leave the ball.
        limit = radius.to(wide.dtype)
        step.mul_(limit / torch.maximum(torch.linalg.vector_norm(step), limit))
        return step.to(gradient.dtype)

    def reduction(self, gradient: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Return −(gᵀp + ½pᵀBp) for any step p, a scalar on the device."""
        wide, model = step.to(self._rows.dtype), self._model
        along = self._along(rough(self._rows, wide))
        bent = along @ (model.parts.curvature * along) + model.base * torch.dot(wide, wide)
        return -torch.dot(gradient, step) - 0.5 * bent.to(step.dtype)

    def _free(self) -> torch.Tensor:
        """Return the two rows for the next pair."""
        return self._order[self._size - 1 :: self._size]

    def _along(self, slopes: torch.Tensor) -> torch.Tensor:
        """Return the coordinates in the model's basis of what has these products with all rows.

        Products with a pair that is not finite must not spoil the others, 0·NaN being NaN.
        """
        return self._model.mixture.T @ slopes.index_fill(0, self._free(), 0.0)

    def _absorb(self, found: torch.Tensor) -> None:
        """Decide on the pending pair by the ``products`` of all rows with it; rebuilds B.

        Held or forgotten: B is built for both, side by side. The pair is held if it then changes
        B, in a memory where the oldest pair has made room for it.
        """
        size = self._size
        found = found.index_select(0, self._order)[:, :2]
        found = found.masked_fill(~found.isfinite().all(), 0.0)
        self._gram[:, size - 1 :: size] = found
        self._gram[size - 1 :: size] = found.T
        old = self._gram.view(2, size, 2, size)
        new = old.roll((-1, -1), (1, 3))
        either = torch.stack([new, old])[:, :, :-1, :, :-1]
        steps, mixed, changes = either[:, 0, :, 0], either[:, 0, :, 1], either[:, 1, :, 1]
        squares = steps.diagonal(dim1=1, dim2=2)
        rates = (mixed.diagonal(dim1=1, dim2=2).abs() / squares).masked_fill(
            squares == 0, torch.inf).amin(1) / 2
        bases = rates.masked_fill(rates == torch.inf, 0.0)
        coefficients, weights = replay(steps, mixed, changes, bases)
        held = weights[0, -1] != 0

        def chosen(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            return torch.where(held, one, other)

        order = self._order.view(2, size)
        order = chosen(order.roll(-1, 1), order)
        self._order = order.flatten()
        self._gram = chosen(new, old).reshape(2 * size, 2 * size)
        base, columns = chosen(*bases), chosen(*coefficients)
        mixture = torch.cat([-base * columns, columns])  # Φ of the rows in order
        gram = mixture.T @ chosen(*either).reshape(2 * (size - 1), -1) @ mixture
        parts = spectrum(gram, chosen(*weights))
        placed = self._zeros(2 * size, size - 1).index_copy_(
            0, order[:, :-1].flatten(), mixture @ parts.basis)
        self._model, self._pending = _Model(base, placed, parts), False
        self._rows.index_fill_(0, self._free(), 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the pairs, their inner products, and the model made of them."""
        base, mixture, parts = self._model
        tensors = {"rows": self._rows, "order": self._order, "gram": self._gram, "base": base,
                   "mixture": mixture} | parts._asdict()
        return {name: value.clone() for name, value in tensors.items()} | {
            "pending": self._pending}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            ValueError: It holds another number of pairs or of parameters.
        """
        if state["rows"].shape != self._rows.shape:
            raise ValueError("the saved memory has another shape: set memory as it was")
        self._rows.copy_(state["rows"])
        here = {name: value.to(self._rows.device, copy=True) for name, value in state.items()
                if name not in ("rows", "pending")}
        self._order, self._gram = here["order"], here["gram"]
        parts = Spectrum(*(here[name] for name in Spectrum._fields))
        self._model = _Model(here["base"], here["mixture"], parts)
        self._pending = state["pending"]
