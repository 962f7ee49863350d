"""What is run: suites, trials and studies as frozen records, validated once when read.

Nothing here imports torch. A suite comes from TOML (suite_file.py); a trial is a suite met by one
optimizer configuration at one world size with one set of seeds, and its ``run_id`` is a hash of
all that.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import PurePath
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

SCHEMA = 1
"""Version of every file that the harness writes; readers accept this one and older ones."""

Sampler = Literal["random", "halton", "tpe", "grid"]
Pruner = Literal["none", "median", "asha", "hyperband"]
Space = Literal["narrow", "wide"]

Scalar = bool | int | float | str
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Positive = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Share = Annotated[float, Meta(gt=0, le=1)]


WORKERS = 2
"""Processes that read streamed data for one rank, where the suite does not say."""

Numbers = float | tuple[float, ...]
Factor = Annotated[float, Meta(gt=0, le=1e9)]
Source = Annotated[str, Meta(pattern=r"^[^:]+:[^:]+$", max_length=1_000)]


class Partition(Struct, frozen=True, forbid_unknown_fields=True):
    """A division of the training samples among the ranks in which their labels differ.

    ``concentration`` 0 sorts by class and cuts; otherwise it is the parameter of the Dirichlet
    distribution that the classes' shares in a rank's part follow.
    """

    by: Literal["label"] = "label"
    concentration: Annotated[float, Meta(ge=0, le=1e9)] = 0.0


class Augment(Struct, frozen=True, forbid_unknown_fields=True):
    """How training images are changed at random (see augmentation.py).

    They are moved by up to ``crop`` pixels in both directions, mirrored with ``flip`` from left
    to right, and get a hole of ``cutout`` by ``cutout`` pixels.
    """

    crop: Count = 0
    flip: bool = False
    cutout: Count = 0


class Data(Struct, frozen=True, forbid_unknown_fields=True):
    """The data set and how many of its training samples validate.

    It is a known one (see suites/data.py), or what the callable ``source``, written
    ``module:attribute`` or ``file.py:attribute``, returns for ``options``; ``name`` is then the
    suite's. ``validation`` is 0 where the data has a validation split of its own. Inputs of
    ``source`` are normalised by ``mean`` and ``std``, or by those of the training split. With
    ``partition`` each rank draws from a part of the training samples of its own. With
    ``stream`` its samples are read while training (see streaming.py), in each rank by ``workers``
    processes; their number is kept in ``Study.workers`` and absent from trials, as results do not
    depend on it.
    """

    name: str = ""
    validation: Count = 0
    source: Source | UnsetType = UNSET
    options: dict[str, Any] | UnsetType = UNSET
    mean: Numbers | UnsetType = UNSET
    std: Numbers | UnsetType = UNSET
    partition: Partition | UnsetType = UNSET
    augment: Augment | UnsetType = UNSET
    stream: Literal[True] | UnsetType = UNSET
    workers: Annotated[int, Meta(ge=0, le=256)] | UnsetType = UNSET

    @property
    def contents(self) -> Data:
        """What decides the stored arrays: without how samples are divided and changed."""
        return msgspec.structs.replace(self, validation=0, partition=UNSET, augment=UNSET)


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    """The network: a known one (see suites/models.py) or the callable ``source``.

    ``options`` are keyword arguments. ``name`` is ``source`` where there is one. ``init_scale``
    multiplies the initial weights of two and more dimensions.
    """

    name: str = ""
    options: dict[str, Any] = {}
    source: Source | UnsetType = UNSET
    init_scale: Factor | UnsetType = UNSET


class TaskChoice(Struct, frozen=True, forbid_unknown_fields=True):
    """The task: a ready-made one (see tasks/ready.py) or the class ``source``, and its options."""

    name: str = ""
    source: Source | UnsetType = UNSET
    options: dict[str, Any] = {}


class Budget(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a trial ends: samples processed by all ranks together, and seconds of training."""

    samples: Positive
    seconds: Annotated[float, Meta(gt=0, le=1e9)]


class Evaluation(Struct, frozen=True, forbid_unknown_fields=True):
    """Cadence in samples processed by all ranks, and how many evaluations make a hit."""

    every_samples: Positive
    consecutive: Positive = 2


class Provenance(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a target comes from; ``trials`` and ``seeds`` are 0 where nobody measured it."""

    optimizer: str
    trials: Count
    seeds: Count
    note: str = ""


class Target(Struct, frozen=True, forbid_unknown_fields=True):
    """The metric to reach on the validation split, with its direction and its levels.

    A level is a share of the way: at direction ``max`` the threshold is ``level * value``, at
    ``min`` it is ``value / level``. The task declares the metric's direction and ``unit``.
    ``floor`` is the best value that any model can expect on new samples, where it is known.
    """

    metric: Annotated[str, Meta(min_length=1, max_length=64)]
    direction: Literal["max", "min"]
    value: Annotated[float, Meta(gt=0)]
    provenance: Provenance
    split: Literal["validation"] = "validation"
    version: Positive = 1
    levels: tuple[Share, ...] = (0.95, 0.99, 1.0)
    unit: str | UnsetType = UNSET
    floor: float | UnsetType = UNSET

    @property
    def every_level(self) -> list[float]:
        """The levels in ascending order, the full target among them."""
        return sorted({1.0, *self.levels})

    def threshold(self, level: float) -> float:
        """Returns the metric's value that counts as reaching ``level``."""
        return self.value * level if self.direction == "max" else self.value / level

    def signed(self, metrics: dict[str, float]) -> float:
        """Returns the metric so that more is better; NaN if it is not among ``metrics``."""
        value = metrics.get(self.metric, math.nan)
        return value if self.direction == "max" else -value

    def reached(self, value: float, level: float = 1.0) -> bool:
        """Says whether a measured ``value`` is at or beyond the threshold of ``level``."""
        threshold = self.threshold(level)
        return value >= threshold if self.direction == "max" else value <= threshold


class Suite(Struct, frozen=True, forbid_unknown_fields=True):
    """One training problem: data, model, batch, budget and target.

    Without ``task`` it is a classification; with it ``loss`` is ``"task"``. Fields that are absent
    there are absent from records, so that these keep their addresses. ``code_sha256`` is the hash
    of the source that the suite names; it is filled in when a command names the suite.

    With ``compile`` the model's passes are compiled by ``torch.compile``; ``memory_format`` is
    torch's name for how model and images lie in memory. With ``micro_batch`` a rank puts at most
    so many samples through the network at once. ``loss_scale`` multiplies the loss that optimizers
    train, and no metric.

    A variant of a suite is a suite, called ``suite@variant``.
    """

    name: Annotated[str, Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9._-]*)?$", max_length=64)]
    summary: str
    data: Data
    model: Model
    batch_size: Positive
    budget: Budget
    evaluation: Evaluation
    target: Target
    version: Positive = 1
    task: TaskChoice | UnsetType = UNSET
    loss: Literal["cross_entropy", "task"] = "cross_entropy"
    precision: Literal["fp32", "bf16"] = "fp32"
    scaling: Literal["strong", "weak"] = "strong"
    compile: bool = False
    memory_format: Literal["contiguous_format", "channels_last"] = "contiguous_format"
    micro_batch: Positive | UnsetType = UNSET
    code_sha256: str | UnsetType = UNSET
    loss_scale: Factor | UnsetType = UNSET

    @property
    def base(self) -> str:
        """The name of the suite that this one is a variant of; its own if it is none."""
        return self.name.partition("@")[0]

    @property
    def sources(self) -> dict[str, str]:
        """What the suite names by ``source``, by table."""
        tables = {"data": self.data, "model": self.model, "task": self.task}
        return {name: table.source for name, table in tables.items() if table and table.source}

    def global_batch(self, ranks: int) -> int:
        """Samples in one global minibatch: fixed (strong) or growing with N (weak scaling)."""
        return self.batch_size if self.scaling == "strong" else self.batch_size * ranks


class Seeds(Struct, frozen=True, forbid_unknown_fields=True):
    """Seeds of the data order and of the initial weights (and of dropout, if any)."""

    data: Count
    init: Count


class Searched(Struct, frozen=True, forbid_unknown_fields=True):
    """How tuning came by a configuration: sampler, pruner and search space.

    ``ranges`` are the bounds of what was searched between two numbers; an optimum on one of them
    says that the space is too small. ``follows`` is the label of the competitor whose search may
    serve this one too. ``choices`` names what was searched besides; where there is nothing the
    field is absent, as it is in older records, so that searches of ranges keep their addresses.
    """

    sampler: Sampler
    pruner: Pruner
    space: Space
    version: int
    ranges: dict[str, tuple[float, float]] = {}
    follows: str = ""
    choices: tuple[str, ...] | UnsetType = UNSET


class Trial(Struct, frozen=True, forbid_unknown_fields=True):
    """One run: everything that decides its course, and nothing else.

    A ``twin`` repeats another report-stage trial in everything: the second half of an A/A pair,
    whose two times differ by nothing but the machine's noise. ``plugin`` says where the
    optimizer's code lies: ``module:attribute``, or the absolute path of a plug-in file.
    """

    label: str
    optimizer: str
    hyperparameters: dict[str, Scalar]
    tuning_free: bool
    batch_size: Positive
    suite: Suite
    ranks: Positive
    stage: Literal["tune", "report"]
    repetition: Count
    seeds: Seeds
    device: Literal["cpu", "cuda"]
    data_sha256: str
    plugin: str
    plugin_sha256: str
    twin: bool = False
    searched: Searched | None = None

    @property
    def portable(self) -> Trial:
        """The same trial wherever its plug-in file lies: without the path to its folder."""
        return msgspec.structs.replace(self, plugin=PurePath(self.plugin).name)

    @property
    def run_id(self) -> str:
        """Content address: twelve hexadecimal digits of the sha256 of the portable trial."""
        return digest({"schema": SCHEMA, "trial": self.portable})[:12]

    @property
    def configuration(self) -> str:
        """Hash of the optimizer's configuration alone: the same for every suite, N and seed."""
        return digest([self.optimizer, self.hyperparameters, self.plugin_sha256])[:12]


class Entry(Struct, frozen=True, forbid_unknown_fields=True):
    """One competitor of a study: what it is called, where it is found and what the user pinned.

    ``optimizer`` is an installed optimizer's name or a plug-in file's path as written; ``label``
    is the backend's name with the pinned hyperparameters, as ``name[lr=0.1]``.
    """

    label: str
    optimizer: str
    pinned: dict[str, Scalar] = {}

    @property
    def portable(self) -> Entry:
        """The same competitor wherever its plug-in file lies: without the path to its folder."""
        return msgspec.structs.replace(self, optimizer=PurePath(self.optimizer).name)


class Study(Struct, frozen=True, forbid_unknown_fields=True):
    """A resolved ``bench-apts run``: which suites, competitors, world sizes and repetitions.

    With ``twins`` the first competitor of each suite and N is reported twice, which tells how
    far times scatter on this machine. With ``share`` an optimizer that is seen to follow another's
    trajectory takes over what that one's search found. ``folders`` are those of the suites that
    name Python files, by suite: such a file's path is relative to it. ``workers`` are those of
    the suites whose data is streamed.
    """

    suites: tuple[Suite, ...]
    entries: tuple[Entry, ...]
    ranks: tuple[Positive, ...]
    trials: Count
    seeds: Count
    base_seed: int
    device: Literal["cpu", "cuda"]
    twins: bool = True
    sampler: Sampler = "random"
    pruner: Pruner = "none"
    space: Space = "narrow"
    share: bool = True
    schema: int = SCHEMA
    folders: dict[str, str] | UnsetType = UNSET
    workers: dict[str, int] | UnsetType = UNSET

    def folder(self, suite: Suite) -> str:
        """Return where a suite's file lies; "" where nothing is read from there."""
        return self.folders.get(suite.name, "") if self.folders else ""


def called(selector: str, name: str) -> str:
    """Return a competitor's label: its selector, with the backend's name for a plug-in file.

    In older records the label of a plug-in file begins with the file's path.
    """
    optimizer, bracket, pinned = selector.partition("[")
    return f"{name}{bracket}{pinned}" if optimizer.strip().endswith(".py") else selector


def canonical(value: Any) -> bytes:
    """Encodes ``value`` as JSON with sorted keys, so that equal values have equal bytes."""
    return msgspec.json.encode(value, order="sorted")


def digest(value: Any) -> str:
    """Returns the sha256 of the canonical JSON of ``value`` in hexadecimal digits."""
    return hashlib.sha256(canonical(value)).hexdigest()
