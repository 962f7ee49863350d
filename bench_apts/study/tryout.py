"""Does once what every rank will do, so that a mistake shows before the first trial."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench_apts.core import environment
from bench_apts.core.errors import UserError
from bench_apts.suites.problem import Problem

if TYPE_CHECKING:
    from bench_apts.core.spec import Augment, Study, Suite
    from bench_apts.suites.data import Dataset, Prepared

_FLOAT = 4
_INDEX = 8
"""Bytes of one number and of one sample's index."""


def require_torch(device: str) -> None:
    """Refuses a torch that cannot reach the device, or connect ranks on it.

    Args:
        device: ``"cpu"`` or ``"cuda"``.

    Raises:
        UserError: It is built without CUDA, or without gloo (CPU) or NCCL.
    """
    import torch
    import torch.distributed as dist

    built = torch.backends.cuda.is_built()  # type: ignore[no-untyped-call]
    if device == "cuda" and not built:
        raise UserError(f"there are GPUs, but torch {torch.__version__} is built without CUDA; "
                        "install one with it, or run CPU ranks with CUDA_VISIBLE_DEVICES=")
    backend = "NCCL" if device == "cuda" else "gloo"
    if not (dist.is_available() and dist.is_backend_available(backend.lower())):
        raise UserError(f"torch {torch.__version__} is built without {backend}, over which ranks "
                        "send; install one from https://pytorch.org")


def try_out(study: Study, suite: Suite, prepared: Prepared) -> None:
    """Splits the data, builds the model without its numbers, and adds up what it takes.

    Args:
        study: Where the suite is run.
        suite: One of its suites.
        prepared: The suite's data set.

    Raises:
        UserError: The data cannot be split, the model not be built, or both are too large.
    """
    try:
        problem = Problem(suite, study.folder(suite))
        problem.metric()
        dataset = _divide(problem, prepared, study.ranks)
        if not suite.model.source:  # before its numbers take memory
            _require_memory(study, suite, _count(problem, dataset), dataset)
        if suite.sources or suite.task:
            from bench_apts.study.rehearsal import rehearse

            _require_memory(study, suite, rehearse(problem, dataset), dataset)
    except UserError as error:
        raise UserError(f"suite {suite.name}: {error}") from error


def _divide(problem: Problem, prepared: Prepared, ranks: tuple[int, ...]) -> Dataset:
    """Return the data, which can be divided as the suite says, at each of the world sizes."""
    from bench_apts.suites import data
    from bench_apts.suites.generated import skew

    suite, dataset = problem.suite, data.load(prepared.folder)
    targets = dataset.train_targets
    if dataset.validation_targets is None:
        train, _ = data.rows(dataset, suite.data.validation, suite.data.name,
                             problem.task.contiguous)
        targets = targets[train] if suite.data.partition else targets
    if partition := suite.data.partition:
        for number in ranks:
            skew.owners(targets, number, partition.concentration)
    if suite.data.augment:
        _require_images(dataset, suite.data.augment)
    if suite.memory_format == "channels_last" and len(dataset.input_shape) != 3:
        raise UserError("key 'memory_format': channels_last is for images, and "
                        f"{suite.data.name} has none")
    return dataset


def _require_images(dataset: Dataset, augment: Augment) -> None:
    """Refuse to augment what are no images, or by more pixels than they have."""
    from bench_apts.suites import arrays

    shape = dataset.input_shape
    if not arrays.scaled(dataset.train_inputs) or len(shape) not in (2, 3):
        raise UserError("key 'data.augment': it is for images, (n, H, W) or (n, C, H, W), and "
                        f"inputs are {dataset.train_inputs.dtype} of the shape (n, "
                        f"{', '.join(map(str, shape))})")
    if max(augment.crop, augment.cutout) >= min(shape[-2:]):
        raise UserError(f"key 'data.augment': crop = {augment.crop} and cutout = "
                        f"{augment.cutout} must be smaller than the images of "
                        f"{shape[-1]}x{shape[-2]} pixels")


def _count(problem: Problem, dataset: Dataset) -> int:
    """Return the number of a known model's parameters, which is built without its numbers."""
    import torch

    from bench_apts.suites import models

    suite = problem.suite
    try:
        with torch.device("meta"):
            model = problem.network(dataset)
    except (RuntimeError, OverflowError, TypeError, ValueError) as error:
        raise UserError(f"model '{suite.model.name}' cannot be built with the options "
                        f"{suite.model.options}: {str(error).splitlines()[0]}") from error
    return models.count(model)


def _require_memory(study: Study, suite: Suite, parameters: int, dataset: Dataset) -> None:
    """Refuses what cannot fit into the main memory, before a rank tries and is killed for it.

    The least that all ranks together hold: weights and gradients, one global minibatch and the
    order of its samples; on GPUs only the order, and what else does not fit ends as ``oom``.
    """
    numbers, there = dataset.train_inputs[0].size, environment.memory_bytes()
    for ranks in study.ranks:
        batch = suite.global_batch(ranks)
        needed = batch * _INDEX
        if study.device == "cpu":
            needed += ranks * 2 * parameters * _FLOAT + batch * numbers * _FLOAT
        if needed > there:
            raise UserError(
                f"{parameters:,} parameters and a global batch of {batch:,} take at least "
                f"{needed / 2**30:,.0f} GiB on {ranks} ranks, and this machine has "
                f"{there / 2**30:,.0f} GiB; choose a smaller model, batch_size or --gpus")
