"""What the checks of a stepper's claims cost, as a share of a whole digits trial.

Blocks of the trial's own loop with the checks take turns with blocks without them, on one model:
there its passes are not counted, and no second clock runs. What checks add
to an evaluation and to the warm-up (three steps that are undone) is timed by itself. The sum over
a trial is divided by what a trial takes from its launch on, with the server of ranks running:
launcher, fork and rank. All are CPU seconds, and of each what the quickest tenth of repetitions
stays below: on a busy machine the others find their caches emptied by other processes.

With ``--benchmark-disable`` both kinds of step have to be taken, and nothing is measured.
"""

import contextlib
import itertools
import random
import statistics
import time
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace

import msgspec
import psutil
import pytest
import torch
from harness_ranks import run_ranks
from test_bench_harness import make_job

from bench_apts.core.records import Eval, Event
from bench_apts.launch.elastic import Launcher
from bench_apts.meters.clock import Clock
from bench_apts.meters.comm import CollectiveCounter
from bench_apts.plugins import registry
from bench_apts.trial import trial_run as trial
from bench_apts.trial import warmup
from bench_apts.trial.trial_run import TrialRun

REPEATS = 100
"""How often what an evaluation and a warm-up add is timed."""

BAR = 0.01
"""Highest share of the CPU time of a trial that the checks may take. With nothing else running
0.0091 (0.0083 to 0.0096) was measured for sgd: 1.4, 0.8 and 1.0 of 345 milliseconds for 420 steps,
21 evaluations and the warm-up; 0.0079 (0.0071 to 0.0086) for apts."""

STEPS, PAIRS = 4, 1200
"""Steps of a block, whole rounds of apts and few enough to be left alone, and blocks of a kind."""

TRIALS = 8
"""Launched trials. The kernel counts the server's seconds in hundredths, so the median counts."""


def seconds(function):
    began = time.process_time()
    function()
    return time.process_time() - began


@contextlib.contextmanager
def uncounted(model):
    """Take the counters of passes off a model for a block."""
    *_, watched = (parameter for parameter in model.parameters() if parameter.requires_grad)
    forward, hooks = vars(model).pop("forward"), watched._backward_hooks
    watched._backward_hooks = None
    yield
    model.forward, watched._backward_hooks = forward, hooks


def bare_warm_up(stepper, batches, device):
    state, generators = stepper.state_dict(), warmup.random_states(device)
    for batch in batches:
        stepper.step(batch)
    stepper.load_state_dict(state)
    warmup.set_random_states(device, generators)


def undisturbed(values):
    return statistics.quantiles(values, n=10)[0]


def difference(checked, bare):
    """Return how far the undisturbed values are apart, and the limits of 95 % of resamples."""
    def drawn(values):
        return undisturbed(random.choices(values, k=len(values)))

    resampled = sorted(drawn(checked) - drawn(bare) for _ in range(400))
    return undisturbed(checked) - undisturbed(bare), resampled[10], resampled[-11]


def measured(connect, job, steps, pairs):
    """Return the seconds of blocks of steps, evaluations and warm-ups with checks and without."""
    connect()
    run = TrialRun(job, Clock(), CollectiveCounter(), torch.device("cpu"))
    run._warm_up()
    run._evaluate()
    batches = itertools.cycle(list(itertools.islice(run.batches.training(run.totals.step), steps)))
    observer, stepper, passes = run.observer, run.observer.stepper, run.observer.passes

    def checked():
        for batch in itertools.islice(batches, steps):
            run.totals.add(observer.step(batch))

    def bare():
        for batch in itertools.islice(batches, steps):
            run.totals.add(stepper.step(batch))

    blocks, seen = ([], []), []
    for pair in range(2 * pairs):
        run.totals.samples, before, counted = 0, run.totals.step, passes.state()
        if pair % 4 in (1, 2):
            taken = seconds(checked)
            assert passes.since(counted).backwards >= run.totals.step - before == steps
            blocks[0].append(taken)
        else:
            with uncounted(run.model):
                blocks[1].append(seconds(bare))
            seen.append(passes.since(counted).state())

    def checked_evaluation():
        run._pause()
        observer.evaluation_model(iter(()), 0)
        observer.begin_steps()

    evaluations, warm_ups = ([], []), ([], [])
    few = list(itertools.islice(batches, trial.WARMUP_STEPS))
    for _ in range(REPEATS):
        bare()  # so that caches are as cold as in a trial
        evaluations[0].append(seconds(checked_evaluation))
        evaluations[1].append(seconds(stepper.evaluation_model))
        warm_ups[0].append(seconds(lambda: warmup.prove_undone(
            stepper, run.model, few, run.world, observer.reports)))
        warm_ups[1].append(seconds(lambda: bare_warm_up(stepper, few, run.world.device)))
    return SimpleNamespace(blocks=blocks, evaluations=evaluations, warm_ups=warm_ups,
                           passes=passes.state(), uncounted=seen)


def launched(job):
    """Return the CPU seconds of a trial from launch to end, and its evaluations."""
    taken = []
    with Launcher([], "cpu") as launcher:
        for _ in range(1 + TRIALS):  # the first one starts the server
            Path(job.events).unlink(missing_ok=True)
            before = 0.0 if not taken else server_seconds()
            began = time.process_time()
            outcome = launcher.run(job, 250)
            taken.append(time.process_time() - began + server_seconds() - before)
            assert outcome.status in ("hit", "miss"), outcome
    events = [msgspec.json.decode(line, type=Event)
              for line in Path(job.events).read_bytes().splitlines()]
    return statistics.median(taken[1:]), [event for event in events if isinstance(event, Eval)]


def server_seconds():
    """Return the CPU seconds of the server of ranks and of the ranks that have ended."""
    times = psutil.Process(forkserver._forkserver._forkserver_pid).cpu_times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("optimizer", ["sgd", "apts"])
def test_checks_beside_the_same_steps_without_them(benchmark, tmp_path, optimizer):
    suite = registry.suite("digits")
    each = suite.evaluation.every_samples // suite.batch_size
    whole, pairs = suite.budget.samples // suite.batch_size // each, PAIRS
    if not benchmark.enabled:
        whole, pairs = 2, 2
    job = make_job(tmp_path, "digits", "cpu", 1, optimizer, each, whole, suite.data.validation)
    [result] = benchmark.pedantic(
        lambda: run_ranks(measured, 1, job, STEPS, pairs, patience_s=280), rounds=1, iterations=1)
    assert min(result.passes) > 0
    assert result.uncounted == [[0, 0, 0]] * pairs
    if not benchmark.enabled:
        return
    trial_s, evals = launched(job)
    steps, evaluations, warm_up = (difference(*times) for times in (
        result.blocks, result.evaluations, result.warm_ups))
    share, low, high = ((evals[-1].step * step / STEPS + len(evals) * evaluation + once) / trial_s
                        for step, evaluation, once in zip(steps, evaluations, warm_up,
                                                          strict=True))
    benchmark.group = f"checks, {optimizer} on digits: {share:.2%}, {low:.2%} to {high:.2%}"
    benchmark.extra_info |= {
        "percent of a trial": [round(100 * part, 2) for part in (share, low, high)],
        "steps and evaluations": [evals[-1].step, len(evals)],
        "microseconds of a step": [round(1e6 * part / STEPS, 2) for part in steps],
        "microseconds of an evaluation": [round(1e6 * part, 1) for part in evaluations],
        "milliseconds of a warm-up": [round(1e3 * part, 2) for part in warm_up],
        "CPU seconds of a trial": round(trial_s, 3)}
    print(benchmark.group, benchmark.extra_info)
    assert low <= BAR
