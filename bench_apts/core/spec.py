"""What is run: suites, trials and studies as frozen records, validated once when read.

A suite comes from TOML; a trial is a suite with one optimizer configuration at one world size and
one set of seeds, and its ``run_id`` is a hash of all that.
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
Numbers = float | tuple[float, ...]
Factor = Annotated[float, Meta(gt=0, le=1e9)]
Source = Annotated[str, Meta(pattern=r"^[^:]+:[^:]+$", max_length=1_000)]


class Partition(Struct, frozen=True, forbid_unknown_fields=True):
    """How labels differ between ranks: sorted (0), or by a Dirichlet distribution's parameter."""

    by: Literal["label"] = "label"
    concentration: Annotated[float, Meta(ge=0, le=1e9)] = 0.0


class Augment(Struct, frozen=True, forbid_unknown_fields=True):
    """Random changes of training images: shifts by up to ``crop`` pixels, mirroring, a hole."""

    crop: Count = 0
    flip: bool = False
    cutout: Count = 0


class Data(Struct, frozen=True, forbid_unknown_fields=True):
    """The data set and how many of its training samples validate.

    ``name`` is a known data set, or the suite's name where ``source``, written
    ``module:attribute`` or ``file.py:attribute``, is called with ``options`` for the data; its
    inputs are normalised by ``mean`` and ``std``, by default those of the training split.
    ``validation`` is 0 where the data has a validation split of its own. With ``partition`` each
    rank draws from its own part of the training samples. With ``stream`` samples are read while
    training, in each rank by ``workers`` processes; trials omit their number (it is kept in
    ``Study.workers``), as results do not depend on it.
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
        """What determines the stored arrays: without how samples are divided and changed."""
        return msgspec.structs.replace(self, validation=0, partition=UNSET, augment=UNSET)


class Model(Struct, frozen=True, forbid_unknown_fields=True):
    """The network: a known one or the callable ``source``, which is then ``name`` too.

    ``options`` are keyword arguments. ``init_scale`` multiplies the initial weights of two and
    more dimensions.
    """

    name: str = ""
    options: dict[str, Any] = {}
    source: Source | UnsetType = UNSET
    init_scale: Factor | UnsetType = UNSET


class TaskChoice(Struct, frozen=True, forbid_unknown_fields=True):
    """The task: a known one or the class ``source``, and its options."""

    name: str = ""
    source: Source | UnsetType = UNSET
    options: dict[str, Any] = {}


NO_LIMIT_SAMPLES = 2**63 - 1
NO_LIMIT_SECONDS = 1e9
"""The largest numbers of a budget: they limit nothing."""


class Budget(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a trial ends: samples processed by all ranks together, and seconds of training."""

    samples: Positive
    seconds: Annotated[float, Meta(gt=0, le=NO_LIMIT_SECONDS)]


NO_LIMIT = Budget(NO_LIMIT_SAMPLES, NO_LIMIT_SECONDS)
"""The budget of imported logs, which do not say where a trial had to end."""


class Evaluation(Struct, frozen=True, forbid_unknown_fields=True):
    """The interval in samples of all ranks, and how many evaluations in a row make a hit."""

    every_samples: Positive
    consecutive: Positive = 2


class Provenance(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a target comes from; ``trials`` and ``seeds`` are 0 if it was not measured."""

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
        """Return the metric's value that counts as reaching ``level``."""
        return self.value * level if self.direction == "max" else self.value / level

    def signed(self, metrics: dict[str, float]) -> float:
        """Return the metric so that more is better; NaN if it is not among ``metrics``."""
        value = metrics.get(self.metric, math.nan)
        return value if self.direction == "max" else -value

    def reached(self, value: float, level: float = 1.0) -> bool:
        """Return whether a measured ``value`` is at or beyond the threshold of ``level``."""
        threshold = self.threshold(level)
        return value >= threshold if self.direction == "max" else value <= threshold


class Suite(Struct, frozen=True, forbid_unknown_fields=True):
    """One training problem: data, model, batch, budget and target.

    A variant of a suite is a suite, called ``suite@variant``. Without ``task`` it is a
    classification; with it ``loss`` is ``"task"``. ``compile`` asks for ``torch.compile``,
    ``memory_format`` is torch's name for how model and images lie in memory, ``micro_batch`` the
    most samples that a rank puts through the network at once; ``loss_scale`` multiplies the loss
    that optimizers train, and no metric. ``code_sha256`` is the hash of the source that the suite
    names, filled in when a command names the suite. Unset fields are absent from records too, so
    that the records of older suites keep their run ids.
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
        """The name without the variant."""
        return self.name.partition("@")[0]

    @property
    def trainable(self) -> bool:
        """Whether it says how to train; a suite of imported logs says what to reach alone."""
        return bool(self.model.name)

    @property
    def sources(self) -> dict[str, str]:
        """What the suite names by ``source``, by table."""
        tables = (("data", self.data), ("model", self.model), ("task", self.task))
        return {name: table.source for name, table in tables if table and table.source}

    def global_batch(self, ranks: int) -> int:
        """Return the samples of a global minibatch: fixed (strong) or growing with N (weak)."""
        return self.batch_size if self.scaling == "strong" else self.batch_size * ranks


class Seeds(Struct, frozen=True, forbid_unknown_fields=True):
    """Seeds of the data order and of the initial weights (and of dropout, if any)."""

    data: Count
    init: Count


class Searched(Struct, frozen=True, forbid_unknown_fields=True):
    """How tuning found a configuration: sampler, pruner and search space.

    ``ranges`` are the bounds of what was searched between two numbers; an optimum on one of them
    says that the space is too small. ``choices`` names what else was searched, and is absent where
    there is nothing, as in older records. ``follows`` is the label of the competitor whose search
    may serve this one too.
    """

    sampler: Sampler
    pruner: Pruner
    space: Space
    version: int
    ranges: dict[str, tuple[float, float]] = {}
    follows: str = ""
    choices: tuple[str, ...] | UnsetType = UNSET


class Trial(Struct, frozen=True, forbid_unknown_fields=True):
    """One run: everything that determines its course, and nothing else.

    A ``twin`` repeats another report-stage trial in everything: the second half of an A/A pair,
    whose times differ by the machine's noise alone. ``plugin`` says where the optimizer's code
    lies: ``module:attribute``, or the absolute path of a plug-in file.
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
        """The trial without the path to its plug-in file's folder."""
        return msgspec.structs.replace(self, plugin=PurePath(self.plugin).name)

    @property
    def optimizer_reference(self) -> str:
        """What finds its optimizer again: the name of an installed one, else the file's path."""
        return self.plugin if self.plugin.endswith(".py") else self.optimizer

    @property
    def run_id(self) -> str:
        """Content address: twelve hexadecimal digits of the sha256 of the portable trial."""
        return digest({"schema": SCHEMA, "trial": self.portable})[:12]

    @property
    def configuration(self) -> str:
        """Hash of the optimizer's configuration alone: the same for every suite, N and seed."""
        return digest([self.optimizer, self.hyperparameters, self.plugin_sha256])[:12]


class Entry(Struct, frozen=True, forbid_unknown_fields=True):
    """One competitor of a study.

    ``optimizer`` is an installed optimizer's name or a plug-in file's path as written; ``label``
    is the backend's name with the pinned hyperparameters, as ``name[lr=0.1]``.
    """

    label: str
    optimizer: str
    pinned: dict[str, Scalar] = {}

    @property
    def portable(self) -> Entry:
        """The competitor without the path to its plug-in file's folder."""
        return msgspec.structs.replace(self, optimizer=PurePath(self.optimizer).name)


class Study(Struct, frozen=True, forbid_unknown_fields=True):
    """A resolved ``bench-apts run``: which suites, competitors, world sizes and repetitions.

    With ``twins`` the first competitor of each suite and N is reported twice, which shows how far
    times scatter on this machine. With ``share`` an optimizer that is seen to follow another's
    trajectory uses what the other's search found. ``folders`` has the folder of each suite that
    names Python files, by paths relative to it; ``workers`` the number of reading processes of
    each suite whose data is streamed.
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
        """Return the folder of a suite's file; "" where nothing is read from there."""
        return self.folders.get(suite.name, "") if self.folders else ""


def canonical(value: Any) -> bytes:
    """Encode ``value`` as JSON with sorted keys, so that equal values have equal bytes."""
    return msgspec.json.encode(value, order="sorted")


def digest(value: Any) -> str:
    """Return the sha256 of the canonical JSON of ``value`` in hexadecimal digits."""
    return hashlib.sha256(canonical(value)).hexdigest()
