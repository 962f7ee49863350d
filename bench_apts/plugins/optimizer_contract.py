"""What passes between the harness and an optimizer: batches, the world, step reports, steppers.

Importing this module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

from bench_apts.core.errors import UserError
from bench_apts.core.wire import ideal_bytes

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

    def share(self, batch_size: int, ranks: int) -> int:
        """Return how many samples of a global minibatch a rank gets."""
        own = batch_size // ranks
        return own + min(round(self.overlap * own), batch_size - own)

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
            larger batches itself and passes them twice, which ``micro_batches.parts`` avoids.
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
        agreed: Whether all ranks hold the same weights now, or where other weights are evaluated
            (``Backend.moves_weights``) the same of those. A method with local steps says False
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
        """Do one optimizer iteration on this rank's share of a minibatch."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that decides the future on this rank: weights, buffers, optimizer state.

        Dictionaries, lists and tuples of tensors, numbers, strings and None, or no checkpoint
        can be written. The tensors are copies. May use collectives; all ranks call it together.
        """

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned on this rank; all ranks call it together.

        The state may come from another process; this one has then taken a few steps at most.
        """

    def evaluation_model(self) -> torch.nn.Module:
        """Return the module whose forward pass is evaluated; all ranks use it in lockstep.

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
        where: Values of hyperparameters, by name, that the formula holds for alone.
        first: How many units at the beginning of a training send ``first_payloads`` instead.
        first_payloads: As ``payloads``.
    """

    words: str
    unit: Literal["step", "round"]
    payloads: Callable[[int, int], Mapping[str, int]]
    note: str = ""
    where: Mapping[str, Scalar] = field(default_factory=dict)
    first: int = 0
    first_payloads: Callable[[int, int], Mapping[str, int]] = lambda parameters, ranks: {}

    def ideal(self, parameters: int, ranks: int, units: int = 0) -> dict[str, float]:
        """Return ideal bytes sent per rank and unit, by collective.

        Args:
            parameters: Number of trained parameters n.
            ranks: World size N.
            units: Of a training, whose mean is asked for; 0 for the bytes of a unit that is not
                one of the first.
        """
        share = min(self.first, units) / units if units else 0.0
        mean = dict[str, float]()
        for payloads, weight in ((self.first_payloads, share), (self.payloads, 1 - share)):
            for collective, payload in payloads(parameters, ranks).items() if weight else ():
                mean[collective] = (mean.get(collective, 0.0)
                                    + weight * ideal_bytes(collective, payload, ranks))
        return mean


GRADIENT_SUM = TrafficFormula("2f·P", "step", lambda n, _: {"all_reduce": 4 * n})
"""One all-reduce of the gradient a step, as DistributedDataParallel does it."""
