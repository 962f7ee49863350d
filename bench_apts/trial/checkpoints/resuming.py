"""A trial's state in one rank: all that decides its further course and its record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from bench_apts.core.records import Eval
from bench_apts.meters import memory
from bench_apts.trial.conformance.undo import random_states, set_random_states

if TYPE_CHECKING:
    from bench_apts.trial.run import Run

_COUNTERS = ("step", "samples", "forwards", "backwards", "peak", "tensors")


def take(run: Run) -> dict[str, Any]:
    """Returns the state between two steps; all ranks call it together.

    The order of the data follows from the number of steps. What stepper and meters do for the
    state itself is in it.
    """
    run.peak = max(run.peak, memory.peak_bytes(run.world.device.type))
    stepper = run.observer.stepper.state_dict()
    run.audit.bill("checkpoint")
    return {
        "stepper": stepper,
        "random": random_states(run.world.device),
        "counters": {name: getattr(run, name) for name in _COUNTERS},
        "observer": run.observer.state(),
        "pending": run.pending.state(),
        "evals": msgspec.to_builtins(run.evals),
        "clock": run.clock.state(),
        "traffic": run.meter.state(),
        "audit": run.audit.state(),
    }


def give(run: Run, state: dict[str, Any]) -> None:
    """Puts a run that has warmed up where ``take`` was called; all ranks call it together."""
    run.observer.stepper.load_state_dict(state["stepper"])
    run.audit.bill("checkpoint")
    for name in _COUNTERS:
        setattr(run, name, state["counters"].get(name, 0))  # of an earlier version: none
    run.observer.resume(state["observer"])
    run.pending.resume(state["pending"])
    run.evals = msgspec.convert(state["evals"], list[Eval])
    run.clock.resume(state["clock"])
    run.meter.resume(state["traffic"])
    run.audit.resume(state["audit"])
    set_random_states(run.world.device, state["random"])
    memory.reset_peak(run.world.device.type)
