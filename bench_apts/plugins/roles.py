"""What each parameter of a network is for, by which some optimizers treat them differently."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from bench_apts.core.errors import unknown

if TYPE_CHECKING:
    import torch

Role = Literal["embedding", "head", "matrix", "vector"]


def roles(model: torch.nn.Module) -> dict[str, Role]:
    """Return the role of each parameter, by its name in ``model.named_parameters()``.

    A network may say it itself: a dictionary ``roles``, an attribute of any module, maps names of
    parameters within that module to roles. For the others, the first rule that fits decides:

    1. ``"embedding"``: the weight of ``nn.Embedding`` or ``nn.EmbeddingBag``, also where a head
       shares it.
    2. ``"vector"``: scalars and vectors, biases among them, and all parameters of normalisation
       layers. Of parameters that a module which is not torch's holds itself, also those with at
       most one dimension longer than 1; if the first of three or more is 1 and others are longer,
       as of positions, it is an ``"embedding"``.
    3. ``"head"``: the weights of the last layer, in order of registration, that has a matrix. If
       this matrix is an embedding's too (tied weights), no parameter is a head.
    4. ``"matrix"``: all others: matrices and kernels of hidden layers.

    Args:
        model: The network, also within the module of a task, DistributedDataParallel or
            ``torch.compile``.

    Raises:
        UserError: A dictionary ``roles`` of the network names an unknown parameter or role.
    """
    kinds: dict[int, Role] = {}
    last: list[torch.nn.Parameter] = []
    for module in model.modules():
        own = [parameter for parameter in module._parameters.values() if parameter is not None]
        for parameter in own:
            if kinds.get(id(parameter)) != "embedding":
                kinds[id(parameter)] = _kind(module, parameter)
        last = [p for p in own if _kind(module, p) == "matrix"] or last
    for parameter in last:
        if kinds[id(parameter)] == "matrix":
            kinds[id(parameter)] = "head"
    kinds |= _declared(model)
    return {name: kinds[id(parameter)] for name, parameter in model.named_parameters()}


def _kind(module: torch.nn.Module, parameter: torch.nn.Parameter) -> Role:
    """Return the role of a parameter by the module that holds it; a head counts as a matrix."""
    from torch import nn
    from torch.nn.modules.batchnorm import _NormBase

    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    if parameter.dim() < 2 or isinstance(
            module, _NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
        return "vector"
    if type(module).__module__.startswith("torch.nn."):
        return "matrix"
    if sum(size > 1 for size in parameter.shape) < 2:
        return "vector"
    return "embedding" if parameter.dim() > 2 and parameter.shape[0] == 1 else "matrix"


def _declared(model: torch.nn.Module) -> dict[int, Role]:
    """Return the roles that modules declare, by the parameters' identities."""
    found: dict[int, Role] = {}
    for module in model.modules():
        declared = vars(module).get("roles", getattr(type(module), "roles", None))
        if not isinstance(declared, dict):
            continue
        known = dict(module.named_parameters(remove_duplicate=False))
        for name, role in declared.items():
            if name not in known:
                raise unknown(f"parameter in {type(module).__name__}.roles", str(name), known)
            if role not in get_args(Role):
                raise unknown(f"role of {name} in {type(module).__name__}.roles", str(role),
                              get_args(Role))
            found[id(known[name])] = role
    return found
