"""The warm-up: a few real steps that are undone, and the proof that they are.

Also what a step may depend on: states as plain values, and those of random number generators.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from bench_apts.core.errors import ContractError
from bench_apts.plugins import replicas
from bench_apts.trial.contract_checks import ReportCheck, rank_independent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench_apts.plugins.optimizer_contract import Batch, Stepper, World

_SCALARS = (bool, int, float, str)

_CLOSE = 0.01
"""Share of a step by which a repeated one may differ on a GPU, whose sums have no fixed order."""


def rehearse(
    stepper: Stepper, batches: Sequence[Batch], world: World, report_check: ReportCheck,
    after_first: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, int | bytes] | None]:
    """Take a step on each batch and undo them all; all ranks call this together.

    Random number generators are restored as well.

    Args:
        stepper: What trains.
        batches: Minibatches of this rank, at least one.
        world: This rank's place.
        report_check: Checks what the steps return.
        after_first: Called after the first step.

    Returns:
        The stepper's state before the steps, the states of the random number generators, and
        the bits of the stepper's state; None where it has none.

    Raises:
        ContractError: A report is wrong or differs between ranks, or the state changed with the
            steps that followed it.
    """
    generators, state = random_states(world.device), stepper.state_dict()
    bits = _StateBits(state)
    kept = bits()
    for number, batch in enumerate(batches):
        report = report_check.checked(stepper.step(batch), len(batch.targets))
        _require_same(rank_independent(report), world)
        if not number:
            after_first()
    if bits() != kept:
        raise ContractError("what state_dict() returned changed when the stepper went on; return "
                            "copies, for instance by copy.deepcopy")
    _undo(stepper, state, generators, world.device)
    return state, generators, kept


def prove_undone(
    stepper: Stepper, model: torch.nn.Module, batches: Sequence[Batch], world: World,
    report_check: ReportCheck,
) -> None:
    """Do what ``rehearse`` does, and prove that nothing of the steps is left.

    The first step is taken again from the state that ``load_state_dict`` took back. On one CPU
    rank it should end at the same bits. Elsewhere, and where it does not (a first step may differ
    for good reasons), it is taken once more, after another number of undone steps, and must end
    where it ended before. Then weights, buffers and state must be those of the beginning.

    Args:
        stepper: What trains.
        model: The model that it was built with.
        batches: Minibatches of this rank, at least one.
        world: This rank's place.
        report_check: Checks what the steps return.

    Raises:
        ContractError: As ``rehearse``, or a step is not undone.
    """
    weights, exact = _ModelBits(model), world.device.type == "cpu"
    shown = weights()
    fresh: list[Any] = []
    state, generators, kept = rehearse(
        stepper, batches, world, report_check,
        lambda: fresh.append(weights()) if exact and world.size == 1 else None)
    begins: list[Any] = []
    ends: list[Any] = []
    for _ in range(2):
        if weights() != shown:
            raise ContractError("load_state_dict() does not bring back the weights and buffers "
                                "that state_dict() returned, so steps of the warm-up would stay")
        if not exact:
            begins.append(_copies(model))
        stepper.step(batches[0])
        ends.append(weights() if exact else _copies(model))
        _undo(stepper, state, generators, world.device)
        if ends == fresh:  # with more ranks all would have to agree on it
            break
    if ends != fresh and not (ends[0] == ends[1] if exact else _close(begins[0], *ends)):
        raise ContractError("the same step, taken twice from the state that load_state_dict() "
                            "took back, ends at different weights: state_dict() leaves out "
                            "something that decides a step (momentum, a step count, a generator)")
    now = _StateBits(stepper.state_dict())()
    if now != kept or weights() != shown:
        raise ContractError("state_dict() does not return what load_state_dict() took back, so "
                            "something of the undone steps of the warm-up is left")
    set_random_states(world.device, generators)


def _undo(
    stepper: Stepper, state: dict[str, Any], generators: dict[str, Any], device: torch.device
) -> None:
    stepper.load_state_dict(state)
    set_random_states(device, generators)


class _ModelBits:
    """The bits of a model's parameters and buffers, also where it has exchanged them for others.

    Args:
        model: The model.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model, self._weights = model, replicas.Weights([])

    def __call__(self) -> int | bytes:
        """Return what is equal as long as the bits are."""
        tensors = [tensor for module in self._model.modules()
                   for held in (module._parameters, module._buffers)
                   for tensor in held.values() if tensor is not None]
        if not self._weights.are(tensors):
            self._weights = replicas.Weights(tensors)
        return self._weights.bits()


class _StateBits:
    """The values of a state, bit for bit.

    Args:
        state: As a stepper returned it.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self._state, self._tensors = state, replicas.Weights([])

    def __call__(self) -> tuple[str, int | bytes] | None:
        """Return what is equal for equal states; None where one holds what no checkpoint could."""
        tensors: list[torch.Tensor] = []
        try:
            rest = _plain(self._state, "state", tensors.append)
        except UnsupportedState:
            return None
        if not self._tensors.are(tensors):
            self._tensors = replicas.Weights(tensors)
        return repr(rest), self._tensors.bits()


def _copies(model: torch.nn.Module) -> list[torch.Tensor]:
    return [replicas.local_part(p).clone() for p in model.parameters()]


def _close(
    begin: list[torch.Tensor], one: list[torch.Tensor], other: list[torch.Tensor]
) -> bool:
    """Say whether two steps end as close together as repeated ones do on a GPU."""
    step = torch.stack([torch.dist(a, b) for a, b in zip(begin, one, strict=True)]).norm()
    apart = torch.stack([torch.dist(a, b) for a, b in zip(one, other, strict=True)]).norm()
    return bool(apart <= _CLOSE * step)


def _require_same(numbers: Sequence[int], world: World) -> None:
    """Refuse numbers that differ between ranks."""
    if world.size == 1:
        return
    both = torch.tensor([*numbers, *(-number for number in numbers)], device=world.device)
    dist.all_reduce(both, op=dist.ReduceOp.MAX)
    highest, lowest = both.chunk(2)
    if not torch.equal(highest, -lowest):
        raise ContractError(
            "the ranks' reports of one step differ in samples, total_samples or agreed, so that "
            "ranks would evaluate at different steps; report total_samples, the same number on "
            "every rank, agreed on in a collective that the step needs anyway")


_Place = str | tuple[Any, Any]
"""Where in a state something lies: its name, or the place around it and a key, None for a key."""


class UnsupportedState(Exception):
    """A state holds something that cannot be kept as data."""


def plain_state(value: Any) -> Any:
    """Return a state as plain Python values and tensors: what ``torch.load`` reads without code.

    Args:
        value: None, bools, numbers, strings, tensors, and lists, tuples and dictionaries of them;
            also of subclasses, of which the value is kept.

    Raises:
        UnsupportedState: It holds anything else; the message says what and where.
    """
    # Without attributes, which torch.save would write as well.
    return _plain(value, "state", lambda tensor: tensor.detach())


def _plain(value: Any, where: _Place, keep: Callable[[torch.Tensor], Any]) -> Any:
    kind = type(value)
    if value is None or kind in _SCALARS:
        return value
    if isinstance(value, torch.Tensor):
        if kind not in (torch.Tensor, torch.nn.Parameter) or value.layout != torch.strided:
            raise UnsupportedState(f"{_spelled(where)} is a {kind.__name__} ({value.layout})")
        return keep(value)
    if isinstance(value, dict):
        return {key if type(key) is str else _plain(key, (where, None), keep):
                _plain(item, (where, key), keep) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(item, (where, number), keep) for number, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    for scalar in _SCALARS:
        if isinstance(value, scalar):
            return scalar(value)
    raise UnsupportedState(f"{_spelled(where)} is a {kind.__name__}")


def _spelled(where: _Place) -> str:
    """Return a place as text, for instance ``state.optimizer.0``."""
    if isinstance(where, str):
        return where
    outer, key = _spelled(where[0]), where[1]
    return f"a key of {outer}" if key is None else f"{outer}.{key}"


def random_states(device: torch.device) -> dict[str, Any]:
    """Return the states of all random number generators that a step may draw from."""
    kind, keys, *rest = np.random.get_state()
    found: dict[str, Any] = {
        "torch": torch.random.get_rng_state(),
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
    }
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def set_random_states(device: torch.device, state: dict[str, Any]) -> None:
    """Restore what ``random_states`` returned."""
    torch.random.set_rng_state(state["torch"])
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
