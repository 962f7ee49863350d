"""Communication hooks of DistributedDataParallel by name, with state that checkpoints hold.

A hook takes the place of the all-reduce of the gradients. At one rank there is none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

from bench_apts.core.errors import unknown
from bench_apts.optimizers.quantized_mean import QuantizedMean
from bench_apts.plugins.state_copies import copied

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch._C._distributed_c10d import GradBucket
    from torch.nn.parallel import DistributedDataParallel

    Future = torch.futures.Future[torch.Tensor]


class GradientHook:
    """A hook without a state.

    Args:
        function: ``function(None, bucket)`` returns a future of the bucket's averaged gradients.

    Attributes:
        whole: Whether all gradients must come in one bucket.
    """

    whole = False

    def __init__(self, function: Callable[[Any, GradBucket], Future]) -> None:
        self._function = function

    def register(self, replicated: DistributedDataParallel) -> None:
        """Have it average the gradients of a replicated model."""
        # torch refuses a function whose annotations are texts, as this module's are.
        replicated.register_comm_hook(None, lambda state, bucket: self._function(state, bucket))

    def state_dict(self) -> dict[str, Any]:
        """Return copies of what it remembers on this rank."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""


class OrderedHook(GradientHook, ABC):
    """A hook that sees all gradients in one bucket, in the order of the model's parameters.

    Buckets hold them in another order after the first step of a process; a state that depends on
    their places would not fit another process.
    """

    whole = True

    def __init__(self) -> None:
        super().__init__(self._in_order)
        self._order: dict[torch.Tensor, int] = {}

    def register(self, replicated: DistributedDataParallel) -> None:
        """Have it average the gradients of a replicated model."""
        self._order = {p: place for place, p in enumerate(replicated.module.parameters())}
        super().register(replicated)

    def _in_order(self, _: None, bucket: GradBucket) -> Future:
        pairs = zip(bucket.parameters(), bucket.gradients(), strict=True)
        ordered = [gradient for _, gradient in sorted(
            pairs, key=lambda pair: self._order[pair[0]])]
        mine = OrderedBucket(ordered)

        def copy_back(future: Future) -> torch.Tensor:
            future.value()
            for gradient, averaged in zip(ordered, mine.gradients(), strict=True):
                gradient.copy_(averaged)
            return bucket.buffer()

        return self.average(mine).then(copy_back)

    @abstractmethod
    def average(self, bucket: OrderedBucket) -> Future:
        """Average a bucket in place; return a future of its buffer."""


class OrderedBucket:
    """What hooks read of a bucket, with its gradients in another order."""

    def __init__(self, gradients: list[torch.Tensor]) -> None:
        self._buffer = torch.cat([gradient.reshape(-1) for gradient in gradients])
        parts = torch.split(self._buffer, [gradient.numel() for gradient in gradients])
        self._gradients = [part.view(gradient.shape)
                           for part, gradient in zip(parts, gradients, strict=True)]

    def buffer(self) -> torch.Tensor:
        """Return all gradients as one vector."""
        return self._buffer

    def gradients(self) -> list[torch.Tensor]:
        """Return views of it in the parameters' shapes."""
        return self._gradients

    def index(self) -> int:
        """Return the bucket's number: there is one."""
        return 0

    def is_last(self) -> bool:
        """Say that no bucket follows."""
        return True


class PowerSGDHook(OrderedHook):
    """Low-rank gradients with error feedback: Vogels et al., PowerSGD, arXiv 1905.13727.

    Args:
        columns: Of the factors P and Q of each gradient matrix; PowerSGD's rank r.
        start: Steps that average whole gradients first; at least 2, as torch demands.
    """

    def __init__(self, columns: int = 1, start: int = 2) -> None:
        super().__init__()
        self._state = powerSGD_hook.PowerSGDState(
            None, matrix_approximation_rank=columns, start_powerSGD_iter=max(2, start),
            # Columns of zeros, as of a layer whose units are all off, would become NaN.
            orthogonalization_epsilon=1e-8)

    def average(self, bucket: OrderedBucket) -> Future:
        """Average a bucket by torch's hook."""
        found: Future = powerSGD_hook.powerSGD_hook(self._state, bucket)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return copies of errors, factors, generator and step."""
        state = self._state
        rng: Any = state.rng.get_state(legacy=False)
        rng["state"]["key"] = rng["state"]["key"].tolist()
        return copied({
            "iter": state.iter, "error": state.error_dict, "p": state.p_memory_dict,
            "q": state.q_memory_dict, "rng": rng})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        state = copied(state)
        mine = self._state
        mine.iter, mine.error_dict = state["iter"], state["error"]
        mine.p_memory_dict, mine.q_memory_dict = state["p"], state["q"]
        mine.rng.set_state(state["rng"])


class QuantizedHook(OrderedHook):
    """Gradients of a few bits: ``quantized_mean``, unbiased, or with error feedback.

    Args:
        bits: Of a number.
        block: Numbers that share a step.
        feedback: Whether what a message loses is added to the next one.
    """

    def __init__(self, bits: int = 8, block: int = 256, feedback: bool = False) -> None:
        super().__init__()
        self._options: dict[str, Any] = {"bits": bits, "block": block, "feedback": feedback}
        self._mean: QuantizedMean | None = None
        self._taken = 0

    def register(self, replicated: DistributedDataParallel) -> None:
        """Have it average the gradients of a replicated model."""
        trained = [p for p in replicated.module.parameters() if p.requires_grad]
        like = torch.empty(sum(p.numel() for p in trained), dtype=trained[0].dtype,
                           device=trained[0].device)
        self._mean = QuantizedMean(like, **self._options)
        super().register(replicated)

    def average(self, bucket: OrderedBucket) -> Future:
        """Average a bucket by two messages, and wait for them."""
        buffer = bucket.buffer()
        if self._mean is None:
            raise RuntimeError("register the hook first")
        self._mean.average(buffer, self._taken)
        self._taken += 1
        done: Future = torch.futures.Future(devices=[buffer.device] if buffer.is_cuda else [])
        done.set_result(buffer)
        return done

    def state_dict(self) -> dict[str, Any]:
        """Return copies of errors and the number of steps."""
        return {"taken": self._taken, "mean": self._mean and self._mean.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._taken = state["taken"]
        if self._mean:
            self._mean.load_state_dict(state["mean"])


HOOKS: dict[str, Callable[..., GradientHook]] = {
    "fp16": lambda: GradientHook(default_hooks.fp16_compress_hook),
    "bf16": lambda: GradientHook(default_hooks.bf16_compress_hook),
    "powersgd": PowerSGDHook,
    "quantized": QuantizedHook,
}
"""What makes each hook, given its options."""


def find(name: str, **options: Any) -> GradientHook:
    """Make a hook by its name.

    Args:
        name: A key of ``HOOKS``.
        options: Those of its class, for instance ``columns`` of ``"powersgd"``.

    Raises:
        UserError: No hook has this name.
    """
    if name not in HOOKS:
        raise unknown("communication hook", name, HOOKS)
    return HOOKS[name](**options)
