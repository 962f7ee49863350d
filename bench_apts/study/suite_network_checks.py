"""Checks of a suite's untrained network and its loss, on one batch in this process."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map

from bench_apts.core.errors import UserError, describe_error
from bench_apts.plugins import micro_batches
from bench_apts.plugins.optimizer_contract import Batch
from bench_apts.study import suite_data_checks
from bench_apts.study.check_findings import CheckFinding, worst_finding
from bench_apts.suites import arrays, data
from bench_apts.tasks.loss_module import measured, model_inputs, trained
from bench_apts.tasks.named_tasks import Classification, LanguageModel, Regression
from bench_apts.tasks.task import OutputTask, every_metric
from bench_apts.trial import contract_checks
from bench_apts.trial.loader import Conversion, Resident

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from bench_apts.plugins.optimizer_contract import Loss
    from bench_apts.study.check_findings import Level
    from bench_apts.study.suite_data_checks import CheckedSplits
    from bench_apts.suites.data import Dataset
    from bench_apts.suites.suite_problem import SuiteProblem

_MAX_SAMPLES = 64
"""Samples in the batch."""

_PARTS = 4
"""Parts of it, each of which must give every parameter a gradient."""

_CLOSE = 1e-4
"""Relative difference that rounding in float32 may make."""

_HIGH = 2.0, 10.0
"""Multiples of chance at which the initial loss causes a warning, and fails."""

_SPREAD = 10.0, 1_000.0
"""The same for squared errors, as multiples of the targets' variance."""

_LOW = 0.5
"""Share of chance below which a network knows the answers before it is trained."""


def rehearse_batch(problem: SuiteProblem, dataset: Dataset) -> int:
    """Build the network and run one batch forward, backward and through the metrics, on the CPU.

    The samples of each split with the largest labels or tokens go through the metrics, too.
    Random number generators are left as they were.

    Returns:
        The number of the network's parameters.

    Raises:
        UserError: The network or the task cannot be run, or the losses are none of samples.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        suite = problem.suite
        train, held = data.divided(
            dataset, suite.data.validation, suite.data.name, problem.task.contiguous)
        first = list(range(min(len(train[1]), suite.batch_size, _MAX_SAMPLES)))
        what = "model and task cannot be run on a batch"
        try:
            network = problem.network(dataset)
            contract_checks.check_parameters(network)
            module, loss = trained(network.cpu(), problem.task, suite.loss_scale or 1.0)
            _run_passes(problem, module, loss, _batch(dataset, train, first))
            for part, pair in (("train", train), ("validation", held),
                               ("test", (dataset.test_inputs, dataset.test_targets))):
                what = (f"data: {part}: the sample with the largest label or token cannot be "
                        "evaluated, so the network may lack an output or embedding for it")
                with torch.no_grad():
                    measured(module, problem.task, _batch(dataset, pair, [0, *_largest(*pair)]))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{what}: {describe_error(error)}") from error
    return sum(p.numel() for p in network.parameters())


def _largest(inputs: NDArray[Any], targets: NDArray[Any]) -> list[int]:
    """Return the sample with the largest target and, of tokens, those with the largest inputs."""
    numbers = [targets, *([inputs[name] for name in inputs.dtype.names] if inputs.dtype.names
                          else [inputs])]
    return [int(np.argmax(each.reshape(len(each), -1).max(axis=1))) for each in numbers
            if each is targets or (each.dtype.kind in "iu" and not arrays.scaled(each))]


def _batch(dataset: Dataset, pair: tuple[NDArray[Any], NDArray[Any]], chosen: list[int]) -> Batch:
    """Return so many samples of a split on the CPU."""
    inputs, targets = pair
    split = Resident(inputs[chosen], targets[chosen],
                     Conversion.of(dataset, inputs, targets, torch.device("cpu")))
    return split.take(torch.arange(len(chosen)))


def _run_passes(problem: SuiteProblem, module: torch.nn.Module, loss: Loss, batch: Batch) -> None:
    given = model_inputs(problem.task, batch)
    module.train()
    with torch.enable_grad():
        kept = copy.deepcopy(given)
        _check_losses(module, loss, given)
        loss(module(given.inputs), given.targets).backward()
        same = map(torch.equal, tree_leaves(kept), tree_leaves(given))
        if not all(same):
            raise UserError("the network or the task changes its batch in place, which an "
                            "optimizer may pass again: clone() what is changed")
        contract_checks.check_gradients(module)
        missed = []
        for part, _ in micro_batches.parts(given, max(2, math.ceil(len(batch.targets) / _PARTS))):
            module.zero_grad()
            loss(module(part.inputs), part.targets).backward()
            missed += contract_checks.without_gradient(module)
        contract_checks.refuse_occasional(missed)
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
                        f"{describe_error(error)}; leave it out") from error
    finally:
        torch.compiler.reset()


class Untrained(NamedTuple):
    """A network as trials begin with it, in evaluation mode, and training samples."""

    problem: SuiteProblem
    module: torch.nn.Module
    loss: Loss
    batch: Batch

    def losses(self, batch: Batch, reduction: str = "none") -> torch.Tensor:
        """Return the losses of a batch's samples, ``(b,)``, or what reduces them."""
        given = model_inputs(self.problem.task, batch)
        with torch.no_grad():
            found: torch.Tensor = self.loss(
                self.module(given.inputs), given.targets, reduction=reduction)
        return found.double()

    def outputs(self) -> int | None:
        """Return the size of the output's last dimension; None if that means nothing."""
        if not isinstance(self.problem.task, OutputTask):
            return None
        with torch.no_grad():
            output = self.module(self.batch.inputs)
        output = getattr(output, "logits", output)
        return int(output.shape[-1]) if isinstance(output, torch.Tensor) and output.dim() else None


def build_untrained(problem: SuiteProblem, dataset: Dataset, splits: CheckedSplits) -> Untrained:
    """Build the network; random number generators are left as they were."""
    size = min(len(splits.train.targets), _MAX_SAMPLES)
    some = suite_data_checks.normalised_on_cpu(
        dataset,
        suite_data_checks.CheckedSplit(splits.train.inputs[:size], splits.train.targets[:size]),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, loss = trained(problem.network(dataset), problem.task)
    return Untrained(problem, module.eval(), loss, some.take(torch.arange(size)))


def check_initial_loss(
    network: Untrained, splits: CheckedSplits
) -> CheckFinding:
    """Compare the untrained network's loss with that of an answer without knowledge."""
    check, task = "initial loss", network.problem.task
    value = float(network.losses(network.batch).mean())
    if isinstance(task, Classification | LanguageModel):
        outputs = network.outputs() or 1
        chance, words, (warn, fail) = math.log(outputs), f"ln {outputs} = ", _HIGH
    elif isinstance(task, Regression):
        chance, words, (warn, fail) = float(splits.train.targets.var()), "variance ", _SPREAD
    else:
        return CheckFinding(
            check, "skipped",
            f"{value:.4g}; what chance would have is not known of a task of your own")

    def found() -> Iterator[tuple[Level, str]]:
        shown = f"{value:.4g} against {words}{chance:.4g} by chance"
        if value > warn * chance:
            yield ("failed" if value > fail * chance else "warning",
                   f"{shown}: too high; make the initial weights of the last layer smaller, "
                   "normalise inputs" + (" and targets" if isinstance(task, Regression) else ""))
        elif value < _LOW * chance:
            yield ("warning", f"{shown}: too low for an untrained network; see that no input "
                              "holds the target, and that no weights are loaded")

    return worst_finding(
        check, found(), f"{value:.4g}, {words}{chance:.4g} by chance"
    )


def check_sample_losses(network: Untrained) -> CheckFinding:
    """Check that losses per sample make the batch's, and do not depend on the other samples."""
    batch = network.batch
    whole = network.losses(batch)
    mean, size = float(whole.mean()), len(whole)

    def found() -> Iterator[tuple[Level, str]]:
        for reduction, expected in (("mean", mean), ("sum", mean * size)):
            value = float(network.losses(batch, reduction))
            if not math.isclose(value, expected, rel_tol=_CLOSE, abs_tol=1e-7):
                yield ("failed", f"the losses of {size} samples have the {reduction} "
                                 f"{expected:.6g}, and the loss with reduction='{reduction}' is "
                                 f"{value:.6g}; have loss() reduce what it returns for 'none'")
        parts = torch.cat([network.losses(part) for part in _parts(batch)])
        if not torch.allclose(parts, whole, rtol=10 * _CLOSE, atol=_CLOSE * abs(mean)):
            place = int((parts - whole).abs().argmax())
            yield ("failed", f"the loss of sample {place} is {float(whole[place]):.6g} in a batch "
                             f"of {size} and {float(parts[place]):.6g} in a smaller one; "
                             "it must not depend on the other samples in the batch")

    return worst_finding(
        "loss per sample", found(), f"the mean of {size} losses is the batch's loss")


def check_additive_metrics(network: Untrained) -> Iterator[tuple[Level, str]]:
    """Yield metrics that are not the same when a split is evaluated in parts."""
    problem, batch = network.problem, network.batch
    with torch.no_grad():
        whole = measured(network.module, problem.task, batch)
        parts = sum(measured(network.module, problem.task, part) for part in _parts(batch))
    assert isinstance(parts, torch.Tensor)
    for place, (name, metric) in enumerate(every_metric(problem.task).items()):
        together, apart = (metric.value(*map(float, sums[place])) for sums in (whole, parts))
        if not math.isclose(together, apart, rel_tol=10 * _CLOSE, abs_tol=1e-7):
            yield ("failed", f"{name} is {together:.6g} over {len(batch.targets)} samples at once "
                             f"and {apart:.6g} in two parts; return a sum and what it counts, so "
                             "that both can be added up")


def _parts(batch: Batch) -> list[Batch]:
    """Return a batch as two, of a quarter of its samples and of the rest."""
    cut = max(1, len(batch.targets) // 4)
    return [Batch(tree_map(lambda tensor, place=place: tensor[place], batch.inputs),
                  batch.targets[place])
            for place in (slice(cut), slice(cut, None)) if len(batch.targets[place])]
