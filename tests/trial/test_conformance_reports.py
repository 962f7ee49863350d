"""No report that is let through makes a record that cannot be read."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.contract import StepReport
from bench_apts.core.errors import ContractError
from bench_apts.core.records import Eval, Event
from bench_apts.trial.contract_checks import ReportCheck, usual
from bench_apts.trial.evaluation import StepTotals

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(),
    st.floats().map(torch.tensor), st.integers(-2**63, 2**63 - 1).map(torch.tensor),
    st.lists(st.floats(), max_size=3).map(torch.tensor), st.integers(-99, 99).map(np.int64),
    st.floats().map(np.float32), st.just(torch.ones((), requires_grad=True)),
    st.just(torch.ones((), dtype=torch.complex64)))


@given(loss=ODD, samples=ODD, forwards=ODD, backwards=ODD, total=ODD, agreed=ODD,
       diagnostics=st.one_of(ODD, st.dictionaries(st.one_of(st.text(), st.integers()), ODD)))
def test_a_report_is_refused_or_can_be_recorded(
    loss, samples, forwards, backwards, total, agreed, diagnostics
):
    report = StepReport(loss, samples, forwards, backwards, total, agreed, diagnostics)
    known = {name for name in diagnostics if type(name) is str and name.isascii()
             and len(name) <= 100} if isinstance(diagnostics, dict) else set()
    passed_over = usual(report, known)
    try:
        checked = ReportCheck().checked(report, 8)
    except ContractError:
        assert not passed_over
        return
    pending = StepTotals()
    pending.add(checked)
    event = Eval(1, checked.samples, 0.0, 0.0, 0.0, 0.0, checked.forwards, checked.backwards, 1,
                 float(pending.loss), {}, {}, pending.diagnostics())
    read = msgspec.json.decode(msgspec.json.encode(event), type=Event)
    assert read.samples == checked.samples
    assert read.diagnostics == pending.diagnostics()


@given(st.integers(1, 2**53), st.integers(0, 2**53), st.integers(0, 2**53),
       st.floats(allow_nan=True), st.dictionaries(st.text(max_size=100), st.floats(), max_size=9))
def test_sensible_reports_pass_unchanged(samples, forwards, backwards, loss, diagnostics):
    try:
        for name in diagnostics:
            name.encode()
    except UnicodeEncodeError:
        return
    report = StepReport(loss, samples, forwards, backwards, diagnostics=diagnostics)
    assert ReportCheck().checked(report, 1) is report


@given(st.integers(1, 2**53 - 1), st.integers(0, 2**53 - 1), st.sampled_from([None, 1, 2**53]),
       st.one_of(st.floats(), st.floats(width=32).map(torch.tensor)), st.dictionaries(
           st.sampled_from("abc"), st.floats() | st.booleans() | st.integers(-2**53, 2**53)))
def test_usual_reports_are_known_at_sight_unless_a_name_is_new(
    samples, forwards, total, loss, diagnostics
):
    report = StepReport(loss, samples, forwards, 1, total, diagnostics=diagnostics)
    assert usual(report, {"a", "b", "c"})
    assert usual(report, set()) == (not diagnostics)
    for name, value in [("loss", torch.ones(2)), ("loss", torch.ones((), requires_grad=True)),
                        ("samples", True), ("samples", -1), ("backwards", 2**53 + 1),
                        ("agreed", 1), ("total_samples", 0), ("diagnostics", {"a": 10**400})]:
        assert not usual(replace(report, **{name: value}), {"a"})


def test_names_are_counted_over_all_steps():
    check = ReportCheck()
    for number in range(256):
        check.checked(StepReport(0.0, 1, 1, 1, diagnostics={str(number): 1.0}), 1)
    with pytest.raises(ContractError, match="256"):
        check.checked(StepReport(0.0, 1, 1, 1, diagnostics={"one more": 1.0}), 1)
