"""The tasks that a suite can name: ready-made ones, and those that installed packages offer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench_apts.core.errors import UserError, unknown
from bench_apts.plugins import entry_points, user_code
from bench_apts.tasks.task import Metric, OutputTask, Task, reduced

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from numpy.typing import NDArray

    from bench_apts.plugins.user_code import Loaded
    from bench_apts.tasks.task import Sums

IGNORED = -100
"""Target of a token that does not count, torch's own default."""


class Classification(OutputTask):
    """One of several classes per sample: logits ``(b, classes)``, targets ``(b,)`` integers.

    Cross-entropy is trained; ``accuracy`` is the share of samples whose largest logit is right.
    """

    metrics: Mapping[str, Metric] = {"accuracy": Metric("max", "%")}

    def loss(self, output: Any, targets: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        """Return the cross-entropy in nats."""
        import torch.nn.functional as F

        return F.cross_entropy(_tensor(output), targets, reduction=reduction)

    def score(self, output: Any, targets: torch.Tensor) -> Sums:
        """Count the samples classified correctly."""
        return {"accuracy": ((_tensor(output).argmax(dim=1) == targets).sum(), len(targets))}

    def check(self, inputs: NDArray[Any], targets: NDArray[Any]) -> None:
        """Check that the targets are class numbers from 0 on."""
        if targets.ndim != 1 or targets.dtype.kind not in "iu":
            raise ValueError("classification takes class numbers, integers of the shape (n,), as "
                             f"targets, and got {targets.dtype} of the shape {targets.shape}")
        if len(targets) and int(targets.min()) < 0:
            raise ValueError(f"label {int(targets.min())} is out of range: classes are numbered "
                             "from 0")

    def chance(self, targets: torch.Tensor) -> float:
        """Return the accuracy of always answering the most frequent class."""
        return float(targets.bincount().max()) / len(targets)


class Regression(OutputTask):
    """Numbers per sample: outputs and targets ``(b,)`` or ``(b, …)``.

    The squared error, its mean over a sample's numbers, is trained. ``rmse`` is in the unit of
    the targets, ``mse`` in its square.

    Args:
        unit: Unit of the targets, for reports.
    """

    def __init__(self, unit: str = "") -> None:
        self.metrics = {"mse": Metric("min", f"{unit}²" if unit else ""),
                        "rmse": Metric("min", unit, math.sqrt)}

    def loss(self, output: Any, targets: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        """Return the squared error, the mean over the numbers of a sample."""
        return reduced(_squares(output, targets), reduction)

    def score(self, output: Any, targets: torch.Tensor) -> Sums:
        """Add up the squared errors."""
        total = _squares(output, targets).double().sum(), len(targets)
        return dict.fromkeys(self.metrics, total)

    def check(self, inputs: NDArray[Any], targets: NDArray[Any]) -> None:
        """Accept any targets: they are numbers."""


class Autoencoding(Regression):
    """Arrays like the targets: reconstruction or denoising, by the squared error ``mse``."""

    def __init__(self, unit: str = "") -> None:
        super().__init__(unit)
        self.metrics = {"mse": self.metrics["mse"]}


class LanguageModel(OutputTask):
    """The next token at every place: logits ``(b, t, vocabulary)``, targets ``(b, t)`` integers.

    A sample is a window; its loss is the mean cross-entropy over its tokens. Targets of -100 do
    not count. The metrics count tokens: ``nats_per_token``, ``perplexity`` and ``bits_per_byte``.
    Validation takes the last windows of the training data.

    Args:
        bytes_per_token: Mean bytes of the text behind a token; 1 for bytes and ASCII characters.
    """

    contiguous = True

    def __init__(self, bytes_per_token: float = 1.0) -> None:
        if not 0 < bytes_per_token < math.inf:
            raise ValueError(f"bytes_per_token = {bytes_per_token}: expected a positive number")
        self.metrics = {
            "nats_per_token": Metric("min"),
            "perplexity": Metric("min", "", math.exp),
            "bits_per_byte": Metric(
                "min", "", lambda nats: nats / math.log(2) / bytes_per_token)}

    def loss(self, output: Any, targets: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
        """Return the cross-entropy in nats, the mean over the tokens of a window."""
        nats, counted = _token_losses(output, targets)
        return reduced(nats.sum(dim=1) / counted.sum(dim=1).clamp(min=1), reduction)

    def score(self, output: Any, targets: torch.Tensor) -> Sums:
        """Add up the cross-entropy of all tokens."""
        nats, counted = _token_losses(output, targets)
        return dict.fromkeys(self.metrics, (nats.double().sum(), counted.sum()))

    def check(self, inputs: NDArray[Any], targets: NDArray[Any]) -> None:
        """Check that the targets are token numbers, or -100."""
        if targets.ndim != 2 or targets.dtype.kind not in "iu":
            raise ValueError("language-model takes token numbers, integers of the shape (n, t), "
                             f"as targets, and got {targets.dtype} of the shape {targets.shape}")
        wrong = targets[(targets < 0) & (targets != IGNORED)]
        if len(wrong):
            raise ValueError(f"token {int(wrong[0])} is out of range: tokens are numbered from 0")


READY: dict[str, type[OutputTask]] = {
    "classification": Classification, "regression": Regression,
    "language-model": LanguageModel, "autoencoding": Autoencoding}


def names() -> list[str]:
    """Return the names that ``[task] name`` may have, sorted."""
    return sorted({*READY, *entry_points.entries(entry_points.TASKS)})


def origin(name: str) -> str:
    """Return where a task comes from: built in, or its distribution."""
    found = entry_points.origin(*entry_points.entries(entry_points.TASKS).get(name, ()))
    return ", ".join(filter(None, ("built in" if name in READY else "", found)))


def load(name: str) -> Loaded:
    """Return the class of a task.

    Raises:
        UserError: There is none of the name, several packages offer it, or it cannot be imported.
    """
    entries = entry_points.entries(entry_points.TASKS)
    if name in READY:
        if name in entries:
            raise entry_points.several_offers(name, entry_points.TASKS, [
                "bench-apts", *map(entry_points.distribution, entries[name])])
        return user_code.Loaded(READY[name], (), None)
    if name not in entries:
        raise unknown("task", name, names())
    entry = entry_points.only(entry_points.TASKS, name)
    what = f"task '{name}' of {entry_points.distribution(entry)}"
    found = user_code.load(f"{entry.module}:{entry.attr}", Path(), what)
    if not (isinstance(found.value, type) and issubclass(found.value, Task)):
        raise UserError(f"{what} ({entry.value}) is no subclass of bench_apts.tasks.Task")
    return found


def _tensor(output: Any) -> torch.Tensor:
    """Return the logits of what a network of ``transformers`` returns; other outputs as is."""
    found: torch.Tensor = getattr(output, "logits", output)
    return found


def _squares(output: Any, targets: torch.Tensor) -> torch.Tensor:
    """Return each sample's mean squared error, ``(b,)``."""
    predicted = _tensor(output)
    if predicted.shape != targets.shape:
        if predicted.shape != (*targets.shape, 1):  # what broadcasting makes of it is an outer sum
            raise ValueError(f"the network returns the shape {tuple(predicted.shape)} for "
                             f"targets of the shape {tuple(targets.shape)}")
        predicted = predicted.squeeze(-1)
    squares = (predicted - targets.to(predicted.dtype)).square()
    return squares.flatten(1).mean(1) if squares.dim() > 1 else squares


def _token_losses(output: Any, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cross-entropy of each token, 0 for ignored ones, and which count; ``(b, t)``."""
    import torch.nn.functional as F

    logits = _tensor(output)
    if logits.shape[:-1] != targets.shape:
        raise ValueError(f"the network returns the shape {tuple(logits.shape)}; expected logits "
                         f"of the shape {(*targets.shape, 'vocabulary')}")
    nats = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none",
                           ignore_index=IGNORED)
    return nats.view(targets.shape), targets != IGNORED
