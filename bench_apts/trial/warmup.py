"""State without code: nested values as JSON beside a flat dictionary of tensors.

What ``state_dict`` of an optimizer returns nests dictionaries (also with numbers as keys), lists,
tuples, numbers and tensors. Everything comes back as it was: exact floats, the strides of
tensors, and one tensor where several places held the same one.

The warm-up: a few real steps that are undone, and the proof that they are.
"""

from __future__ import annotations

import math
import random
import zlib
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
import torch.distributed as dist

from bench_apts.core.errors import ContractError
from bench_apts.plugins import replicas
from bench_apts.trial.contract_checks import ReportCheck, rank_independent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench_apts.plugins.optimizer_contract import Batch, Stepper, World

_WIDE = 2**63
"""From here on JSON readers differ about whole numbers."""


_Place = str | tuple[Any, Any]
"""Where in a state a value is; put into words only for an error."""


class UnsupportedState(Exception):
    """A state holds something that cannot be kept as data."""


def flatten(value: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Takes a state apart.

    Args:
        value: None, bools, numbers, strings, tensors, and lists, tuples and dictionaries of them.

    Returns:
        Plain values for JSON, and the tensors that they name, on the CPU.

    Raises:
        UnsupportedState: It holds anything else; the message says what and where.
    """
    tensors: dict[str, torch.Tensor] = {}
    names: dict[int, str] = {}
    return _flatten(value, "state", tensors, names), tensors


def _flatten(
    value: Any, where: _Place, tensors: dict[str, torch.Tensor], names: dict[int, str]
) -> Any:
    kind = type(value)
    if kind is str or kind is bool or value is None:  # most of what a state holds
        return value
    if isinstance(value, torch.Tensor):
        if kind not in (torch.Tensor, torch.nn.Parameter) or value.layout != torch.strided:
            raise UnsupportedState(f"{_shown(where)} is a {kind.__name__} ({value.layout})")
        if id(value) not in names:
            name = names[id(value)] = str(len(names))
            tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": names[id(value)], "device": value.device.type,
                "stride": list(value.stride())}
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < _WIDE else {"int": str(int(value))}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, dict):
        return {"dict": [
            [key if type(key) is str else _flatten(key, ("a key of", where), tensors, names),
             _flatten(item, (where, key), tensors, names)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        items = [_flatten(item, (where, number), tensors, names)
                 for number, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    raise UnsupportedState(f"{_shown(where)} is a {kind.__name__}")


def _shown(where: _Place) -> str:
    if isinstance(where, str):
        return where
    outer, key = where
    return f"a key of {_shown(key)}" if outer == "a key of" else f"{_shown(outer)}.{key}"


def rebuild(tree: Any, tensors: dict[str, torch.Tensor], device: torch.device) -> Any:
    """Puts a state together again.

    Args:
        tree: The plain values that ``flatten`` returned.
        tensors: The tensors that they name.
        device: Where tensors go that were not on the CPU.

    Raises:
        ValueError: The values are none of ``flatten``.
        KeyError: A tensor is missing.
    """
    placed: dict[str, torch.Tensor] = {}

    def build(node: Any) -> Any:
        if isinstance(node, list):
            return [build(item) for item in node]
        if not isinstance(node, dict):
            return node
        match node:
            case {"tensor": name, "device": kind, "stride": stride}:
                if name not in placed:
                    home = torch.device("cpu") if kind == "cpu" else device
                    placed[name] = _laid_out(tensors[name], stride, home)
                return placed[name]
            case {"dict": pairs}:
                return {build(key): build(item) for key, item in pairs}
            case {"tuple": items}:
                return tuple(build(item) for item in items)
            case {"int": digits}:
                return int(digits)
            case {"float": digits}:
                return float(digits)
        raise ValueError(f"no part of a state: {sorted(node)}")

    return build(tree)


def _laid_out(tensor: torch.Tensor, stride: list[int], device: torch.device) -> torch.Tensor:
    """Gives a tensor its strides back, where it filled its memory; others become contiguous."""
    # Kernels round differently where operands lie differently in memory.
    like = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device="meta")
    dense = like.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    if not dense or list(tensor.stride()) == stride:
        return tensor.to(device)
    placed = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=device)
    return placed.copy_(tensor)


_CLOSE = 0.01
"""Share of a step by which a repeated one may differ on a GPU, whose sums have no fixed order."""


def rehearse(
    stepper: Stepper, batches: Sequence[Batch], world: World, report_check: ReportCheck,
    after_first: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], dict[str, Any], int | None]:
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
        the fingerprint of the stepper's state; None where it has none.

    Raises:
        ContractError: A report is wrong or differs between ranks, or the state changed with the
            steps that followed it.
    """
    generators, state = random_states(world.device), stepper.state_dict()
    kept = _fingerprint(state)
    for number, batch in enumerate(batches):
        report = report_check.checked(stepper.step(batch), len(batch.targets))
        _require_same(rank_independent(report), world)
        if not number:
            after_first()
    if _fingerprint(state) != kept:
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
    shown, exact = _weights(model), world.device.type == "cpu"
    fresh: list[Any] = []
    state, generators, kept = rehearse(
        stepper, batches, world, report_check,
        lambda: fresh.append(_weights(model)) if exact and world.size == 1 else None)
    begins: list[Any] = []
    ends: list[Any] = []
    for _ in range(2):
        if _weights(model) != shown:
            raise ContractError("load_state_dict() does not bring back the weights and buffers "
                                "that state_dict() returned, so steps of the warm-up would stay")
        if not exact:
            begins.append(_copies(model))
        stepper.step(batches[0])
        ends.append(_weights(model) if exact else _copies(model))
        _undo(stepper, state, generators, world.device)
        if ends == fresh:  # with more ranks all would have to agree on it
            break
    if ends != fresh and not (ends[0] == ends[1] if exact else _close(begins[0], *ends)):
        raise ContractError("the same step, taken twice from the state that load_state_dict() "
                            "took back, ends at different weights: state_dict() leaves out "
                            "something that decides a step (momentum, a step count, a generator)")
    now = _fingerprint(stepper.state_dict())
    if now != kept or _weights(model) != shown:
        raise ContractError("state_dict() does not return what load_state_dict() took back, so "
                            "something of the undone steps of the warm-up is left")
    set_random_states(world.device, generators)


def _undo(
    stepper: Stepper, state: dict[str, Any], generators: dict[str, Any], device: torch.device
) -> None:
    stepper.load_state_dict(state)
    set_random_states(device, generators)


def _weights(model: torch.nn.Module) -> tuple[int, int]:
    return replicas.fingerprint(model.parameters()), replicas.fingerprint(model.buffers())


def _fingerprint(state: dict[str, Any]) -> int | None:
    """Return a state's fingerprint; None where it holds what no checkpoint could."""
    try:
        tree, tensors = flatten(state)
    except UnsupportedState:
        return None
    return zlib.crc32(msgspec.json.encode(tree), replicas.fingerprint(tensors.values()))


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
