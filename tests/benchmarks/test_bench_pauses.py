"""What a pause for an evaluation costs, beside the evaluation in it and what must come with it.

A trial's pauses take turns with bare ones: a barrier that ends training, the same evaluation of
the same model, a broadcast, a line of a file. With ``--benchmark-disable`` both have to be made,
and nothing is measured.
"""

import itertools
import json
import statistics
import time
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from harness_ranks import run_ranks
from test_bench_harness import make_job

from bench_apts.meters.clock import Clock
from bench_apts.meters.comm import CollectiveCounter
from bench_apts.trial.evaluation import evaluate
from bench_apts.trial.trial_run import TrialRun

STEPS, PAUSES = 22, 100
"""Steps between two pauses, as in the suite, and how many pauses of either kind are timed."""

BARS = {1: 4.2, 2: 2.8}
"""Highest ratio of the CPU times of rank 0, by ranks; 3.5 and 2.1 were measured on busy cores,
where it had been 4.8 and 3.3."""


def seconds(function):
    began, cpu = time.monotonic(), time.process_time()
    function()
    return time.process_time() - cpu, time.monotonic() - began


def measured(connect, job, pauses, path):
    clock, meter = Clock(), CollectiveCounter()
    meter.install()
    connect()
    run = TrialRun(job, clock, meter, torch.device("cpu"))
    run._warm_up()
    run._evaluate()
    batches = itertools.cycle(list(itertools.islice(run.batches.training(run.totals.step), STEPS)))
    taken = {"pause": [], "bare": []}

    def bare():
        run._synchronize()
        with run.observer.passes.paused():
            result = evaluate(run.evaluated, run.validation, run.task, run.world)
        if run.world.size > 1:
            dist.broadcast(torch.zeros(1), 0)
        with open(path, "a") as file:
            file.write(json.dumps(result.metrics()) + "\n")

    for pause in range(2 * pauses):
        for batch in itertools.islice(batches, STEPS):
            run.totals.add(run.observer.step(batch))
        kind, made = (("pause", run._evaluate), ("bare", bare))[pause % 2]
        taken[kind].append(seconds(made))
    return SimpleNamespace(taken=taken, evaluations=len(run.evals))


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_pause_beside_the_evaluation_in_it(benchmark, tmp_path, ranks):
    pauses = PAUSES if benchmark.enabled else 2
    job = make_job(tmp_path, "digits", "cpu", ranks, "sgd", STEPS, 4 * PAUSES)
    result, *_ = benchmark.pedantic(
        lambda: run_ranks(measured, ranks, job, pauses, str(tmp_path / "bare"), patience_s=280),
        rounds=1, iterations=1)
    assert result.evaluations == 1 + pauses
    assert len((tmp_path / "bare").read_text().splitlines()) == pauses * ranks
    if not benchmark.enabled:
        return
    cpu, wall = ({kind: statistics.median(pair[place] for pair in pairs)
                  for kind, pairs in result.taken.items()} for place in (0, 1))
    ratio = cpu["pause"] / cpu["bare"]
    benchmark.group = f"pause at N = {ranks}: {ratio:.2f} of a bare one"
    benchmark.extra_info |= {"ratio of CPU times": round(ratio, 2),
                             "ratio of wall times": round(wall["pause"] / wall["bare"], 2),
                             "CPU milliseconds": {k: round(1e3 * s, 2) for k, s in cpu.items()}}
    assert ratio < BARS[ranks]
