"""The network of a trial as a backend is given it: on its device, its passes counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bench_apts.meters import flops
from bench_apts.plugins import micro
from bench_apts.tasks import module as tasks
from bench_apts.trial import weights
from bench_apts.trial.conformance.passes import instrument

if TYPE_CHECKING:
    from bench_apts.core.spec import Trial
    from bench_apts.plugins.contract import Batch
    from bench_apts.suites.data import Dataset
    from bench_apts.suites.problem import Problem


class Network:
    """What is trained, built under the trial's seed.

    Args:
        problem: The suite's.
        dataset: Its data.
        batch: ``flops.SAMPLES`` training samples.
        trial: The trial.
        device: Where the network is trained.

    Attributes:
        model: The network, or the module that computes the task's losses with it.
        loss: Reduces what the model returns.
        passes: Counts the model's passes.
        initial: Hash of the initial weights.
        parameters: How many numbers the parameters have.
        flops: Operations of a sample; None where they cannot be counted.
    """

    def __init__(
        self, problem: Problem, dataset: Dataset, batch: Batch, trial: Trial, device: torch.device
    ) -> None:
        suite = trial.suite
        torch.manual_seed(trial.seeds.init)
        model, self.loss = tasks.trained(
            problem.network(dataset), problem.task, suite.loss_scale or 1.0)
        self.initial = weights.sha256(model)
        self.parameters = sum(p.numel() for p in model.parameters())
        self.flops = flops.per_sample(model, self.loss, tasks.handed(problem.task, batch))
        self.model = model.to(device).to(memory_format=getattr(torch, suite.memory_format))
        forward = weights.in_precision(type(model).forward, device, suite.precision)
        if suite.compile:
            forward = torch.compile(forward)
        if suite.micro_batch:
            forward = micro.Chunked(forward, suite.micro_batch)
        self.passes = instrument(self.model, forward)
