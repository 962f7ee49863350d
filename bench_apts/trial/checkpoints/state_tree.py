"""State without code: nested values as JSON beside a flat dictionary of tensors.

What ``state_dict`` of an optimizer returns nests dictionaries (also with numbers as keys), lists,
tuples, numbers and tensors. Everything comes back as it was: exact floats, the strides of
tensors, and one tensor where several places held the same one.
"""

from __future__ import annotations

import math
from typing import Any

import torch

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
