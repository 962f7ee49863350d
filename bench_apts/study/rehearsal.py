"""One batch through a suite's network and task, so that a mistake shows before the first trial."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from bench_apts.core.errors import UserError, brief
from bench_apts.plugins import micro
from bench_apts.suites import data
from bench_apts.tasks.module import handed, measured, trained
from bench_apts.trial.loader import Resident
from bench_apts.trial.trainable import (
    check_gradients,
    check_parameters,
    refuse_occasional,
    without_gradient,
)

if TYPE_CHECKING:
    from bench_apts.plugins.contract import Batch, Loss
    from bench_apts.suites.data import Dataset
    from bench_apts.suites.problem import Problem

_MOST = 64
"""Samples in the batch at most."""

_PARTS = 4
"""Parts of it, each of which must give every parameter a gradient."""


def rehearse(problem: Problem, dataset: Dataset) -> int:
    """Build the network and run one batch forward, backward and through the metrics, on the CPU.

    Random number generators are left as they were.

    Args:
        problem: The suite's.
        dataset: Its data.

    Returns:
        The number of the network's parameters.

    Raises:
        UserError: The network or the task cannot be run, or the losses are none of samples.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            network = problem.network(dataset)
            _run(problem, network, _batch(problem, dataset))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"model and task cannot be run on a batch: {brief(error)}") from error
    return sum(p.numel() for p in network.parameters())


def _batch(problem: Problem, dataset: Dataset) -> Batch:
    """Return the first training samples, and the one of the largest target."""
    suite = problem.suite
    (inputs, targets), _ = data.divided(
        dataset, suite.data.validation, suite.data.name, problem.task.contiguous)
    largest = int(np.argmax(targets.reshape(len(targets), -1).max(axis=1)))
    chosen = [*range(max(1, min(len(targets), suite.batch_size, _MOST) - 1)), largest]
    split = Resident(inputs[chosen], targets[chosen], dataset.mean, dataset.std, dataset.scale,
                     torch.device("cpu"))
    return split.take(torch.arange(len(chosen)))


def _run(problem: Problem, network: torch.nn.Module, batch: Batch) -> None:
    check_parameters(network)
    module, loss = trained(network.cpu(), problem.task, problem.suite.loss_scale or 1.0)
    given = handed(problem.task, batch)
    module.train()
    with torch.enable_grad():
        kept = copy.deepcopy(given)
        _check_losses(module, loss, given)
        loss(module(given.inputs), given.targets).backward()
        same = map(torch.equal, tree_leaves(kept), tree_leaves(given))
        if not all(same):
            raise UserError("the network or the task changes its batch in place, which an "
                            "optimizer may pass again: clone() what is changed")
        check_gradients(module)
        missed = []
        for part, _ in micro.parts(given, max(2, math.ceil(len(batch.targets) / _PARTS))):
            module.zero_grad()
            loss(module(part.inputs), part.targets).backward()
            missed += without_gradient(module)
        refuse_occasional(missed)
    if problem.suite.compile:
        _compile(module, loss, given)
    module.eval()
    with torch.no_grad():
        sums = measured(module, problem.task, batch)
    if not all(math.isfinite(number) for number in sums.flatten().tolist()):
        raise UserError("a metric of the untrained network is NaN or infinite on a batch")


def _check_losses(module: torch.nn.Module, loss: Loss, given: Batch) -> None:
    losses = loss(module(given.inputs), given.targets, reduction="none")
    shape = (len(given.targets),)
    if not isinstance(losses, torch.Tensor) or tuple(losses.shape) != shape:
        found = tuple(losses.shape) if isinstance(losses, torch.Tensor) else type(losses)
        raise UserError(f"the loss is not per sample: for {shape[0]} samples expected losses "
                        f"of the shape {shape}, got {found}")
    if not torch.isfinite(losses).all():
        raise UserError("the loss of the untrained network is NaN or infinite on a batch")
    if not losses.requires_grad:
        raise UserError("the loss does not depend on the network's parameters: nothing can be "
                        "trained")


def _compile(module: torch.nn.Module, loss: Loss, given: Batch) -> None:
    """Trace the passes as torch.compile does, without making machine code of them.

    Raises:
        UserError: They cannot be compiled, as losses that differentiate the network cannot.
    """
    try:
        compiled = torch.compile(module, backend="aot_eager")
        loss(compiled(given.inputs), given.targets).backward()
    except Exception as error:
        raise UserError("key 'compile': torch.compile cannot train this network and task: "
                        f"{brief(error)}; leave it out") from error
    finally:
        torch.compiler.reset()
