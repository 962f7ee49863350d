"""APTS as a ``torch.optim.Optimizer`` over ``torch.distributed``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from bench_apts.optimizers.apts.acceptance import PaperSettings, paper_settings
from bench_apts.optimizers.apts.flat_problem import Closure, FlatBuffers, FlatProblem
from bench_apts.optimizers.apts.muon_moments import muon_rows
from bench_apts.optimizers.apts.paper import PaperMethod
from bench_apts.optimizers.apts.rank_agreement import RankGroup
from bench_apts.optimizers.apts.stochastic import StochasticMethod
from bench_apts.optimizers.apts.stochastic_settings import (
    StochasticSettings,
    stochastic_settings,
)
from bench_apts.optimizers.presets import DIRECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch.distributed as dist

_VARIANTS: dict[str, tuple[Any, Any, tuple[str, ...]]] = {
    "paper": (PaperMethod, paper_settings,
              ("preset", *(field.name for field in dataclasses.fields(PaperSettings)))),
    "stochastic": (StochasticMethod, stochastic_settings,
                   ("preset", *(field.name for field in dataclasses.fields(StochasticSettings)))),
}
"""Of each variant: the method, what makes its settings, and their names."""


class APTS(torch.optim.Optimizer):
    """The Additively Preconditioned Trust-Region Strategy: no learning rate.

    Every rank calls ``step`` with a closure over its own shard of the minibatch::

        opt = APTS(model.parameters(), buffers=model.buffers)

        def closure(backward=True):
            losses = loss_function(model(inputs), targets, reduction="none")
            if backward:
                losses.mean().backward()   # adds to p.grad, which is None at first
            return losses.detach()

        opt.step(closure)

    Parameters become views of a flat buffer, and whatever moves them elsewhere between two steps
    (``model.half(); model.float()``, ``p.data = …``) is undone at the next, which takes over their
    values. A model that has another dtype, device or shape by then, or other parameters, is an
    error that says so. Gradients are set to None before each evaluation. Replicas start with equal
    weights and stay equal; do not wrap the model in DistributedDataParallel. The closure may be
    called several times within one ``step``, at several points, always over the same shard; it
    must give the same losses at the same point (no fresh dropout masks). It may run under
    autocast, call a compiled model, or collect the gradient of its mean loss from several
    micro-batches. Shards may differ in size, change from step to step, and even be empty, if the
    closure returns one loss per sample; else they have equal sizes.

    Beyond model and gradients the stochastic variant holds four buffers of n floats, and a fifth
    in the first half of its budget. The paper's
    of first order holds three, and up to seven during a local phase (measured); there gradients
    lie in a flat buffer, and while autograd's are copied to it they take twice their memory.

    Parameters of 16 bits are rounded copies of float32 values, which the optimizer holds; all of
    its state and of what it sends is float32 then. The optimizer is saved by its ``state_dict``,
    which together with the model's goes on bit for bit, and cannot be copied or pickled itself.

    Args:
        params: Real parameters of one dtype on one device, or parameter groups of them. All
            groups are one problem with one radius, and none can be added later. Their one option
            is ``direction``, of the stochastic variant: ``"adam"``, the default, or ``"muon"``,
            for matrices of hidden layers (see ``MuonMoments``; kernels of convolutions are
            matrices of one row per output channel). Those that are frozen now are left out for
            good.
        process_group: The ranks that work together; None for the default group, or for a single
            process where torch.distributed is not initialised.
        variant: ``"paper"``, the published method (see ``PaperSettings`` and its presets), or
            ``"stochastic"``, local phases under a trust region judged on fresh minibatches (see
            ``StochasticSettings`` and ``STOCHASTIC_PRESETS``).
        buffers: ``model.buffers`` of a model with BatchNorm: the statistics are averaged over
            the ranks like the parameters, and restored where a step is rejected. The function is
            asked whenever they are needed. ``model.buffers()`` costs less where there are many
            modules, but ends with an error once a conversion of the model has replaced them.
        **settings: Settings of the variant.

    Attributes:
        last: Diagnostics of the latest step: ``radius``, and where the step was judged ``rho``
            (paper), ``accepted``, ``actual_reduction``, ``predicted_reduction`` (paper) and
            ``at_bound``, whether the radius then lay at a bound; ``overshoot`` of the way
            (stochastic); ``forwards``, ``backwards``, ``local_passes`` (those of both kinds in
            steps that this rank took alone), ``floats`` (all-reduced), ``calls`` (of any
            collective) and ``bytes`` (their payloads). Where ranks may differ in their passes
            (paper, with retries), ``forwards_beyond``: by how many the mean over ranks exceeds
            ``forwards``.

    Raises:
        ValueError: No parameters, mixed or complex dtypes, shared memory, a group with other
            options, a process outside of the group, or a setting out of its range.
        TypeError: A setting that the variant does not have.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]],
        process_group: dist.ProcessGroup | None = None,
        *,
        variant: str = "paper",
        buffers: Iterable[torch.Tensor] | Callable[[], Iterable[torch.Tensor]] = (),
        **settings: Any,
    ) -> None:
        if variant not in _VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(_VARIANTS)}, not {variant!r}")
        make_method, make_settings, known = _VARIANTS[variant]
        if unknown := ", ".join(sorted(settings.keys() - set(known))):
            raise TypeError(f"variant={variant!r} has no setting {unknown}; it has "
                            + ", ".join(known))
        chosen = make_settings(**settings)
        super().__init__(params, {})
        everything = [p for group in self.param_groups for p in group["params"]]
        names = [name for group in self.param_groups for name in group.get("param_names", ())]
        names = names or [f"parameter {number}" for number in range(len(everything))]
        trained = {name: p for name, p in zip(names, everything, strict=True) if p.requires_grad}
        if not trained:
            raise ValueError("no parameter requires a gradient")
        self._left_out = [p for p in everything if not p.requires_grad]
        self._ranks = RankGroup(process_group)
        self._flat = FlatBuffers(list(trained.values()), buffers, make_method.slots(chosen),
                                 list(trained), make_method.COLLECTS)
        self._problem = FlatProblem(self._flat)
        matrices = {id(p) for group in self.param_groups if group.get("direction") == "muon"
                    for p in group["params"]}
        if matrices and variant != "stochastic":
            raise ValueError("direction='muon' is of variant='stochastic'")
        rows = {"rows": [muon_rows(p) if id(p) in matrices else 0
                         for p in trained.values() if p.numel()]} if matrices else {}
        self._method: PaperMethod | StochasticMethod = make_method(
            self._problem, self._ranks, chosen, **rows)
        self.last: dict[str, Any] = {}

    @property
    def radius(self) -> float:
        """The trust-region radius."""
        return self._method.radius

    @torch.no_grad()
    def step(self, closure: Closure) -> torch.Tensor:  # type: ignore[override]
        """Do one iteration of the variant.

        Args:
            closure: ``closure(backward: bool)`` returns this rank's losses, one per sample or
                their mean, and if asked adds the gradient of the mean to ``p.grad``.

        Returns:
            The mean loss where the step started, a scalar: over all shards in the paper's
            variant, over this rank's in the stochastic one.

        Raises:
            FloatingPointError: (paper) That loss or its gradient is not finite on some rank;
                raised on all ranks. The stochastic variant rejects at its next test instead.
            RankError: The closure raised an exception on some rank of several; raised on all
                ranks, in the stochastic variant at the end of the round. A single process sees
                the exception itself.
            ValueError: No rank has a sample, a parameter was converted or frozen after the
                optimizer was made, or one that was frozen then no longer is.
            TypeError: The closure does not return a tensor.
            RuntimeError: The closure's gradients do not reach the parameters, or what
                torch.distributed raises where a rank has died.

        After each of these the parameters stand at the last accepted point.
        """
        if any(p.requires_grad for p in self._left_out):
            raise ValueError("a parameter that was frozen when this APTS was made requires a "
                             "gradient now; make a new APTS of the parameters to be trained")
        problem = self._problem
        before = self._counts()
        problem.pose(closure)
        try:
            loss, last = self._method.iterate()
        finally:
            problem.withdraw()
        self.last = last | {name: late - before[name] for name, late in self._counts().items()}
        return loss

    def finish(self, samples: float) -> None:
        """Shrink the steps of the stochastic variant linearly to 0 from now on.

        For trainings whose length was not known (no ``samples``), and for those that shall end
        earlier or later than was said. All ranks call it between the same two steps.

        Args:
            samples: Over how many more samples of a rank, on average over the ranks, every pass
                counted. A third of those so far serve as well as a schedule from the start
                (docs/apts.md).

        Raises:
            TypeError: The variant is another one.
            ValueError: ``samples`` is below 1.
        """
        if not isinstance(self._method, StochasticMethod):
            raise TypeError("finish() is of variant='stochastic': no other has a schedule")
        if not samples >= 1:
            raise ValueError(f"samples must be a positive number, not {samples}")
        self._method.finish(samples)

    def _counts(self) -> dict[str, int]:
        """Return what has been done and sent so far."""
        problem, ranks = self._problem, self._ranks
        return {"forwards": problem.forwards, "backwards": problem.backwards,
                "floats": ranks.floats, "calls": ranks.calls, "bytes": ranks.bytes}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group while the optimizer is made; there is no room for parameters afterwards.

        Raises:
            RuntimeError: The optimizer is in use.
            ValueError: The group has other options than ``direction``, or an unknown one.
        """
        if hasattr(self, "_method"):
            raise RuntimeError("parameters cannot be added: they share one buffer of fixed size")
        options = set(param_group) - {"params", "param_names", "direction"}
        if options:
            raise ValueError("the one option of a parameter group of APTS is direction, but one "
                             "has " + ", ".join(sorted(options)))
        direction = param_group.get("direction", "adam")
        if direction not in DIRECTIONS:
            raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}, not "
                             f"{direction!r}")
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the usual dictionary with copies of the method's state under ``apts``.

        For parameters of 16 bits it holds the float32 values too. Save it on every rank: in the
        stochastic variant ranks differ.
        """
        state = super().state_dict() | {"apts": self._method.state_dict(),
                                        "strides": self._flat.strides}
        if self._flat.rounded:
            state["values"] = self._flat.values.clone()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned, on the same rank of as many.

        Raises:
            ValueError: It is of other parameters, or they lay in another order in memory.
        """
        if state_dict.get("strides", self._flat.strides) != self._flat.strides:
            raise ValueError("the state is of parameters in another shape or memory format: give "
                             "the model that one before the APTS is made")
        super().load_state_dict({k: state_dict[k] for k in ("state", "param_groups")})
        self._method.load_state_dict(state_dict["apts"])
        if self._flat.rounded:
            self._flat.values.copy_(state_dict["values"])
            self._flat.publish()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse: a copy would not hold the buffers that the model's parameters are views of.

        Raises:
            TypeError: Always.
        """
        raise TypeError("an APTS cannot be copied or pickled; save its state_dict()")
