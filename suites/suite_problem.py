"""A suite's task, network and data as Python objects, ready-made or the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench_apts.core.errors import UserError, unknown
from bench_apts.plugins import user_code
from bench_apts.tasks import named_tasks
from bench_apts.tasks.named_tasks import READY
from bench_apts.tasks.task import LOSS, Metric, OutputTask, Task, every_metric

if TYPE_CHECKING:
    import torch

    from bench_apts.core.spec import Suite
    from bench_apts.suites.data import Dataset


class SuiteProblem:
    """What a suite trains; ``folder`` is where its relative Python files lie.

    Attributes:
        task: Its task.

    Raises:
        UserError: A source cannot be imported, or the task cannot be made.
    """

    def __init__(self, suite: Suite, folder: str = "") -> None:
        self.suite = suite
        self._described = {table: f"[{table}] source = {source!r}"
                           for table, source in suite.sources.items()}
        self._loaded = {table: user_code.load(source, Path(folder), f"[{table}] source")
                        for table, source in suite.sources.items()}
        if suite.task and suite.task.name and suite.task.name not in READY:
            self._described["task"] = f"[task] name = {suite.task.name!r}"
            self._loaded["task"] = named_tasks.load(suite.task.name)
        self.task = self._task()

    @property
    def has_code(self) -> bool:
        """Whether the suite names code that is not the harness's."""
        return bool(self._loaded)

    @property
    def code_sha256(self) -> str:
        """The hash of the source files of what the suite names."""
        return user_code.sha256(tuple(self._loaded.values()))

    def metric(self) -> Metric:
        """Return the target's metric, which the task must have with the same direction."""
        target, known = self.suite.target, every_metric(self.task)
        if target.metric not in known:
            raise unknown("metric of the task in key 'target.metric'", target.metric, known)
        metric = known[target.metric]
        if metric is not LOSS and metric.direction != target.direction:
            raise UserError(f"key 'target.direction': the task declares {target.metric} as "
                            f"{metric.direction}, got {target.direction}")
        return metric

    def network(self, dataset: Dataset) -> torch.nn.Module:
        """Build the network; weights come from torch's global generator.

        With ``model.init_scale`` those of two and more dimensions are multiplied by it: matrices,
        kernels and embeddings, but no biases and no gains of a normalisation.
        """
        network = self._network(dataset)
        if factor := self.suite.model.init_scale:
            for parameter in network.parameters():
                if parameter.dim() > 1:
                    parameter.detach().mul_(factor)
        return network

    def _network(self, dataset: Dataset) -> torch.nn.Module:
        model = self.suite.model
        if "model" not in self._loaded:
            from bench_apts.suites import models

            if dataset.train_inputs.dtype.names:
                raise UserError(f"[model] name = {model.name!r} takes one array, and the inputs "
                                "are a dictionary; name a source in [model]")
            return models.build(model.name, model.options, dataset.input_shape, dataset.classes)
        import torch

        network = self.call("model", model.options)
        if not isinstance(network, torch.nn.Module):
            raise UserError(f"[model] source = {model.source!r} returned a "
                            f"{type(network).__name__}; expected a torch.nn.Module")
        if dataset.train_inputs.dtype.names and isinstance(self.task, OutputTask):
            from bench_apts.tasks.loss_module import ByName

            return ByName(network)
        return network

    def parameters(self, table: str) -> set[str]:
        """Return the names of the arguments of a table's source; none if they are unknown."""
        import inspect

        try:
            return set(inspect.signature(self._loaded[table].value).parameters)
        except (TypeError, ValueError):
            return set()

    def torchvision(self) -> str:
        """Return the name of the class of ``torchvision.datasets`` that data is; "" for none."""
        value = self._loaded["data"].value
        known = getattr(value, "__module__", "").startswith("torchvision.datasets.")
        return value.__name__ if known and isinstance(value, type) else ""

    def call(self, table: str, options: dict[str, Any]) -> Any:
        """Call the source of a table; what it raises becomes a UserError."""
        try:
            return self._loaded[table].call(**options)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self._described[table]} raised {type(error).__name__}: {error}"
                            ) from error

    def _task(self) -> Task:
        chosen = self.suite.task
        if not chosen:
            return READY["classification"]()
        if "task" not in self._loaded:
            try:
                ready: Task = named_tasks.load(chosen.name).call(**chosen.options)
                return ready
            except (TypeError, ValueError) as error:
                raise UserError(f"key 'task.options': {error}") from error
        task = self.call("task", chosen.options)
        if not isinstance(task, Task):
            raise UserError(f"{self._described['task']} made a {type(task).__name__}; "
                            "expected a subclass of bench_apts.tasks.Task")
        wrong = [name for name, metric in task.metrics.items()
                 if not isinstance(metric, Metric) or name == "loss"]
        if wrong:
            raise UserError(f"{self._described['task']}: metrics: expected a Metric by "
                            f"name, and none called loss, got {wrong[0]!r}")
        return task


def resolved(suite: Suite, folder: str) -> Suite:
    """Return a suite with what its code says: the code's hash and the unit of its target.

    Raises:
        UserError: Its code cannot be imported, or its task does not have its target's metric.
    """
    try:
        problem = SuiteProblem(suite, folder)
        unit = problem.metric().unit
    except UserError as error:
        raise UserError(f"suite {suite.name}: {error}") from error
    return msgspec.structs.replace(
        suite, code_sha256=problem.code_sha256 if problem.has_code else msgspec.UNSET,
        target=msgspec.structs.replace(suite.target, unit=unit or msgspec.UNSET))
