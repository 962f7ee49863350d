"""``bench-apts traffic``: what a step of a network sends by each strategy, without training."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from bench_apts.cli import network_options, session
from bench_apts.core.errors import UserError, one_line, unknown
from bench_apts.stats.network_model import Algorithm

if TYPE_CHECKING:
    from bench_apts.optimizers.strategy_traffic import NetworkSizes

_ASSUMED = (
    "bytes are ideal ones that a rank sends in a step; times are modelled, none is measured: "
    "hops x latency + bytes / bandwidth of each collective, nothing overlaps, no link is shared "
    "(docs/projection.md)")


def command(
    model: Annotated[str, Option(
        metavar="MODULE:NAME|FILE.py:NAME",
        help="A function or class that makes the network, for instance "
             "torchvision.models:resnet18.")],
    gpus: Annotated[str, Option(metavar="N,N,…", help="World sizes.")] = "8",
    strategy: Annotated[str, Option(
        metavar="NAME,…", help="Of ddp, fsdp2, zero1, zero2, zero3 and apts.",
    )] = "ddp,fsdp2,zero1,zero2,zero3,apts",
    model_args: Annotated[str, Option(
        metavar="JSON", help="Arguments by name for the network, for instance "
                             "'{\"num_classes\": 10}'.")] = "{}",
    fabric: network_options.Names = None,
    fabrics: network_options.File = None,
    algorithm: network_options.Collectives = Algorithm.best,
    node_ranks: network_options.NodeRanks = 1,
    node_fabric: network_options.NodeFabric = "nvlink4",
) -> None:
    """Print what a network sends per step, without training it."""
    from rich.table import Table

    from bench_apts.core import units
    from bench_apts.optimizers.strategy_traffic import STRATEGIES
    from bench_apts.study import resolve

    networks = network_options.chosen_networks(fabric, fabrics, node_ranks, node_fabric)
    ranks = resolve.parse_sizes("--gpus", gpus)
    wanted = [name.strip() for name in strategy.split(",")]
    for name in wanted:
        if name not in STRATEGIES:
            raise unknown("strategy", name, STRATEGIES)
    sizes = _sizes(model, _arguments(model_args))
    elements = sum(tensor.elements for tensor in sizes.parameters)
    console = session.table_console()
    notes: dict[str, None] = {}
    for size in ranks:
        table = Table("strategy", "calls a step", "payload", "ideal bytes", *networks, box=None,
                      title_justify="left", title=f"{model}, {elements:,} parameters, N = {size}")
        for name in wanted:
            sent = STRATEGIES[name](sizes, size)
            if sent.note:
                notes[f"{name}: {sent.note}"] = None
            payload = sum(message.payload_bytes for message in sent.messages) / sent.steps
            texts = [units.trim(units.format_count(len(sent.messages) / sent.steps)),
                     units.format_size(payload), units.format_size(sent.ideal(size)),
                     *(units.format_seconds(sent.seconds(size, network, algorithm))
                       for network in networks.values())]
            table.add_row(name, *map(session.plain_text, texts))
        console.print(table)
    for note in (*notes, _ASSUMED):
        console.print(f"note: {note}", soft_wrap=True)


def _arguments(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"--model-args {text}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"--model-args {text}: expected names with values, for instance "
                        '{"num_classes": 10}')
    return found


def _sizes(reference: str, arguments: dict[str, Any]) -> NetworkSizes:
    """Make the network without memory, and return the sizes of its tensors."""
    import torch

    from bench_apts.optimizers.strategy_traffic import NetworkSizes, TensorSize
    from bench_apts.plugins import user_code

    def size(tensor: torch.Tensor) -> TensorSize:
        return TensorSize(tuple(tensor.shape), tensor.element_size(),
                          str(tensor.dtype).removeprefix("torch."))

    made = user_code.load(reference, Path.cwd(), "--model")
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = made.call(**arguments)
    except Exception as error:
        raise UserError(f"--model {reference} cannot be made: {one_line(str(error))}; see "
                        "--model-args") from error
    if not isinstance(network, torch.nn.Module):
        raise UserError(f"--model {reference} makes a {type(network).__name__}, expected a "
                        "torch.nn.Module")
    trained = [size(p) for p in network.parameters() if p.requires_grad]
    if not trained:
        raise UserError(f"--model {reference} has no parameters to train")
    return NetworkSizes(trained, [size(buffer) for buffer in network.buffers()])
