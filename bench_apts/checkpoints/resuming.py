"""A trial's state in one rank: all that decides its further course and its record."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch

from bench_apts.meters import memory
from bench_apts.records import Eval

if TYPE_CHECKING:
    from bench_apts.trial import Run

_COUNTERS = ("step", "samples", "forwards", "backwards", "peak")


def take(run: Run) -> dict[str, Any]:
    """Returns the state between two steps; all ranks call it together.

    The order of the data follows from the number of steps. What stepper and meters do for the
    state itself is in it.
    """
    run.peak = max(run.peak, memory.peak_bytes(run.world.device.type))
    stepper = run.stepper.state_dict()
    run.audit.bill("checkpoint")
    return {
        "stepper": stepper,
        "random": _random(run.world.device),
        "counters": {name: getattr(run, name) for name in _COUNTERS},
        "pending": run.pending.state(),
        "evals": msgspec.to_builtins(run.evals),
        "clock": run.clock.state(),
        "traffic": run.meter.state(),
        "audit": run.audit.state(),
    }


def give(run: Run, state: dict[str, Any]) -> None:
    """Puts a run that has warmed up where ``take`` was called; all ranks call it together."""
    run.stepper.load_state_dict(state["stepper"])
    run.audit.bill("checkpoint")
    for name in _COUNTERS:
        setattr(run, name, state["counters"][name])
    run.pending.resume(state["pending"])
    run.evals = msgspec.convert(state["evals"], list[Eval])
    run.clock.resume(state["clock"])
    run.meter.resume(state["traffic"])
    run.audit.resume(state["audit"])
    _set_random(run.world.device, state["random"])
    memory.reset_peak(run.world.device.type)


def _random(device: torch.device) -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()
    found: dict[str, Any] = {
        "torch": torch.random.get_rng_state(),
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
    }
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def _set_random(device: torch.device, state: dict[str, Any]) -> None:
    torch.random.set_rng_state(state["torch"])
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
