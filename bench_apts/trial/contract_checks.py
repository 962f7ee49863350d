"""Checks of networks and plug-ins: can every optimizer train it, are a step's reports true?

Parameters are checked before any pass, a report before anything of it enters a record, and what
ranks reported together against what was counted on all of them.
"""

from __future__ import annotations

import operator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parameter import is_lazy

from bench_apts.core.errors import ContractError, UserError, escape_non_utf8
from bench_apts.plugins.optimizer_contract import StepReport

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench_apts.core.records import Eval
    from bench_apts.core.spec import Suite

_DTYPES = (torch.float32, torch.float64)
_BITS = 53
_MAX = 2**_BITS
"""Largest count: JSON readers hold larger integers as inexact floats."""
_MAX_NAMES = 256
_MAX_LENGTH = 100
_PLAIN = frozenset({float, bool})
_Tensor, _FLOAT = torch.Tensor, torch.float32  # found faster than attributes of torch


def check_parameters(network: torch.nn.Module) -> None:
    """Check parameters as built, before any pass.

    Raises:
        UserError: There are none to be trained, or one is lazy, has no values, is not a float of
            32 or 64 bits, has another dtype than the others, or shares memory.
    """
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    if not trained:
        raise UserError("the network has no parameter that requires a gradient: nothing can be "
                        "trained")
    first_name, first = trained[0]
    owners: dict[int, str] = {}
    for name, p in network.named_parameters():
        if is_lazy(p):
            raise UserError(f"parameter {name} has no shape yet, as its layer is lazy: run one "
                            "forward pass before the network is returned")
        if p.is_meta:
            raise UserError(f"parameter {name} is on the device 'meta' and has no values")
        if not p.requires_grad:
            continue
        if p.is_complex():
            raise UserError(f"parameter {name} is complex, which not every optimizer can train: "
                            "hold torch.view_as_real of it as the parameter")
        if p.dtype not in _DTYPES:
            raise UserError(f"parameter {name} is {_short(p)}: return a network of float32, and "
                            "write precision = \"bf16\" for passes in bfloat16")
        if p.dtype != first.dtype:
            raise UserError(f"parameters have several dtypes, {_short(first)} ({first_name}) and "
                            f"{_short(p)} ({name}), which not every optimizer can train: give "
                            "all of them one")
        if any(step == 0 and size > 1 for step, size in zip(p.stride(), p.shape, strict=True)):
            raise UserError(f"elements of parameter {name} share memory (expand): clone() it")
        if p.numel() and (other := owners.setdefault(p.data_ptr(), name)) != name:
            raise UserError(f"parameters {other} and {name} share memory without being one "
                            "parameter: let the network hold one nn.Parameter in both places")


def check_gradients(network: torch.nn.Module) -> None:
    """Check gradients after a backward pass over a whole batch.

    Raises:
        UserError: A parameter that requires a gradient has none, or a sparse one.
    """
    unused = without_gradient(network)
    if unused:
        raise UserError(f"parameters without a gradient: {_some(unused)}; use them in the "
                        "loss, or freeze them by requires_grad_(False)")
    for name, p in network.named_parameters():
        if p.grad is not None and p.grad.layout != torch.strided:
            raise UserError(f"parameter {name} gets a sparse gradient, which not every optimizer "
                            "can use: leave out sparse=True")


def without_gradient(network: torch.nn.Module) -> list[str]:
    """Return the names of parameters that require a gradient and have none."""
    return [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]


def refuse_occasional(names: Iterable[str]) -> None:
    """Refuse parameters that some batches give a gradient and others do not.

    Raises:
        UserError: There is one.
    """
    if names := list(dict.fromkeys(names)):
        raise UserError(
            f"parameters that some batches give no gradient: {_some(names)}; ranks that average "
            "gradients would wait for them: let every batch reach them, for instance by adding "
            "0 * p.sum() of each to the loss, or freeze them by requires_grad_(False)")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")


def _short(parameter: torch.nn.Parameter) -> str:
    return str(parameter.dtype).removeprefix("torch.")


class ReportCheck:
    """Checks the reports of one stepper, one after the other."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def checked(self, report: object, handed: int) -> StepReport:
        """Return a step's report with plain integers as its counts.

        Args:
            report: What ``step`` returned.
            handed: Samples in the batch that the step was given.

        Raises:
            ContractError: It is not a StepReport, a field has another type or a value that no
                record could hold, or the step reports no samples at all.
        """
        if not isinstance(report, StepReport):
            raise ContractError(f"step() returned {_kind(report)}; a StepReport was expected")
        report.samples = _count("samples", report.samples)
        report.forwards = _count("forwards", report.forwards)
        report.backwards = _count("backwards", report.backwards)
        progress = report.samples
        if report.total_samples is not None:
            progress = report.total_samples = _count("total_samples", report.total_samples)
        if not progress:
            raise ContractError(
                f"step() reports 0 samples of the {handed} in its batch, so the trial would never "
                "end; each forward pass over a sample counts as one")
        if not isinstance(report.agreed, bool):
            raise ContractError(f"StepReport.agreed is {_kind(report.agreed)}; a bool was "
                                "expected")
        _check_number("loss", report.loss)
        self._check_diagnostics(report.diagnostics)
        return report

    def require_total(self, total: StepReport) -> StepReport:
        """Return the reports of many checked or unchecked steps, added up, as ``checked`` does.

        The usual ones are found in few instructions, as a pause has to fetch all of them again.

        Args:
            total: Sums of counts and losses, and the latest diagnostics.

        Raises:
            ContractError: As ``checked``.
        """
        samples, forwards, backwards = total.samples, total.forwards, total.backwards
        loss: Any = total.loss
        if (type(samples) is int and type(forwards) is int and type(backwards) is int
                and samples and not (samples | forwards | backwards) >> _BITS  # -1 if negative
                and (type(loss) is float
                     or (type(loss) is _Tensor and loss.dtype is _FLOAT
                         and loss.ndim == 0 and not loss.requires_grad))
                and self._names.issuperset(total.diagnostics)
                and _PLAIN.issuperset(map(type, total.diagnostics.values()))):
            return total
        return self.checked(total, samples)

    def _check_diagnostics(self, diagnostics: object) -> None:
        if not isinstance(diagnostics, dict):
            raise ContractError(f"StepReport.diagnostics is {_kind(diagnostics)}; a dict was "
                                "expected")
        for name, value in diagnostics.items():
            if name not in self._names:
                self._add(name)
            if not isinstance(value, bool | float):
                _check_number("diagnostics", value, name)

    def _add(self, name: object) -> None:
        if not isinstance(name, str) or len(name) > _MAX_LENGTH or name != escape_non_utf8(name):
            raise ContractError(f"a name in StepReport.diagnostics is {name!a:.120}; a text of at "
                                f"most {_MAX_LENGTH} characters was expected")
        self._names.add(name)
        if len(self._names) > _MAX_NAMES:
            raise ContractError(f"StepReport.diagnostics had more than {_MAX_NAMES} different "
                                "names; a record holds no more")


def rank_independent(report: StepReport) -> list[int]:
    """Return the numbers of a report that must be the same on every rank."""
    total = report.total_samples
    return [report.samples if total is None else total, int(total is None), int(report.agreed)]


def _count(name: str, value: Any) -> int:
    if type(value) is not int:
        # NumPy's integers count as integers; a tensor on a GPU would have to be waited for.
        if isinstance(value, bool | torch.Tensor) or not hasattr(value, "__index__"):
            raise ContractError(f"StepReport.{name} is {value!a:.40}, {_kind(value)}; an int was "
                                "expected")
        value = operator.index(value)
    if not 0 <= value <= _MAX:
        raise ContractError(f"StepReport.{name} is {value}; a number from 0 to 2**53 was expected")
    count: int = value
    return count


def _check_number(field: str, value: Any, key: str | None = None) -> None:
    """Refuse what is not a single real number; tensors stay where they are.

    Args:
        field: The report's field.
        value: What it holds.
        key: The name in a field that holds several numbers.
    """
    if isinstance(value, torch.Tensor):
        if value.numel() == 1 and not value.requires_grad and not value.is_complex():
            return
        name = _name(field, key)
        if value.numel() != 1 or value.is_complex():
            raise ContractError(f"StepReport.{name} is a {value.dtype} tensor of shape "
                                f"{tuple(value.shape)}; a single real number was expected")
        raise ContractError(f"StepReport.{name} holds its graph, and with it the memory of "
                            "its step; detach it")
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        raise ContractError(f"StepReport.{_name(field, key)} is {_kind(value)}; a float or a "
                            "detached scalar tensor was expected") from None


def _name(field: str, key: str | None) -> str:
    return field if key is None else f"{field}[{key!r}]"


def _kind(value: object) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def require_agreement(samples: int, due: int, evals: Sequence[Eval], suite: Suite) -> None:
    """Refuse to go on with a method whose ranks never hold the same weights again.

    It may finish a round past the budget. No round so far was longer than the samples between two
    evaluations, which are made where ranks agree.

    Args:
        samples: Samples of all ranks after a step that did not agree.
        due: Samples since which an evaluation has waited.
        evals: All evaluations so far.
        suite: Says how many samples a trial has.

    Raises:
        ContractError: That much is exceeded.
    """
    late = samples - suite.budget.samples
    if late < suite.evaluation.every_samples:
        return
    if late >= 2 * max((b.samples - a.samples for a, b in pairwise(evals)), default=0):
        raise ContractError(
            f"no step has reported agreed=True from {due} samples, when an evaluation was due, to "
            f"{samples}, of a budget of {suite.budget.samples}: nothing can be evaluated")


def require_true(
    unequal: str, reported: int, samples: float, forwards: float, backwards: float
) -> None:
    """Refuse claims that what all ranks saw together disproves.

    Args:
        unequal: What of the evaluated model differs between ranks.
        reported: Samples of all ranks as reported.
        samples: Samples of all ranks as counted.
        forwards: Forward passes counted beyond those reported, on the worst rank.
        backwards: Backward passes likewise.

    Raises:
        ContractError: On all ranks.
    """
    if unequal:
        raise ContractError(
            f"after {reported} samples the ranks' {unequal} differ, though they claim to "
            "hold one model: average gradients or weights in step(), report agreed=False "
            "where ranks differ, align buffers in evaluation_model() (align_buffers)")
    for what, more in (("forward", forwards), ("backward", backwards)):
        if more > 0:
            raise ContractError(f"{more:.0f} {what} passes more were counted on a rank than "
                                f"its steps reported as StepReport.{what}s")
    if samples > reported:
        raise ContractError(
            f"steps reported {reported:,} samples of all ranks and {samples:,.0f} were "
            "counted: a sample counts at each forward pass, and when it is handed out")
