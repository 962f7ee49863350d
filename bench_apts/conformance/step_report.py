"""What a step returned, checked before anything of it enters a record."""

from __future__ import annotations

import operator
from typing import Any

import torch

from bench_apts.contract import StepReport
from bench_apts.errors import ContractError, encodable

_MOST = 2**53
"""Largest count; JSON readers hold larger integers as inexact floats."""

_MOST_NAMES = 256
_LONGEST_NAME = 100


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
            if name not in self._names:
                self._add(name)
            if not isinstance(value, bool | float):
                _check_number("diagnostics", value, name)

    def _add(self, name: object) -> None:
        if not isinstance(name, str) or len(name) > _LONGEST_NAME or name != encodable(name):
            raise ContractError(f"a name in StepReport.diagnostics is {name!a:.120}; a text of at "
                                f"most {_LONGEST_NAME} characters was expected")
        self._names.add(name)
        if len(self._names) > _MOST_NAMES:
            raise ContractError(f"StepReport.diagnostics had more than {_MOST_NAMES} different "
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
