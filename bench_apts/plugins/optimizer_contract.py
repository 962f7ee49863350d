"""What an optimizer backend offers to the harness, and what it is given.

Importing this module does not import torch, and a backend's module should not either before
its ``build`` is called: ``bench-apts list`` reads all of them.
"""

from __future__ import annotations

import importlib.util
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

from bench_apts.core.configuration import Choice as Choice
from bench_apts.core.configuration import Distribution as Distribution
from bench_apts.core.configuration import Hyperparameter as Hyperparameter
from bench_apts.core.configuration import LogUniform as LogUniform
from bench_apts.core.configuration import Uniform as Uniform
from bench_apts.core.configuration import coerce
from bench_apts.core.errors import UserError, unknown
from bench_apts.core.wire import ideal_bytes
from bench_apts.plugins import backend_checks

if TYPE_CHECKING:
    import torch

    from bench_apts.core.spec import Scalar

@dataclass(frozen=True)
class Sampling:
    """How an optimizer wants its minibatches cut, where it is not plainly.

    Attributes:
        overlap: Besides its own slice of a global minibatch each rank gets this share of a slice
            from those of the next ranks; from N − 1 on, all ranks get the whole minibatch.
        growth: Factor on the global minibatch after each epoch, at least 1, up to all samples.
    """

    overlap: float = 0.0
    growth: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < math.inf:
            raise UserError(f"overlap={self.overlap}: expected a number of at least 0")
        if not 1 <= self.growth < math.inf:
            raise UserError(f"growth={self.growth}: expected a number of at least 1")

    def require_apart(self) -> None:
        """Refuse slices that overlap, for suites that divide the samples among the ranks.

        Raises:
            UserError: They do: a rank would get samples that are another's.
        """
        if self.overlap:
            raise UserError(f"overlap={self.overlap:g} hands a rank samples of the others, and "
                            "data.partition of the suite keeps them apart; set overlap=0")


class Batch(NamedTuple):
    """One rank's share of a minibatch.

    Attributes:
        inputs: What the forward pass of the model takes: ``(b, …)``, normalised floats, or int64
            such as tokens, or a dictionary of such tensors. Where the task computes its losses
            from a whole batch, a ``Batch`` of inputs and targets; the model then returns losses,
            ``(b,)``.
        targets: ``(b, …)``, int64 or float32; ``len(batch.targets)`` is the number of samples.
    """

    inputs: Any
    targets: torch.Tensor


@dataclass(frozen=True)
class World:
    """Where a stepper lives and how long it will run.

    Attributes:
        rank: This process's number, 0 … size − 1.
        size: Number of ranks N. The default process group is initialised with as many.
        device: Where model and batches lie.
        batch_size: Samples in one global minibatch; each rank gets ``batch_size / size``, unless
            its backend has a ``sampling``.
        budget_samples: Samples that all ranks together may process: a schedule's horizon.
        precision: ``"fp32"`` or ``"bf16"`` (automatic mixed precision of forward passes).
        micro_batch: Samples that the network takes at once at most; 0 for no limit. The model cuts
            larger batches itself and passes them twice, which ``plugins.micro.parts`` avoids.
    """

    rank: int
    size: int
    device: torch.device
    batch_size: int
    budget_samples: int
    precision: str = "fp32"
    micro_batch: int = 0


@dataclass
class StepReport:
    """What one step did on this rank.

    Attributes:
        loss: This rank's training loss, a float or a detached scalar tensor (not synchronised).
        samples: Samples this rank processed: each forward pass over a sample counts one.
        forwards: Forward passes of this rank.
        backwards: Backward passes of this rank.
        total_samples: Samples of all ranks, the same number on every rank; None where every
            rank processed as many as this one. Where ranks may differ, the stepper agrees on
            the number inside a collective that it needs anyway.
        agreed: Whether all ranks hold the same weights now. A method with local steps says False
            between its all-reduces; the harness evaluates and ends only where it says True.
        diagnostics: Free-form numbers. In the record a bool becomes the share of steps since
            the previous evaluation, any other number its latest value.
    """

    loss: float | torch.Tensor
    samples: int
    forwards: int
    backwards: int
    total_samples: int | None = None
    agreed: bool = True
    diagnostics: dict[str, float | bool | torch.Tensor] = field(default_factory=dict)


@runtime_checkable
class Stepper(Protocol):
    """A model being trained. It owns how replicas are kept together.

    Optional is ``prepare_for_eval(batches)``, called before ``evaluation_model`` with an iterator
    of training batches, for instance to gather BatchNorm statistics at other weights.
    """

    def step(self, batch: Batch) -> StepReport:
        """Does one optimizer iteration on this rank's share of a minibatch."""

    def state_dict(self) -> dict[str, Any]:
        """Returns all that decides the future on this rank: weights, buffers, optimizer state.

        Dictionaries, lists and tuples of tensors, numbers, strings and None, or no checkpoint
        can be written. The tensors are copies. May use collectives; all ranks call it together.
        """

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` returned on this rank; all ranks call it together.

        The state may come from another process; this one has then taken a few steps at most.
        """

    def evaluation_model(self) -> torch.nn.Module:
        """Returns the module whose forward pass is evaluated; all ranks use it in lockstep.

        All ranks must evaluate one model: weights and buffers that are not sharded are compared.
        What happens here is billed to the stepper: time, bytes and passes. The weights of the
        model must not change, unless the backend says ``moves_weights``.
        """


Loss = Callable[..., Any]
"""``loss(output, target, reduction="mean" | "sum" | "none")``."""

Build = Callable[["torch.nn.Module", Loss, Mapping[str, Any], World], Stepper]


@dataclass(frozen=True)
class TrafficFormula:
    """The bytes that an optimizer must send, to hold the measured ones against.

    Reports write P for the bytes of the parameters in float32 and f for (N − 1)/N, N ranks
    (docs/measurement.md, 3, "Known answers per optimizer step").

    Attributes:
        words: The formula in ideal bytes sent per rank, as reports show it, for instance
            ``"2f·P"``.
        unit: What it counts: an optimizer step, or a round (one all-reduce) of a method that
            chooses the length of its rounds by itself.
        payloads: ``payloads(n, N)`` returns the payload in bytes by collective, for instance
            ``{"all_reduce": 4 * n}``, for n trained parameters and N ranks.
        note: What the formula leaves out, if anything, as the end of a sentence that begins with
            the optimizer's name.
    """

    words: str
    unit: Literal["step", "round"]
    payloads: Callable[[int, int], Mapping[str, int]]
    note: str = ""

    def ideal(self, parameters: int, ranks: int) -> dict[str, float]:
        """Return ideal bytes sent per rank and unit, by collective.

        Args:
            parameters: Number of trained parameters n.
            ranks: World size N.
        """
        return {collective: ideal_bytes(collective, payload, ranks)
                for collective, payload in self.payloads(parameters, ranks).items()}


GRADIENT_SUM = TrafficFormula("2f·P", "step", lambda n, _: {"all_reduce": 4 * n})
"""One all-reduce of the gradient a step, as DistributedDataParallel does it."""


@dataclass(frozen=True)
class Backend:
    """An optimizer as the harness sees it: metadata, knobs and a way to build a stepper.

    Attributes:
        name: As written in ``--optimizers``.
        summary: One line for ``bench-apts list``.
        hyperparameters: By name. The search space belongs to the optimizer, not to a suite.
        build: Makes a stepper from the model (already on the device, the same weights on every
            rank), the loss, the hyperparameters and the world.
        tuning_free: Claims that its defaults serve everywhere; it is then never tuned.
        requires: Importable packages it needs.
        min_ranks: The smallest world it makes sense in.
        batch_size: Given the suite's global batch, the hyperparameters and N, the global batch
            this optimizer wants; None for the suite's.
        sampling: Given the hyperparameters, how minibatches overlap and grow; None for neither.
        presets: Bundles of defaults, chosen by a hyperparameter named ``preset``; what the user
            pins overrides them.
        ordered: Configurations that tuning tries in this order instead of drawing, one a trial
            and no trial more than there are; what the user pins overrides them.
        follows: Name of the optimizer whose trajectory this one claims to take, with the same
            hyperparameters and the same search space: that one's search may then serve both.
        space_version: Raised for a fresh series of draws. Optimizers with equal spaces and equal
            versions draw equal configurations.
        sources: Further modules or packages whose source decides what it does; with the file
            that defines ``build`` they make the plug-in's hash.
        moves_weights: Whether ``evaluation_model`` puts other weights into the model than those
            that are trained, for instance an average; else a trial in which it does is an error.
        family: What reports call the method that this optimizer stands for, for instance
            ``"APTS"``. They say how each family fared, and compare the others with its
            tuning-free member. "" for none.
        traffic: The bytes it must send; None where no formula is known.
        developed_on: Names of the suites on whose validation splits its defaults were chosen.

    Raises:
        UserError: A field cannot be used as declared; names the backend, the field and what was
            expected.
    """

    name: str
    summary: str
    hyperparameters: Mapping[str, Hyperparameter]
    build: Build
    tuning_free: bool = False
    requires: tuple[str, ...] = ()
    min_ranks: int = 1
    batch_size: Callable[[int, Mapping[str, Any], int], int] | None = None
    sampling: Callable[[Mapping[str, Any]], Sampling] | None = None
    presets: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)
    ordered: tuple[Mapping[str, Scalar], ...] = ()
    follows: str = ""
    space_version: int = 1
    sources: tuple[str, ...] = ()
    moves_weights: bool = False
    family: str = ""
    traffic: TrafficFormula | None = None
    developed_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        backend_checks.check(self)

    def unavailable(self) -> str | None:
        """Returns why the backend cannot run here, or None if it can."""
        missing = [name for name in self.requires if not installed(name)]
        return f"package {', '.join(missing)} is not installed" if missing else None

    def searched(
        self, pinned: Mapping[str, Scalar] = {}, space: Literal["narrow", "wide"] = "narrow"
    ) -> dict[str, Hyperparameter]:
        """Returns the hyperparameters that tuning turns and the user has not pinned.

        They are those that the ordered configurations name, or where there are none those with
        a distribution in the space, which is then their ``search``.
        """
        if self.ordered:
            turned = {key for values in self.ordered for key in values}
            known = {key: self.hyperparameters[key] for key in self.hyperparameters
                     if key in turned}
        else:
            known = {key: replace(knob, search=(space == "wide" and knob.wide) or knob.search)
                     for key, knob in self.hyperparameters.items()}
            known = {key: knob for key, knob in known.items() if knob.search is not None}
        return {key: knob for key, knob in known.items() if key not in pinned}

    def configure(self, values: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Completes ``values`` with the preset's settings and the defaults.

        Raises:
            UserError: A name is unknown, or a value is of another kind than the default, out of
                its range or not among the options.
        """
        full = {key: knob.default for key, knob in self.hyperparameters.items()}
        preset = self.presets.get(str(values.get("preset", full.get("preset"))), {})
        for key, value in {**preset, **values}.items():
            if key not in full:
                raise unknown(f"hyperparameter of {self.name}", key, full)
            full[key] = coerce(f"{self.name}[{key}={value}]", value, self.hyperparameters[key])
        return full

    def minibatch(self, suite_batch: int, values: Mapping[str, Any], ranks: int) -> int:
        """Return the global minibatch that this optimizer wants, in samples.

        Args:
            suite_batch: The suite's global minibatch.
            values: All hyperparameters.
            ranks: World size N.

        Raises:
            UserError: ``batch_size`` raises, or returns no whole number from 1 on.
        """
        if self.batch_size is None:
            return suite_batch
        where = f"{self.name}: batch_size({suite_batch}, …, {ranks})"
        found = _answer(where, self.batch_size, suite_batch, values, ranks)
        try:
            number = 0 if isinstance(found, bool) else operator.index(found)
        except TypeError:
            number = 0
        if not 1 <= number < 2**63:
            raise UserError(
                f"{where} returned {backend_checks.shown(found)}, which cannot be shared by "
                f"{ranks} ranks; expected a whole number of samples from 1 on"
            )
        return number

    def slicing(self, values: Mapping[str, Any]) -> Sampling | None:
        """Return how minibatches overlap and grow; None for neither.

        Raises:
            UserError: ``sampling`` raises, or returns no ``Sampling``.
        """
        if self.sampling is None:
            return None
        found = _answer(f"{self.name}: sampling(…)", self.sampling, values)
        if not isinstance(found, Sampling):
            raise UserError(
                f"{self.name}: sampling(…) returned {backend_checks.shown(found)}; expected "
                "a Sampling"
            )
        return found


def _answer(where: str, asked: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return asked(*arguments)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except Exception as error:
        raise UserError(f"{where} raised {type(error).__name__}: {error}") from error


def installed(module: str) -> bool:
    """Says whether a module, possibly inside a package, can be found."""
    try:
        return importlib.util.find_spec(module) is not None
    except Exception:  # a package around it is missing, or cannot be imported
        return False
