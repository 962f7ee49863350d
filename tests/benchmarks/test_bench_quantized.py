"""A quantised mean beside the all-reduce of floats that it replaces, over loopback."""

import statistics
import time

import pytest
import torch
import torch.distributed as dist
from harness_ranks import run_ranks

from bench_apts.optimizers.quantized_mean import QuantizedMean

SIZES = (100_000, 2_000_000)


def times(connect, size, rounds):
    """By bits, of each round: seconds on the wall, and of this process's CPU."""
    connect()
    vector = torch.randn(size, generator=torch.Generator().manual_seed(0))
    means = {bits: QuantizedMean(vector, bits) for bits in (4, 8)}
    calls = {32: lambda _: dist.all_reduce(vector)} | {
        bits: lambda number, mean=mean: mean.average(vector, number)
        for bits, mean in means.items()}
    found = {bits: [] for bits in calls}
    for number in range(-1, rounds):  # one that is not counted
        for bits, call in calls.items():
            vector.mul_(1 / vector.abs().max())
            dist.barrier()
            wall, own = time.perf_counter(), time.process_time()
            call(number)
            if number >= 0:
                found[bits].append((time.perf_counter() - wall, time.process_time() - own))
    dist.destroy_process_group()
    return found


@pytest.mark.parametrize("size", SIZES)
def test_quantised_means_beside_an_all_reduce(benchmark, size):
    rounds = 25 if benchmark.enabled else 1
    found = benchmark.pedantic(
        lambda: run_ranks(times, 2, size, rounds)[0], rounds=1, iterations=1)
    benchmark.group = "quantised means beside an all-reduce of floats, N = 2"
    assert {len(rows) for rows in found.values()} == {rounds}
    if benchmark.enabled:
        for bits in (4, 8):
            for place, what in enumerate(("wall", "CPU")):
                benchmark.extra_info[f"{bits} bits, {what}"] = round(statistics.median(
                    mine[place] / theirs[place]
                    for mine, theirs in zip(found[bits], found[32], strict=True)), 2)
