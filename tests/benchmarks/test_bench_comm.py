"""What counting costs a collective, and what an audit costs a pause: `make bench`."""

import datetime as dt
import time

import pytest
import torch
import torch.distributed as dist
from harness_ranks import run_ranks

from bench_apts.meters import hooks
from bench_apts.meters.audit import Audit
from bench_apts.meters.comm import CommMeter

ELEMENTS = 1000
ROUNDS, CALLS = 9, 200


def microseconds(call):
    """Time of one call, as the best of some rounds: what the machine does besides is not ours."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        rounds.append(time.perf_counter() - start)
    return 1e6 * min(rounds) / CALLS


def between_two(connect):
    connect()
    tensor = torch.zeros(ELEMENTS)
    return microseconds(lambda: dist.all_reduce(tensor))


@pytest.fixture(scope="module")
def of_two():
    """Microseconds of an all-reduce of two processes."""
    return min(run_ranks(between_two, 2))


@pytest.fixture
def alone(monkeypatch):
    """A process group of one over gloo."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1,
                            timeout=dt.timedelta(seconds=30))
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("how", ["pre-hook", "dispatcher"])
def test_meter_counts_an_all_reduce(benchmark, alone, of_two, how):
    tensor, meter = torch.zeros(ELEMENTS), CommMeter()
    bare = microseconds(lambda: dist.all_reduce(tensor))
    library = None
    if how == "dispatcher":
        library = hooks.by_dispatch(meter._dispatched)
    elif hasattr(dist.ProcessGroup, "register_pre_hook"):
        meter.watch(alone)
    else:
        pytest.skip("this torch has no pre-hook")
    try:
        cost = microseconds(lambda: dist.all_reduce(tensor)) - bare
        benchmark.group = "meter, all-reduce of one rank"
        benchmark.extra_info["microseconds per collective"] = round(cost, 2)
        benchmark.extra_info["share of an all-reduce of two ranks"] = round(cost / of_two, 4)
        benchmark(dist.all_reduce, tensor)
    finally:
        if library is not None:
            library._destroy()
    counted = meter.snapshot()["setup"]["all_reduce"]
    assert counted.calls > ROUNDS * CALLS
    assert counted.payload_bytes == 4 * ELEMENTS * counted.calls


def test_audit_reads_the_sockets(benchmark, alone):
    """Once in each pause of training."""
    meter = CommMeter()
    meter.name = "c10d pre-hook"
    meter.watch(alone)
    dist.all_reduce(torch.zeros(ELEMENTS))
    audit = Audit(meter)
    benchmark.group = "meter, audit"
    benchmark(audit.bill, "train")
    assert audit.result(0).parts["train"].difference == 0
