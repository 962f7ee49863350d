"""What APTS costs beside data-parallel Adam on the same samples: ratios within one run.

With ``--benchmark-disable`` a few steps have to work, and nothing is measured.
"""

import itertools
import statistics
import time

import pytest
import torch
import torch.distributed as dist
from harness_ranks import run_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bench_apts.optimizers.apts import APTS
from bench_apts.plugins import registry
from bench_apts.suites import models

BATCH = 128
"""Samples of all ranks per local step, as the backend ``apts`` takes them."""

STEPS = 1875
"""Local steps that the MNIST suite's budget pays for; the last 1635 are in rounds of 16."""

BLOCK = 48
"""Local steps of a block, then as many of the other: a third of a second at most."""


class Ours:
    """Blocks of ``APTS`` steps that end where the ranks agree."""

    def __init__(self, model, data, **settings):
        self.optimizer = APTS(model.parameters(), **settings)
        self.model, (self.inputs, self.targets) = model, data
        # The published method needs means alone.
        self.reduction = "mean" if settings["variant"] == "paper" else "none"

    def closure(self, backward):
        losses = nn.functional.cross_entropy(
            self.model(self.inputs), self.targets, reduction=self.reduction)
        if backward:
            losses.mean().backward()
        return losses.detach()

    def block(self, steps):
        """Steps taken, forward and backward passes."""
        taken = forwards = backwards = 0
        while True:
            self.optimizer.step(self.closure)
            last = self.optimizer.last
            taken, forwards = taken + 1, forwards + last["forwards"]
            backwards += last["backwards"]
            if taken >= steps and last.get("agreed", True):
                return taken, forwards, backwards


class Theirs:
    """Blocks of fused AdamW steps, under DistributedDataParallel on more than one rank."""

    def __init__(self, model, data, wrap):
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        self.model, (self.inputs, self.targets) = wrap(model), data

    def block(self, steps):
        for _ in range(steps):
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(self.inputs), self.targets).backward()
            self.optimizer.step()
        return steps, steps, steps


def compared(connect, size, settings, steps, block):
    """Per block: local steps so far, and (seconds, steps, forwards, backwards) of both."""
    if connect:
        connect()
    suite = registry.suite("mnist")
    share = BATCH // size
    data = torch.randn(share, 1, 28, 28), torch.randint(10, (share,))
    torch.manual_seed(0)
    one, other = (models.build(suite.model.name, suite.model.options, (1, 28, 28), 10)
                  for _ in range(2))
    ours = Ours(one, data, **settings)
    wrap = DistributedDataParallel if size > 1 else lambda model: model
    theirs = Theirs(other, data, wrap)
    theirs.block(3)  # DDP rebuilds its buckets in the second step
    done, rows = 0, []
    while done < steps:
        row = []
        for side in (ours, theirs):
            if size > 1:
                dist.barrier()
            began = time.perf_counter()
            counts = side.block(block)
            row.append((time.perf_counter() - began, *counts))
        done += row[0][1]
        rows.append((done, *row))
    if size > 1:
        dist.destroy_process_group()
    return rows


def whole(rows, passes):
    """Ours by theirs over all blocks, per sample and what ``passes`` counts."""
    ours, theirs = ([sum(column) for column in zip(*side, strict=True)]
                    for side in list(zip(*rows, strict=True))[1:])
    return ours[0] / passes(*ours[1:]) / (theirs[0] / passes(*theirs[1:]))


def ratio(rows, passes):
    """The same as a median over blocks."""
    return statistics.median(
        ours[0] / passes(*ours[1:]) / (theirs[0] / passes(*theirs[1:]))
        for _, ours, theirs in rows)


def processed(taken, forwards, backwards):
    return forwards


def local(taken, forwards, backwards):
    return taken


def weighed(taken, forwards, backwards):
    """A backward pass costs two forward passes."""
    return forwards + 2 * backwards


def perceptron(inputs, *widths):
    sizes = [inputs, *widths, 10]
    layers = [part for pair in itertools.pairwise(sizes)
              for part in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


WIDTHS = {
    100_000: ((64, 256, 256), 60),
    10_000_000: ((784, 2048, 2048, 2048), 8),
    50_000_000: ((784, 4096, 4096, 4096, 2816), 3),
}
"""By the number of parameters, about: inputs and hidden layers, and rounds to measure."""


def rounds_beside(widths, rounds):
    """CPU seconds, steps, forward and backward passes of both, for 16 steps in turns."""
    torch.manual_seed(0)
    data = torch.randn(BATCH, widths[0]), torch.randint(10, (BATCH,))
    # An endless horizon, and rounds of 4 after those of 1 and 2.
    ours = Ours(perceptron(*widths), data, variant="stochastic", samples=10**9,
                rounds_per_length=1)
    theirs = Theirs(perceptron(*widths), data, lambda model: model)
    ours.block(15)
    theirs.block(2)
    rows = []
    for number in range(rounds):
        row = []
        for side in (ours, theirs):
            began = time.process_time()
            counts = side.block(16)
            row.append((time.process_time() - began, *counts))
        rows.append((number, *row))
    return rows


def report(benchmark, group, run, infos):
    rows = benchmark.pedantic(run, rounds=1, iterations=1)
    benchmark.group = group
    if benchmark.enabled:
        benchmark.extra_info |= {name: round(info(rows), 3) for name, info in infos.items()}
    return rows


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("size", [1, 2])
def test_stochastic_beside_adam(benchmark, size):
    steps, block = (STEPS, BLOCK) if benchmark.enabled else (4, 1)
    settings = {"variant": "stochastic", "samples": STEPS * BATCH // size}

    def run():
        arguments = size, settings, steps, block
        return run_ranks(compared, size, *arguments)[0] if size > 1 else compared(None, *arguments)

    def late(rows):
        return [row for row in rows if row[0] > 240 + 16]

    rows = report(benchmark, "APTS-S beside Adam", run, {
        "per sample, whole run": lambda rows: whole(rows, processed),
        "per sample, rounds of 4": lambda rows: ratio(late(rows), processed),
        "per local step, whole run": lambda rows: whole(rows, local),
        "per local step, rounds of 4": lambda rows: ratio(late(rows), local),
    })
    assert all(ours[2] >= ours[1] == ours[3] for _, ours, _ in rows)
    if benchmark.enabled:
        # Loose: other work on the machine moves even a ratio. The goals are 1.1 and 1.
        assert benchmark.extra_info["per sample, rounds of 4"] < 1.5


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("n", WIDTHS)
def test_stochastic_step_beside_fused_adamw(benchmark, n):
    """In CPU time at N = 1, of the same minibatch; one step of 16 tests, a forward pass more."""
    widths, rounds = WIDTHS[n] if benchmark.enabled else ((64, 8, 8), 1)
    rows = report(benchmark, "APTS-S beside fused AdamW, CPU time",
                  lambda: rounds_beside(widths, rounds),
                  {"per sample": lambda rows: ratio(rows, processed),
                   "per local step": lambda rows: ratio(rows, local)})
    assert all(ours[1] == theirs[1] == ours[3] for _, ours, theirs in rows)
    if benchmark.enabled:
        assert benchmark.extra_info["per sample"] < 1.05


@pytest.mark.usefixtures("one_thread")
def test_paper_beside_adam(benchmark):
    steps, block = (200, 5) if benchmark.enabled else (1, 1)
    settings = {"variant": "paper"}
    rows = report(
        benchmark, "the published APTS beside Adam",
        lambda: compared(None, 1, settings, steps, block),
        {"per sample and forward pass, a backward one being two": lambda rows: ratio(
            rows, weighed)})
    assert all(ours[2:] == (8 * ours[1], 6 * ours[1]) for _, ours, _ in rows)
