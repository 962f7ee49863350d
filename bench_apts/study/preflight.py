"""What happens before the first trial: data, an estimate of the cost, checks of what ranks need.

A mistake that every rank would run into shows here, once.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from bench_apts.core import environment, process_limits, store
from bench_apts.core.errors import UserError
from bench_apts.launch.processes import plain_message
from bench_apts.meters import comm
from bench_apts.stats import sample_size
from bench_apts.suites.suite_problem import SuiteProblem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench_apts.core.spec import Augment, Study, Suite
    from bench_apts.study.plan import Plan
    from bench_apts.suites.data import Dataset, Prepared

_FACTOR, _SCATTER = 1.2, 0.1
"""The difference, and the scatter of costs, that the planned seeds are measured by."""

_FLOAT_BYTES, _INDEX_BYTES = 4, 8
"""Bytes of one number, and of one sample's index."""


def estimate_lines(plan: Plan, folder: Path) -> Iterator[str]:
    """Yield the plan line by line.

    The time of a trial is the mean of finished trials of the same competitor, suite and N in
    ``folder``. Where there is none, one forward and backward pass is timed here and multiplied by
    the samples of the budget; communication and start-up are then left out, and said to be.
    """
    study = plan.study
    known = [r for r in store.read_trials(folder) if r.finished] if folder.exists() else []
    timed = {suite.name: _sample_seconds(SuiteProblem(suite, study.folder(suite)),
                                         plan.prepared[suite.data.name], study.device)
             for suite in study.suites}
    yield f"results folder: {folder}"
    yield f"device: {study.device}, world sizes: {', '.join(map(str, study.ranks))}"
    total, bare = 0.0, False
    for cell in plan.cells:
        drawn = 1 if plan.search_owner(cell) else plan.tunings(cell)
        done = {r.trial.repetition for r in known if plan.belongs(r, cell)}
        left = sum(k not in done for k in range(drawn)) + plan.reports(cell)
        times = [r.end.wall_s for r in known if r.end
                 and (r.trial.suite, r.trial.label, r.trial.ranks) == (
                     cell.suite, cell.entry.label, cell.ranks)]
        if times:
            seconds = statistics.mean(times)
            source = f"as {len(times)} finished trials took"
        else:
            workers = (min(cell.ranks, environment.usable_cores()) if study.device == "cpu"
                       else cell.ranks)
            seconds = timed[cell.suite.name] * cell.suite.budget.samples / workers
            source, bare = "computing alone", True
        total += seconds * left
        # Before tuning is over, it is unknown whether one or two configurations are reported.
        least, most = study.seeds * (1 + plan.twinned(cell)), plan.reports(cell)
        reports = most if least == most else f"{least} to {most}"
        yield (f"{cell.suite.name} {cell.entry.label} N={cell.ranks}: {drawn} tuning + "
               f"{reports} report trials of {cell.suite.budget.samples} samples, "
               f"{left} to run at most, about {seconds:.1f} s each, {source}")
    whole = f"{total / 60:.0f} min" if total >= 120 else f"{total:.1f} s"
    yield (f"estimated cost: about {whole}"
           + (", more with communication and start-up" if bare else ""))
    yield from _design(study)


def _design(study: Study) -> Iterator[str]:
    """Say what differences the planned seeds can tell, where costs scatter by 10 %."""
    rivals = len(study.entries) - 1
    if not rivals:
        return
    spread = sample_size.Spread(_SCATTER)
    pairs = f"{study.seeds} seed{'s' * (study.seeds != 1)} in pairs"
    share = sample_size.power(
        spread, spread, (study.seeds,) * 2, _FACTOR, paired=True, rivals=rivals)
    enough = (None if share >= sample_size.ENOUGH else
              sample_size.needed(spread, spread, _FACTOR, rivals=rivals))
    yield (f"design: {pairs} tell two of {rivals + 1} optimizers a factor of {_FACTOR:g} apart in "
           f"{share:.0%} of studies, where costs scatter by {_SCATTER:.0%}"
           + ("" if enough is None else
              f"; {enough} seeds would in {sample_size.ENOUGH:.0%} (bench-apts power)"))


def _sample_seconds(problem: SuiteProblem, prepared: Prepared, device: str) -> float:
    """Time one forward and backward pass here; return seconds per sample on one device."""
    import torch

    from bench_apts.suites import data
    from bench_apts.tasks import loss_module as tasks
    from bench_apts.trial.loader import Conversion, Resident
    from bench_apts.trial.trained_model import in_precision

    torch.set_num_threads(1)
    dataset, suite = data.load(prepared.folder), problem.suite
    model, loss = tasks.trained(problem.network(dataset), problem.task, suite.loss_scale or 1.0)
    model.to(device).to(memory_format=getattr(torch, suite.memory_format))
    forward = in_precision(type(model).forward, torch.device(device), suite.precision)
    size = min(suite.batch_size, len(dataset.train_targets))
    some = range(size)  # a copy, unlike a slice of mapped arrays
    inputs, targets = dataset.train_inputs[some], dataset.train_targets[some]
    split = Resident(inputs, targets,
                     Conversion.of(dataset, inputs, targets, torch.device(device),
                                   getattr(torch, suite.memory_format)))
    batch = tasks.model_inputs(problem.task, split.take(torch.arange(size, device=device)))
    times = []
    for _ in range(4):
        start = time.perf_counter()
        loss(forward(model, batch.inputs), batch.targets).backward()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times) / size


def prepare_data(study: Study, data_dir: Path | None, offline: bool) -> dict[str, Prepared]:
    """Find and decode the data of all suites.

    Returns:
        The prepared data sets by name.

    Raises:
        UserError: They cannot be had, or two of one name differ.
    """
    from bench_apts.suites import data, user_data

    chosen: dict[str, Suite] = {}
    for suite in study.suites:
        other = chosen.setdefault(suite.data.name, suite)
        if other.data.contents != suite.data.contents:
            raise UserError(f"the suites {other.name} and {suite.name} have different data of the "
                            f"name '{suite.data.name}'; rename one of the suites")
    return {name: (user_data.prepare(suite, SuiteProblem(suite, study.folder(suite)), data_dir,
                                     offline=offline)
                   if suite.data.source else data.prepare(name, data_dir, offline))
            for name, suite in chosen.items()}


def require_resources(plan: Plan, nodes: int) -> None:
    """Prepare this process for the ranks of one of ``nodes`` nodes.

    Raises:
        UserError: The system lets too few processes or files exist for them.
    """
    process_limits.require_resources(
        max(1, max(plan.study.ranks) // nodes), process_limits.openmp_threads())
    comm.mechanism()


def preflight_study(plan: Plan, nodes: int = 1) -> None:
    """Refuse a torch, limits or suites with which no rank could train.

    Args:
        plan: The study's trials.
        nodes: How many machines share the ranks.

    Raises:
        UserError: One of them.
    """
    _require_torch(plan.study.device, max(1, max(plan.study.ranks) // nodes))
    process_limits.require_address_space(loaded=True)
    for suite in plan.study.suites:
        preflight_suite(plan.study, suite, plan.prepared[suite.data.name])


def preflight_suite(study: Study, suite: Suite, prepared: Prepared) -> None:
    """Split the data, builds the model without its numbers, and adds up what it takes.

    Args:
        study: Where the suite is run.
        suite: One of its suites.
        prepared: The suite's data set.

    Raises:
        UserError: The data cannot be split, the model not be built, or both are too large.
    """
    try:
        problem = SuiteProblem(suite, study.folder(suite))
        problem.metric()
        dataset = _divide(problem, prepared, study.ranks)
        if not suite.model.source:  # before its numbers take memory
            _require_memory(study, suite, _count(problem, dataset), dataset)
        if suite.sources or suite.task:
            from bench_apts.study.suite_network_checks import rehearse_batch

            _require_memory(study, suite, rehearse_batch(problem, dataset), dataset)
    except UserError as error:
        raise UserError(f"suite {suite.name}: {error}") from error


def _divide(problem: SuiteProblem, prepared: Prepared, ranks: tuple[int, ...]) -> Dataset:
    """Return the data, which can be divided as the suite says, at each of the world sizes."""
    from bench_apts.suites import data
    from bench_apts.suites.generated import derived

    suite, dataset = problem.suite, data.load(prepared.folder)
    targets = dataset.train_targets
    if dataset.validation_targets is None:
        train, _ = data.rows(dataset, suite.data.validation, suite.data.name,
                             problem.task.contiguous)
        targets = targets[train] if suite.data.partition else targets
    if partition := suite.data.partition:
        for number in ranks:
            derived.owners(targets, number, partition.concentration)
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


def _count(problem: SuiteProblem, dataset: Dataset) -> int:
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
    """Refuse what cannot fit into the main memory, before a rank tries and is killed for it.

    The least that all ranks together hold: weights and gradients, one global minibatch and the
    order of its samples; on GPUs only the order, and what else does not fit ends as ``oom``.
    """
    numbers, there = dataset.train_inputs[0].size, environment.memory_bytes()
    for ranks in study.ranks:
        batch = suite.global_batch(ranks)
        needed = batch * _INDEX_BYTES
        if study.device == "cpu":
            needed += ranks * 2 * parameters * _FLOAT_BYTES + batch * numbers * _FLOAT_BYTES
        if needed > there:
            raise UserError(
                f"{parameters:,} parameters and a global batch of {batch:,} take at least "
                f"{needed / 2**30:,.0f} GiB on {ranks} ranks, and this machine has "
                f"{there / 2**30:,.0f} GiB; choose a smaller model, batch_size or --gpus")


def _require_torch(device: str, ranks: int) -> None:
    """Refuse a torch that cannot reach a device for each rank, or not connect them.

    CUDA is initialised in this process, from which no rank is forked.
    """
    import torch
    import torch.distributed as dist

    built = torch.backends.cuda.is_built()  # type: ignore[no-untyped-call]
    if device == "cuda" and not built:
        raise UserError(f"there are GPUs, but torch {torch.__version__} is built without CUDA; "
                        "install one with it, or run CPU ranks with --device cpu")
    backend = "NCCL" if device == "cuda" else "gloo"
    if not (dist.is_available() and dist.is_backend_available(backend.lower())):
        raise UserError(f"torch {torch.__version__} is built without {backend}, over which ranks "
                        "send; install one from https://pytorch.org")
    if device == "cuda":
        _require_gpus(ranks)


def _require_gpus(ranks: int) -> None:
    """Refuse a driver that torch cannot use, and fewer GPUs than ranks."""
    import torch

    remedy = "run CPU ranks with --device cpu"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"there are GPUs, but torch {torch.__version__} cannot use them: "
                        f"{plain_message(str(error))}; mend the driver, or {remedy}") from error
    there = torch.cuda.device_count()
    if there < ranks:
        raise UserError(f"{ranks} ranks need a GPU each, and CUDA shows {there} to a process; of "
                        "MIG slices it shows one: name whole GPUs in CUDA_VISIBLE_DEVICES, ask "
                        f"for fewer with --gpus, or {remedy}")
