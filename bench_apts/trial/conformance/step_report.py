"""What a step returned, checked before anything of it enters a record."""

from __future__ import annotations

import operator
from typing import Any

import torch

from bench_apts.core.errors import ContractError, encodable
from bench_apts.plugins.contract import StepReport

_MOST = 2**53
"""Largest count; JSON readers hold larger integers as inexact floats."""

_Tensor, _FLOAT = torch.Tensor, torch.float32

_MOST_NAMES = 256
_LONGEST_NAME = 100


class ReportCheck:
    """Checks the reports of one stepper, one after the other.

    Attributes:
        names: Names of diagnostics so far.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()

    def checked(self, report: object, handed: int) -> StepReport:
        """Return a step's report with plain integers as its counts.

        Args:
            report: What ``step`` returned.
            handed: Samples in the batch that the step was given.

        Raises:
            ContractError: It is no StepReport, a field has another type or a value that no
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

    def _check_diagnostics(self, diagnostics: object) -> None:
        if not isinstance(diagnostics, dict):
            raise ContractError(f"StepReport.diagnostics is {_kind(diagnostics)}; a dict was "
                                "expected")
        for name, value in diagnostics.items():
            if name not in self.names:
                self._add(name)
            if not isinstance(value, bool | float):
                _check_number("diagnostics", value, name)

    def _add(self, name: object) -> None:
        if not isinstance(name, str) or len(name) > _LONGEST_NAME or name != encodable(name):
            raise ContractError(f"a name in StepReport.diagnostics is {name!a:.120}; a text of at "
                                f"most {_LONGEST_NAME} characters was expected")
        self.names.add(name)
        if len(self.names) > _MOST_NAMES:
            raise ContractError(f"StepReport.diagnostics had more than {_MOST_NAMES} different "
                                "names; a record holds no more")


def usual(report: object, names: set[str]) -> bool:
    """Say whether a report is of the usual kind, in which ``checked`` would find no fault.

    It does so in few instructions, as each of them is fetched anew in each step.

    Args:
        report: What ``step`` returned.
        names: Names of diagnostics that have been checked.
    """
    if type(report) is not StepReport:
        return False
    samples, forwards, backwards = report.samples, report.forwards, report.backwards
    total: Any = report.total_samples
    loss: Any = report.loss
    diagnostics: Any = report.diagnostics
    if not (
        type(samples) is int and type(forwards) is int and type(backwards) is int
        and 0 <= samples <= _MOST and 0 <= forwards <= _MOST and 0 <= backwards <= _MOST
        and (samples if total is None else type(total) is int and 0 < total <= _MOST)
        and type(report.agreed) is bool
        and (type(loss) is float or (type(loss) is _Tensor and loss.dtype is _FLOAT
                                     and loss.ndim == 0 and not loss.requires_grad))
        and type(diagnostics) is dict
    ):
        return False
    if diagnostics:
        if not names.issuperset(diagnostics):
            return False
        for value in diagnostics.values():
            kind = type(value)
            if kind is not float and kind is not bool and (
                    kind is not int or not -_MOST <= value <= _MOST):
                return False
    return True


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
    if not 0 <= value <= _MOST:
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
