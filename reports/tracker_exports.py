"""A study's trials as runs of TensorBoard, Weights & Biases and MLflow, each in a local folder.

The packages are imported when they are asked for; none of them is contacted over a network.
"""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bench_apts.core.currencies import CURRENCIES
from bench_apts.core.errors import UserError
from bench_apts.stats.trial_costs import outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from bench_apts.core.records import TrialRecord
    from bench_apts.reports.gather import Gathered

Tracker = Literal["tensorboard", "wandb", "mlflow"]


class TrackedRun(NamedTuple):
    """One trial as a tracker sees it.

    Attributes:
        name: The trial's run id.
        suite: The training problem.
        group: Optimizer, N and stage.
        settings: What it was run with; texts and numbers.
        points: Step, seconds of training, and metrics by name at each evaluation.
        results: How it ended: status and costs to the target.
    """

    name: str
    suite: str
    group: str
    settings: dict[str, str | int | float]
    points: list[tuple[int, float, dict[str, float]]]
    results: dict[str, str | int | float]


def tracked_runs(gathered: Gathered) -> Iterator[TrackedRun]:
    """Yield every trial of a study."""
    for record in gathered.trials:
        trial = record.trial
        settings: dict[str, str | int | float] = {
            "suite": trial.suite.name, "optimizer": trial.label, "ranks": trial.ranks,
            "stage": trial.stage, "repetition": trial.repetition, "batch_size": trial.batch_size,
            "seed_data": trial.seeds.data, "seed_init": trial.seeds.init}
        settings |= {f"hyperparameters.{name}": value if isinstance(value, int | float)
                     else json.dumps(value) for name, value in trial.hyperparameters.items()}
        yield TrackedRun(
            record.header.run_id, trial.suite.name,
            f"{trial.label} N={trial.ranks} {trial.stage}", settings, list(_points(record)),
            _results(record))


def _points(record: TrialRecord) -> Iterator[tuple[int, float, dict[str, float]]]:
    ranks = record.trial.ranks
    for event in record.evals:
        found = {f"validation/{name}": value for name, value in event.validation.items()}
        if event.train_loss is not None:
            found["train/loss"] = event.train_loss
        found |= {f"cost/{name}": row.at(event, ranks) for name, row in CURRENCIES.items()
                  if row.measured(record)}
        yield event.step, event.wall_s, {
            name: float(value) for name, value in found.items() if value == value}


def _results(record: TrialRecord) -> dict[str, str | int | float]:
    found = outcome(record)
    costs = {f"to_target/{name}": value for name, value in found.cost.items()
             if found.hit and value == value}
    return {"status": record.end.status if record.end else "unfinished", **costs,
            **{f"test/{name}": value for name, value in (
                (record.end.test if record.end else None) or {}).items()}}


def export(gathered: Gathered, tracker: Tracker, folder: Path) -> int:
    """Write a study's trials into a tracker's folder; return how many.

    Raises:
        UserError: The tracker's package is not installed, or the folder cannot be written.
    """
    module, write = _WRITERS[tracker]
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"--{tracker} needs the package {module}, which is not installed "
                        f"({error}): pip install 'bench-apts[{tracker}]'") from error
    runs = list(tracked_runs(gathered))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(runs, folder)
    except OSError as error:
        raise UserError(f"--{tracker}: cannot write to {folder}: {error}; choose another "
                        "folder") from error
    return len(runs)


def _to_tensorboard(runs: Iterable[TrackedRun], folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for run in runs:
        place = folder / run.suite / run.group.replace(" ", "-") / run.name
        with SummaryWriter(str(place)) as writer:
            writer.add_text("settings", f"```\n{json.dumps(run.settings, indent=1)}\n```")
            for step, _, metrics in run.points:
                for name, value in metrics.items():
                    writer.add_scalar(name, value, step)
            writer.add_text("results", f"```\n{json.dumps(run.results, indent=1)}\n```")


def _to_wandb(runs: Iterable[TrackedRun], folder: Path) -> None:
    import wandb

    for run in runs:
        with wandb.init(mode="offline", dir=str(folder), project=f"bench-apts-{run.suite}",
                        group=run.group, name=run.name, config=run.settings,
                        reinit="finish_previous",
                        settings=wandb.Settings(silent=True, console="off")) as there:
            for step, _, metrics in run.points:
                there.log(metrics, step=step)
            there.summary.update(run.results)


def mlflow_address(folder: Path) -> str:
    """Return the tracking address of a folder, for ``mlflow ui --backend-store-uri``."""
    return f"sqlite:///{folder.resolve() / 'mlflow.db'}"


def _to_mlflow(runs: Iterable[TrackedRun], folder: Path) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    client = MlflowClient(tracking_uri=mlflow_address(folder))
    experiments: dict[str, Any] = {}
    for run in runs:
        if run.suite not in experiments:
            found = client.get_experiment_by_name(run.suite)
            experiments[run.suite] = (found.experiment_id if found
                                      else client.create_experiment(
                                          run.suite, (folder / "artifacts").resolve().as_uri()))
        there = client.create_run(experiments[run.suite], run_name=run.name).info.run_id
        client.log_batch(
            there, params=[Param(name, str(value)) for name, value in run.settings.items()],
            tags=[RunTag("group", run.group), RunTag("status", str(run.results["status"]))])
        for step, seconds, metrics in run.points:
            client.log_batch(there, metrics=[
                Metric(name, value, round(1000 * seconds), step)
                for name, value in metrics.items()])
        client.log_batch(there, metrics=[
            Metric(name, value, 0, 0) for name, value in run.results.items()
            if not isinstance(value, str)])
        client.set_terminated(there)


_WRITERS: dict[Tracker, tuple[str, Callable[[Iterable[TrackedRun], Path], None]]] = {
    "tensorboard": ("tensorboard", _to_tensorboard), "wandb": ("wandb", _to_wandb),
    "mlflow": ("mlflow", _to_mlflow)}
"""The package of each tracker, and what writes its runs."""
