"""What the harness adds to a training step, beside a bare loop that does the same work.

Blocks of a trial's own training loop, by the trial's own clock, take turns with blocks of the
bare loop in the same process group. The meter's hook belongs to the harness: it is taken off the
group while the bare loop trains. A second group for the latter would not do: it would have
sockets and threads of its own, and be faster or slower for that alone.

With ``--benchmark-disable`` some steps have to do the same work, and nothing is measured.
"""

import os
import statistics
import time
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from bare_loop import BareLoop
from harness_ranks import run_ranks
from medians import median_interval

from bench_apts.core.configuration import parse_selector
from bench_apts.core.job import RankJob
from bench_apts.core.records import Eval
from bench_apts.core.spec import Study
from bench_apts.meters import collective_hooks, comm
from bench_apts.meters.clock import Clock
from bench_apts.plugins import registry
from bench_apts.study.plan import Plan
from bench_apts.suites import arrays, data, models
from bench_apts.suites.known_data import KNOWN
from bench_apts.trial.trial_run import TrialRun

STEPS = 50
"""Steps of a block: 20 to 100 milliseconds on a CPU, less than the suites train without pause."""

PAIRS = 120
"""Blocks of either kind; their number is even."""

WARM = 2
"""Pairs that do not count: DDP rebuilds its buckets, a GPU's libraries choose their kernels."""

BARS = {("digits", "cpu", 2): 1.05, ("mnist", "cpu", 2): 1.01,
        ("cifar10-resnet18", "cuda", 1): 1.02}
"""Highest ratio of the train time of a step, by suite, device and ranks."""

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(
        parameters, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.0, fused=True),
    "adam": lambda parameters: torch.optim.AdamW(
        parameters, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0, fused=True),
}
"""With the defaults of the backends of these names, and their kernels."""


class Interleaved(TrialRun):
    """A trial in whose pauses the bare loop trains, in the order A B B A.

    So either is as often the first as the second of its pair, and starts as often after an
    evaluation, which leaves the caches cold.

    Attributes:
        hooked: Process groups with what the meter's hook of each calls.
        seconds: Of each block, and ``cpu_seconds`` of this process, by ``harness`` and ``bare``.
    """

    def __init__(self, job, clock, meter, device, hooked):
        super().__init__(job, clock, meter, device)
        trial, suite, given = job.trial, job.trial.suite, self.dataset
        torch.manual_seed(trial.seeds.init)
        model = models.build(suite.model.name, suite.model.options, given.input_shape,
                             given.classes)
        if device.type == "cuda":
            model.to(device, memory_format=torch.channels_last)
        self.bare = BareLoop(
            model, OPTIMIZERS[trial.optimizer], self.train.inputs, self.train.targets,
            (given.mean, given.std, given.scale), self.world.rank, self.world.size,
            trial.batch_size, suite.budget.samples // trial.batch_size, trial.seeds.data,
            suite.precision == "bf16")
        self.hooked = hooked
        self.block = suite.evaluation.every_samples // trial.batch_size
        self.seconds = {"harness": [], "bare": []}
        self.cpu_seconds = {"harness": [], "bare": []}

    def _write(self, event):
        super()._write(event)
        assert isinstance(event, Eval)
        if self.totals.step:
            self._note("harness", event.train_s - sum(self.seconds["harness"]),
                       self.clock.cpu_seconds("train") - sum(self.cpu_seconds["harness"]))
        for _ in range(2 * (len(self.evals) % 2 == 0)):
            self._train_bare()

    def _train_bare(self):
        for group, *_ in self.hooked:
            group.unregister_pre_hook(self.meter.hook_id)
        self._synchronize()
        began, cpu_began = time.perf_counter(), time.process_time()
        self.bare.train(self.block)
        self._synchronize()
        self._note("bare", time.perf_counter() - began, time.process_time() - cpu_began)
        for hooked in self.hooked:
            collective_hooks.by_hook(*hooked)

    def _note(self, which, seconds, cpu_seconds):
        self.seconds[which].append(seconds)
        self.cpu_seconds[which].append(cpu_seconds)


def trained(connect, job, metered):
    """What both have done and how long it took, on this rank."""
    os.environ.pop(comm.MECHANISM, None)
    clock, meter, device, hooked = Clock(), comm.CollectiveCounter(), torch.device("cpu"), []
    by_hook = collective_hooks.by_hook

    def remember(*arguments, **options):
        hooked.append(arguments)
        by_hook(*arguments, **options)

    with mock.patch.object(collective_hooks, "by_hook", remember):
        if metered:
            meter.install()
        if job.trial.device == "cuda":
            device = torch.device("cuda", 0)
            torch.cuda.set_device(device)
            dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1,
                                    device_id=device)
        else:
            connect()
    run = Interleaved(job, clock, meter, device, hooked)
    run._warm_up()
    run._train(None)
    weights = [torch.cat([p.detach().flatten() for p in model.parameters()]).cpu().numpy()
               for model in (run.evaluated, run.bare.model)]
    return SimpleNamespace(
        steps=(run.totals.step, run.bare.taken), weights=weights, seconds=run.seconds,
        cpu_seconds=run.cpu_seconds, counted=meter.snapshot())


def make_job(folder, name, device, ranks, optimizer, steps, pairs, validation=100):
    """A trial on random numbers of the real shape, with an evaluation after each block."""
    batch_size = registry.suite(name).batch_size
    suite = registry.suite(name, (
        f"suite.budget.samples={batch_size * steps * pairs}", "suite.budget.seconds=3600",
        f"suite.evaluation.every_samples={batch_size * steps}",
        f"suite.data.validation={validation}"))
    facts = KNOWN[suite.data.name]
    meta = arrays.store(folder / "arrays", facts, lambda _: (numbers(facts), "random numbers"))
    prepared = data.Prepared(suite.data.name, folder / "arrays", meta["sha256"], meta["source"])
    study = Study(suites=(suite,), entries=(parse_selector(optimizer),), ranks=(ranks,), trials=0,
                  seeds=1, base_seed=0, device=device)
    trial = Plan(study, {suite.data.name: prepared}).reporting([])[0]
    return RankJob(trial, str(prepared.folder), str(folder / "events.jsonl"))


def numbers(facts):
    rng, test = np.random.default_rng(0), facts.samples // 6
    made = {}
    for part, count in ("train", facts.samples - test), ("test", test):
        shape = (count, *facts.shape)
        made[f"{part}_inputs"] = (rng.random(shape, dtype=np.float32) if len(facts.shape) == 1
                                  else rng.integers(0, 256, shape, dtype=np.uint8))
        made[f"{part}_targets"] = rng.integers(0, facts.classes, count)
    return made


def ratios(results, what):
    """Harness by bare loop, for each pair of blocks; the mean over ranks of either."""
    harness, bare = (np.mean([getattr(result, what)[which] for result in results], axis=0)
                     for which in ("harness", "bare"))
    return (harness / bare)[WARM:]


def median_text(values):
    low, high = median_interval(values)
    return f"{statistics.median(values):.4f} [{low:.4f}, {high:.4f}]"


@pytest.mark.parametrize(("name", "device", "ranks", "optimizer", "metered"), [
    ("digits", "cpu", 2, "adam", True),
    ("digits", "cpu", 2, "adam", False),
    ("digits", "cpu", 1, "sgd", True),
    ("mnist", "cpu", 2, "adam", True),
    pytest.param("cifar10-resnet18", "cuda", 1, "sgd", True, marks=[
        pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]),
])
def test_harness_beside_a_bare_loop(benchmark, tmp_path, name, device, ranks, optimizer, metered):
    if ranks > 1 and not hasattr(dist.ProcessGroup, "register_pre_hook"):
        pytest.skip("this torch has no pre-hook, which could be taken off")
    steps, pairs = (STEPS, PAIRS) if benchmark.enabled else (13, 4)
    job = make_job(tmp_path, name, device, ranks, optimizer, steps, pairs)
    results = benchmark.pedantic(
        lambda: run_ranks(trained, ranks, job, metered, patience_s=280), rounds=1, iterations=1)
    whole = steps * pairs
    assert [result.steps for result in results] == [(whole, whole)] * ranks
    for result in results:
        harness, bare = result.weights
        if device == "cpu":
            assert np.array_equal(harness, bare)
        elif not benchmark.enabled:
            # Kernels that add in any order; over thousands of steps that grows without bound.
            np.testing.assert_allclose(harness, bare, rtol=0.05, atol=1e-3)
        if ranks > 1 and metered:
            reduced = {phase: result.counted[phase]["all_reduce"].calls
                       for phase in ("train", "eval")}
            # One bucket; an evaluation's sums and peaks, and its status. The bare loop's are not
            # among them.
            assert reduced["train"] == whole
            assert reduced["eval"] == 3 * (pairs + 1)
    if not benchmark.enabled:
        return
    taken, cpu = ratios(results, "seconds"), ratios(results, "cpu_seconds")
    without = "" if metered else " without the meter"
    benchmark.group = f"harness{without} by bare loop, {name}, N = {ranks}: {median_text(taken)}"
    benchmark.extra_info |= {
        "train time of a step, ratio": median_text(taken),
        "CPU time of a step, ratio": median_text(cpu),
        "microseconds of a step": {which: round(1e6 * statistics.median(times) / steps, 1)
                                   for which, times in results[0].seconds.items()}}
    # On a busy machine the interval is wide; only what is beyond doubt fails.
    assert not metered or median_interval(taken).low <= BARS.get((name, device, ranks), np.inf)
