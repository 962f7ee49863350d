"""No report that is let through makes a record that cannot be read."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.contract import StepReport, World
from bench_apts.core.errors import ContractError
from bench_apts.core.records import Eval, Event
from bench_apts.trial.contract_checks import ReportCheck
from bench_apts.trial.step_totals import StepTotals

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(),
    st.floats().map(torch.tensor), st.integers(-2**63, 2**63 - 1).map(torch.tensor),
    st.lists(st.floats(), max_size=3).map(torch.tensor), st.integers(-99, 99).map(np.int64),
    st.floats().map(np.float32), st.just(torch.ones((), requires_grad=True)),
    st.just(torch.ones((), dtype=torch.complex64)))


def totals():
    world = World(0, 2, torch.device("cpu"), 8, 1000)
    return StepTotals(world, ReportCheck())


def recorded(sums):
    event = Eval(1, sums.samples, 0.0, 0.0, 0.0, 0.0, sums.forwards, sums.backwards, 1,
                 float(sums.loss), {}, {}, sums.diagnostics())
    return msgspec.json.decode(msgspec.json.encode(event), type=Event)


def added(reports):
    sums = totals()
    for report in reports:
        sums.add(report)
    sums.check()
    return sums


ANY = st.builds(StepReport, ODD, ODD, ODD, ODD, ODD, ODD, st.one_of(
    ODD, st.dictionaries(st.one_of(st.text(), st.integers()), ODD)))


@given(ANY)
def test_a_report_is_refused_or_can_be_recorded(report):
    try:
        sums = added([ReportCheck().checked(report, 8)])
    except ContractError:
        return
    read = recorded(sums)
    assert read.samples == sums.samples > 0
    assert read.diagnostics == sums.diagnostics()


SENSIBLE = st.builds(
    StepReport, st.floats() | st.floats(width=32).map(torch.tensor), st.integers(1, 99),
    st.integers(0, 9), st.integers(0, 9), st.none() | st.integers(1, 99), st.booleans(),
    st.dictionaries(st.sampled_from("abc"), st.floats() | st.booleans() | st.integers(0, 9)))


@given(st.lists(SENSIBLE, max_size=3), ANY, st.lists(SENSIBLE, max_size=3))
def test_sums_are_refused_or_can_be_recorded(before, odd, after):
    try:
        sums = added([*before, odd, *after])
    except ContractError:
        return
    read = recorded(sums)
    assert read.samples == sums.samples > 0
    assert (read.forwards, read.backwards) == (sums.forwards, sums.backwards)
    assert read.diagnostics == sums.diagnostics()


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


@given(st.lists(SENSIBLE, min_size=1, max_size=4))
def test_sums_of_sensible_reports_are_exact(reports):
    sums = totals()
    assert [sums.add(report) for report in reports] == [report.agreed for report in reports]
    sums.check()
    assert sums.step == sums.steps == len(reports)
    assert sums.samples == sum(
        2 * r.samples if r.total_samples is None else r.total_samples for r in reports)
    assert sums.forwards == sum(r.forwards for r in reports)
    assert sums.backwards == sum(r.backwards for r in reports)
    assert {type(n) for n in (sums.samples, sums.forwards, sums.backwards)} == {int}


@pytest.mark.parametrize(("field", "value", "message"), [
    ("loss", torch.ones(2), "shape"), ("loss", torch.ones((), requires_grad=True), "graph"),
    ("loss", None, "loss"), ("loss", torch.ones((), dtype=torch.complex64), "complex64"),
    ("samples", -8, "samples"), ("samples", 1.5, "samples"), ("samples", torch.tensor(8), "int"),
    ("backwards", 2**53 + 1, "backwards"), ("forwards", "2", "forwards"),
    ("total_samples", 0, "never end"), ("diagnostics", {"a": 10**400}, "diagnostics"),
    ("diagnostics", {1: 0.5}, "name"), ("diagnostics", [], "dict"),
    ("diagnostics", {"a": torch.ones(3)}, "shape")])
def test_a_wrong_report_is_refused_at_the_latest_when_training_pauses(field, value, message):
    sensible = StepReport(1.0, 8, 1, 1)
    wrong = replace(sensible, **{field: value})
    with pytest.raises(ContractError, match=message):
        added([sensible, wrong, wrong])


def test_no_report_at_all_is_refused():
    with pytest.raises(ContractError, match="None"):
        totals().add(None)


def test_numpy_integers_count_as_integers():
    sums = added([StepReport(1.0, np.int64(8), np.int64(1), np.int64(1))])
    assert (type(sums.samples), sums.samples, sums.backwards) == (int, 16, 1)


def test_names_are_counted_over_all_steps():
    check = ReportCheck()
    for number in range(256):
        check.checked(StepReport(0.0, 1, 1, 1, diagnostics={str(number): 1.0}), 1)
    with pytest.raises(ContractError, match="256"):
        check.checked(StepReport(0.0, 1, 1, 1, diagnostics={"one more": 1.0}), 1)
