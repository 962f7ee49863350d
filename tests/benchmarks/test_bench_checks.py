"""What the checks of a stepper's claims cost, as a share of a whole digits trial.

Blocks of steps with the checks take turns with blocks without them: there the model is not
instrumented, and no report is looked at. What an evaluation and the warm-up add is timed by
itself. The sum over a trial, in CPU seconds, is divided by the time that a trial takes from its
launch on, with the server of ranks running.

With ``--benchmark-disable`` both kinds of step have to be taken, and nothing is measured.
"""

import itertools
import statistics
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import msgspec
import pytest
import torch
from harness_ranks import run_ranks
from test_bench_harness import make_job

from bench_apts import network, registry, trial
from bench_apts.conformance import replicas, undo
from bench_apts.conformance.passes import Passes
from bench_apts.launch.elastic import Launcher
from bench_apts.meters.clock import Clock
from bench_apts.meters.comm import CommMeter
from bench_apts.records import Eval, Event
from bench_apts.stats.bootstrap import median_interval
from bench_apts.trial import Run

STEPS = 50
"""Steps of a block."""

REPEATS = 50
"""How often what an evaluation and a warm-up add is timed."""

BAR = 0.03
"""Highest share of the trial's time that the checks may take. The aim is 0.01; measured: 0.024."""

TRIALS = 5
"""Launched trials; the fastest counts."""


def seconds(function):
    began = time.process_time()
    function()
    return time.process_time() - began


def prepared(job):
    run = Run(job, Clock(), CommMeter(), torch.device("cpu"))
    run._warm_up()
    run._evaluate()
    return run, itertools.cycle(list(itertools.islice(run._batches(), STEPS)))


def measured(connect, job, pairs):
    """Return the seconds that checks add to a step, an evaluation and a warm-up."""
    connect()
    run, batches = prepared(job)
    with mock.patch.object(network, "instrument", return_value=Passes()):
        other, its_batches = prepared(job)
    observer, stepper = run.observer, run.observer.stepper

    def checked():
        for batch in itertools.islice(batches, STEPS):
            observer.step(batch)
        observer.pause()

    def bare():
        for batch in itertools.islice(its_batches, STEPS):
            other.observer.stepper.step(batch)

    added = []
    for pair in range(pairs):
        taken = {block: seconds(block)
                 for block in ((checked, bare) if pair % 2 else (bare, checked))}
        added.append((taken[checked] - taken[bare]) / STEPS)
    evaluation = [seconds(lambda: observer.evaluation_model(iter(()), 0))
                  - seconds(stepper.evaluation_model)
                  + seconds(lambda: replicas.model_fingerprints(run.model))
                  for _ in range(REPEATS)]
    few = list(itertools.islice(batches, trial.WARMUP_STEPS))
    arguments = few, run.world, observer.reports
    warm_up = [seconds(lambda: undo.prove_undone(stepper, run.model, *arguments))
               - seconds(lambda: undo.rehearse(stepper, *arguments))
               for _ in range(REPEATS)]
    return SimpleNamespace(
        step=added, evaluation=statistics.median(evaluation), warm_up=statistics.median(warm_up),
        passes=observer.passes.state(), uncounted=other.observer.passes.state())


def launched(job):
    """Return the seconds of the fastest of some trials from launch to end, and its events."""
    taken = []
    with Launcher([], "cpu") as launcher:
        for _ in range(1 + TRIALS):  # the first one starts the server
            Path(job.events).unlink(missing_ok=True)
            began = time.monotonic()
            outcome = launcher.run(job, 250)
            taken.append(time.monotonic() - began)
            assert outcome.status in ("hit", "miss"), outcome
    events = [msgspec.json.decode(line, type=Event)
              for line in Path(job.events).read_bytes().splitlines()]
    return min(taken[1:]), [event for event in events if isinstance(event, Eval)]


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("optimizer", ["sgd", "apts"])
def test_checks_beside_the_same_steps_without_them(benchmark, tmp_path, optimizer):
    suite = registry.suite("digits")
    each = suite.evaluation.every_samples // suite.batch_size
    whole, pairs = (suite.budget.samples // suite.batch_size // each, 120)
    if not benchmark.enabled:
        whole, pairs = 2, 2
    job = make_job(tmp_path, "digits", "cpu", 1, optimizer, each, whole)
    [result] = benchmark.pedantic(
        lambda: run_ranks(measured, 1, job, pairs, patience_s=280), rounds=1, iterations=1)
    assert min(result.passes) > 0
    assert result.uncounted == [0, 0, 0]
    if not benchmark.enabled:
        return
    trial_s, evals = launched(job)
    fixed = len(evals) * result.evaluation + result.warm_up
    low, high = ((evals[-1].step * step + fixed) / trial_s
                 for step in median_interval(result.step))
    benchmark.group = f"checks by a digits trial, {optimizer}: {low:.2%} to {high:.2%}"
    benchmark.extra_info |= {
        "microseconds of a step": round(1e6 * statistics.median(result.step), 2),
        "microseconds of an evaluation": round(1e6 * result.evaluation, 1),
        "milliseconds of a warm-up": round(1e3 * result.warm_up, 2),
        "seconds of a trial": round(trial_s, 3)}
    assert low <= BAR  # beyond doubt, on a busy machine too
