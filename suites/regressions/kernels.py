"""Seconds of the optimizers' own arithmetic: one rank, one thread, the shapes of digits."""

from __future__ import annotations

import itertools

import torch

from .backend_costs import marked

VARIANTS = ("tr", "apts-paper", "apts-paper[solver=l-sr1]", "apts-paper[solver=tr-adam]", "napts",
            "apts")

_WARM = 12
"""Iterations before a measured one: L-SR1's memories of 5 pairs are full by then."""

_MEMORY = 10


class OuterIteration:
    """From one agreement of all ranks to the next; one rank here, so communication is free."""

    params = (list(VARIANTS),)
    param_names = ("variant",)

    def setup(self, variant: str) -> None:
        from bench_apts.contract import Batch, World
        from bench_apts.core.configuration import parse_selector
        from bench_apts.plugins import registry
        from bench_apts.suites import models

        torch.set_num_threads(1)
        torch.manual_seed(0)
        suite, entry = registry.suite("digits"), parse_selector(variant)
        backend = registry.optimizer(entry.optimizer).backend
        values = backend.configure(entry.pinned)
        size = suite.batch_size
        if backend.batch_size:
            size = backend.batch_size(size, values, 1)
        model = models.build(suite.model.name, suite.model.options, (64,), 10)
        # An endless horizon: no schedule ends while steps are repeated.
        world = World(0, 1, torch.device("cpu"), size, 10**12)
        self.stepper = backend.build(model, torch.nn.functional.cross_entropy, values, world)
        self.batch = Batch(torch.randn(size, 64), torch.randint(10, (size,)))
        for _ in range(_WARM):
            self._iterate()

    def _iterate(self) -> None:
        while not self.stepper.step(self.batch).agreed:
            pass

    @marked(version="1", timeout=120)
    def time_outer_iteration(self, variant: str) -> None:
        self._iterate()


class LSR1:
    """A limited-memory model of n parameters with all its pairs."""

    params = ([6_570, 1_000_000],)
    param_names = ("n",)

    def setup(self, size: int) -> None:
        from bench_apts.optimizers.apts import lsr1_hessian

        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.solver = lsr1_hessian.LSR1Hessian(torch.zeros(size), _MEMORY)
        self.radius = torch.tensor(0.1)
        gradients = torch.randn(_MEMORY + 2, size)
        for before, after in itertools.pairwise(gradients):
            self.before, self.after = before, after
            self.move = self.solver.step(before, self.radius, "l2")
            self.solver.learn(self.move, after, before)
        self.solver.step(after, self.radius, "l2")  # takes in the last pair

    @marked(version="1", timeout=120)
    def time_subproblem(self, size: int) -> None:
        self.solver.step(self.after, self.radius, "l2")

    @marked(version="1", timeout=120)
    def time_update_and_subproblem(self, size: int) -> None:
        self.solver.learn(self.move, self.after, self.before)
        self.solver.step(self.after, self.radius, "l2")
