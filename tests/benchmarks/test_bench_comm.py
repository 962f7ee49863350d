"""What counting costs a collective and a training step, and an audit a pause: `make bench`."""

import datetime as dt
import statistics
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
from harness_ranks import run_ranks
from torch.optim import optimizer as optimizers

from bench_apts import CommMeter
from bench_apts.contract import Batch, World
from bench_apts.meters import collective_hooks
from bench_apts.meters.audit import Audit
from bench_apts.meters.comm import CollectiveCounter
from bench_apts.plugins import registry
from bench_apts.suites import models

ELEMENTS = 1000
ROUNDS, CALLS = 41, 2000
PAIRS, BLOCK = 1000, 5
SETTLING, IN_PLACE = 3, 50


class Switch:
    """A meter that can be put on a process group and taken off again."""

    def __init__(self, group, how):
        self.meter, self._group, self._how = CollectiveCounter(), group, how
        self.meter.phase = "train"
        self._end = None

    def on(self):
        if self._how == "dispatcher":
            self._end = collective_hooks.by_dispatch(self.meter._dispatched)
        else:
            self.meter.watch(self._group)

    def off(self):
        if self._end is None:
            self._group.unregister_pre_hook(self.meter.hook_id)
        else:
            self._end()


def timed(call, number):
    """Seconds on the wall, and of this thread's CPU, for one of ``number`` calls in a row."""
    wall, own = time.perf_counter(), time.thread_time()
    for _ in range(number):
        call()
    return (time.perf_counter() - wall) / number, (time.thread_time() - own) / number


def alternated(switch, call, rounds, number, meet=lambda: None):
    """Times of calls without the meter and with it, by round: [round][off, on][wall, CPU].

    Neighbours in time are compared, and each goes first as often as the other. A call between
    switching and timing lets the caches settle; ``meet`` has the ranks start together.
    """
    times = []
    for turn in range(rounds):
        pair = {}
        for on in (turn % 2 == 0, turn % 2 == 1):
            if on:
                switch.on()
            call()
            meet()
            pair[on] = timed(call, number)
            if on:
                switch.off()
        times.append((pair[False], pair[True]))
    return np.array(times)


def counting(connect, how, rounds, number):
    """Seconds of CPU that the meter takes for a collective, and what it counted.

    torch's fake process group dispatches collectives and sends nothing: nobody waits, and no
    other thread has a part in the difference. The caches are warm, unlike in a step.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    tensor, switch = torch.zeros(ELEMENTS), Switch(dist.group.WORLD, how)
    times = alternated(switch, lambda: dist.all_reduce(tensor), rounds, number)
    cost = statistics.median(times[:, 1, 1] - times[:, 0, 1])
    return cost, switch.meter.snapshot()["train"]["all_reduce"]


def all_reduces(connect, rounds, number):
    """Seconds of an all-reduce of two processes, as the best of some rounds."""
    connect()
    tensor = torch.zeros(ELEMENTS)
    return min(timed(lambda: dist.all_reduce(tensor), number)[0] for _ in range(rounds))


@pytest.fixture
def alone(monkeypatch):
    """A process group of one over gloo."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1,
                            timeout=dt.timedelta(seconds=30))
    yield dist.group.WORLD
    dist.destroy_process_group()


def skip_without_hooks(how):
    if how != "dispatcher" and not hasattr(dist.ProcessGroup, "register_pre_hook"):
        pytest.skip("this torch has no pre-hook")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("how", ["pre-hook", "dispatcher"])
def test_meter_counts_an_all_reduce(benchmark, alone, how):
    skip_without_hooks(how)
    rounds, calls = (ROUNDS, CALLS) if benchmark.enabled else (2, 5)
    ((cost, counted),) = run_ranks(counting, 1, how, rounds, calls)
    assert counted.calls == rounds * (calls + 1)
    assert counted.payload_bytes == 4 * ELEMENTS * counted.calls
    of_two = min(run_ranks(all_reduces, 2, rounds, calls))
    benchmark.group = "meter, all-reduce of one rank"
    benchmark.extra_info["microseconds per collective"] = round(1e6 * cost, 3)
    benchmark.extra_info["share of an all-reduce of two ranks"] = f"{cost / of_two:.2%}"
    tensor, switch = torch.zeros(ELEMENTS), Switch(alone, how)
    switch.on()
    try:
        benchmark(dist.all_reduce, tensor)
    finally:
        switch.off()
    assert switch.meter.snapshot()["train"]["all_reduce"].calls > 0


class BlockSwitch:
    """A ``CommMeter`` for each block, as a script of somebody's has one; ``steps`` it counted."""

    def __init__(self):
        self.steps = 0

    def on(self):
        self._meter = CommMeter(automatic_steps=True).__enter__()

    def off(self):
        self._meter.__exit__(None, None, None)
        rows = self._meter.rows()
        assert "backward" in {row.phase for row in rows}
        assert sum(row.calls for row in rows) % self._meter.steps == 0
        self.steps += self._meter.steps


def mlp():
    """Return a network for MNIST and its minibatch: 2 all-reduces a step."""
    return torch.nn.Sequential(
        torch.nn.Linear(784, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512), torch.nn.ReLU(),
        torch.nn.Linear(512, 10)), torch.randn(128, 784)


def resnet():
    """Return ResNet-18 and a minibatch of CIFAR-10's size: 3 or more collectives a step."""
    torchvision = pytest.importorskip("torchvision")
    return torchvision.models.resnet18(num_classes=10), torch.randn(32, 3, 32, 32)


def script_step(make):
    """Return a step of AdamW under DDP, after those in which DDP settles."""
    torch.manual_seed(0)
    network, inputs = make()
    model = torch.nn.parallel.DistributedDataParallel(network)
    optimizer = torch.optim.AdamW(model.parameters())
    targets = torch.randint(10, (len(inputs),))

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    for _ in range(SETTLING):  # DDP rebuilds its buckets in the second
        step()
    return step


class ClockedHooks:
    """Has torch note the CPU time of each hook that is registered from now on."""

    def __init__(self):
        self.seconds = []
        for place, name in ((dist.ProcessGroup, "register_pre_hook"),
                            (optimizers, "register_optimizer_step_pre_hook"),
                            (optimizers, "register_optimizer_step_post_hook")):
            setattr(place, name, self._clocked(getattr(place, name)))

    def _clocked(self, register):
        def register_clocked(*arguments):
            *before, hook = arguments

            def clocked(*given):
                own = time.thread_time_ns()
                hook(*given)
                self.seconds.append((time.thread_time_ns() - own) / 1e9)

            return register(*before, clocked)

        return register_clocked


def hooks_in_place(connect, make, steps):
    """CPU seconds of a step, of the meter's hooks in it, and of as many that do nothing.

    Measured where they run: after the step's work the caches hold nothing of theirs. The clock's
    own time is in both, so that their difference is what the hooks take.
    """
    connect()
    step = script_step(make)
    clocked, group = ClockedHooks(), dist.group.WORLD
    group.register_pre_hook(1, lambda args: None)
    own = time.thread_time()
    for _ in range(steps):
        step()
    whole = (time.thread_time() - own) / steps
    group.unregister_pre_hook(1)
    nothing = statistics.fmean(clocked.seconds)
    with CommMeter(automatic_steps=True) as meter:
        for _ in range(SETTLING):
            step()
        clocked.seconds.clear()
        for _ in range(steps):
            step()
        found = list(clocked.seconds)
    assert meter.steps == steps + SETTLING
    return whole, sum(found) / steps, nothing * len(found) / steps


def script_steps(connect, make, pairs, block):
    """Steps with a ``CommMeter`` and without; times as ``alternated``, and the meter's steps."""
    connect()
    step, switch = script_step(make), BlockSwitch()

    def settle():
        """A script begins its meter once; here the caches get over it."""
        for _ in range(SETTLING):
            step()

    return alternated(switch, step, pairs, block, settle), switch.steps


def digits_step(connect):
    """Return a step of AdamW under DDP on the suite's minibatch, and the number of parameters."""
    connect()
    suite = registry.suite("digits")
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = models.build(suite.model.name, suite.model.options, (64,), 10)
    # An endless horizon: no schedule ends while steps are repeated.
    world = World(rank, size, torch.device("cpu"), suite.batch_size, 10**12)
    backend = registry.optimizer("adam").backend
    stepper = backend.build(
        model, getattr(torch.nn.functional, suite.loss), backend.configure({}), world)
    local = suite.batch_size // size
    batch = Batch(torch.randn(local, 64), torch.randint(10, (local,)))
    for _ in range(20):
        stepper.step(batch)
    return lambda: stepper.step(batch), sum(p.numel() for p in model.parameters())


def digits_steps(connect, how, pairs, block):
    """Steps with the harness's counter and without; times as ``alternated``, and counts."""
    step, parameters = digits_step(connect)
    switch = Switch(dist.group.WORLD, how)

    def meet():
        switch.meter.phase = "eval"
        dist.barrier()
        switch.meter.phase = "train"

    times = alternated(switch, step, pairs, block, meet)
    return times, switch.meter.snapshot()["train"], parameters


def test_share_of_a_digits_step(benchmark):
    """The smallest suite's step on two ranks; the meter should stay under 0.5 % of it.

    Steps with the meter and without it are compared in pairs, on the wall and in CPU time of the
    thread that steps. The last number is a lower bound that other processes disturb less: what
    counting a collective costs in a loop of nothing else, by the time of a step. Within a step
    the hook costs several times as much, since the caches are cold when it is called.
    """
    skip_without_hooks("pre-hook")
    pairs, block, rounds, calls = (
        (PAIRS, BLOCK, ROUNDS, CALLS) if benchmark.enabled else (2, 2, 2, 5))
    benchmark.group = "meter, digits steps of two ranks"
    ranks = benchmark.pedantic(
        run_ranks, (digits_steps, 2, "pre-hook", pairs, block), {"patience_s": 250}, rounds=1)
    steps = pairs * (block + 1)
    for times, counted, parameters in ranks:
        assert set(counted) == {"all_reduce"}
        assert counted["all_reduce"].payload_bytes == steps * 4 * parameters
        assert counted["all_reduce"].calls == steps
        assert times.shape == (pairs, 2, 2)
    ((cost, _),) = run_ranks(counting, 1, "pre-hook", rounds, calls)
    times = ranks[0][0]
    step = np.median(times[:, 0, 0])
    benchmark.extra_info |= {
        "microseconds of a step": round(1e6 * step),
        "share of a digits step, wall": share(times[:, :, 0]),
        "share of a digits step, CPU": share(times[:, :, 1]),
        "share of a digits step, warm hook": f"{cost / step:.3%}",
    }


@pytest.mark.parametrize("make", [mlp, pytest.param(resnet, marks=pytest.mark.slow)])
def test_what_the_hooks_take_of_a_step(benchmark, make):
    """CPU time of all that ``CommMeter`` does in a step of two ranks: it should stay below 1 %.

    What it does is what its hooks do; other processes disturb this less than whole steps.
    """
    skip_without_hooks("pre-hook")
    benchmark.group = "meter, hooks in place"
    ranks = benchmark.pedantic(
        run_ranks, (hooks_in_place, 2, make, IN_PLACE if benchmark.enabled else 2),
        {"patience_s": 550}, rounds=1)
    for whole, hooks, nothing in ranks:
        assert whole > 0
        assert min(hooks, nothing) > 0
    whole, hooks, nothing = np.mean(ranks, axis=0)
    benchmark.extra_info |= {
        "microseconds of CPU of a step": round(1e6 * whole),
        "of its hooks": round(1e6 * hooks, 1),
        "of hooks that do nothing, by the clock": round(1e6 * nothing, 1),
        "share of a step, CPU": f"{(hooks - nothing) / whole:.3%}",
    }


@pytest.mark.parametrize(("make", "pairs", "block"), [
    (mlp, 80, 10), pytest.param(resnet, 40, 4, marks=pytest.mark.slow)])
def test_comm_meter_s_share_of_a_step(benchmark, make, pairs, block):
    """``CommMeter`` in a script on two ranks: it should stay below 1 %.

    Phases are told apart, steps of the optimizer counted and the audit begun: all that
    ``bench-apts meter`` does without ``--time``, but for a line in ten seconds.
    """
    skip_without_hooks("pre-hook")
    if not benchmark.enabled:
        pairs, block = 2, 2
    benchmark.group = "meter, a script on two ranks"
    ranks = benchmark.pedantic(
        run_ranks, (script_steps, 2, make, pairs, block), {"patience_s": 550}, rounds=1)
    for times, steps in ranks:
        assert steps == pairs * (block + 1 + SETTLING)
        assert times.shape == (pairs, 2, 2)
    times = np.mean([times for times, _ in ranks], axis=0)
    benchmark.extra_info |= {
        "microseconds of a step": round(1e6 * np.median(times[:, 0, 0])),
        "share of a step, wall": share(times[:, :, 0]),
        "share of a step, CPU": share(times[:, :, 1]),
    }


def share(times):
    """Median of the paired shares by which steps take longer, with a 95 % interval."""
    ratios = times[:, 1] / times[:, 0] - 1
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return f"{np.median(ratios):+.2%} [{low:+.2%}, {high:+.2%}]"


def test_audit_reads_the_sockets(benchmark, alone):
    """Once in each pause of training."""
    meter = CollectiveCounter()
    meter.name = "c10d pre-hook"
    meter.watch(alone)
    dist.all_reduce(torch.zeros(ELEMENTS))
    audit = Audit(meter)
    benchmark.group = "meter, audit"
    benchmark(audit.bill, "train")
    assert audit.result(0).parts["train"].difference == 0
