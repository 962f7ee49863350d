"""What the measure favours: suites seen, targets met by construction, splits that are small."""

import msgspec
import pytest
import report_fixture as fixture

from bench_apts.core.spec import Provenance
from bench_apts.reports import data_origin
from bench_apts.reports.gather import gather

replace = msgspec.structs.replace


def said(folder):
    return dict(data_origin.measure_caveats(gather(folder)))


@pytest.fixture
def study(tmp_path):
    def write(*suites):
        return fixture.populate(tmp_path / "study", fixture.study((1,), 2, 1, suites))
    return write


def test_suites_that_the_default_of_apts_was_chosen_on_are_named(study):
    unseen = replace(fixture.SUITE, name="characters")
    text = said(study(fixture.SUITE, unseen))["What apts's default was chosen on"]
    assert "So it has seen digits," in text
    assert "It never saw characters." in text


def test_a_variant_is_a_suite_that_apts_never_saw(study):
    text = said(study(replace(fixture.SUITE, name="digits@tanh")))[
        "What apts's default was chosen on"]
    assert "has seen" not in text
    assert "It never saw digits@tanh." in text


def test_the_baseline_that_set_the_target_may_miss_it(study):
    measured = replace(fixture.SUITE.target, provenance=Provenance("adam", 20, 5, "its median"))
    found = said(study(replace(fixture.SUITE, target=measured)))
    text = found["How the target of digits was set"]
    assert text.startswith("It rests on adam, tuned by 20 trials, in 5 final trainings: its med")
    assert "some trainings of adam miss it by construction" in text
    assert "at least 93.1\u202f% and at least 89.3\u202f% as well" in text
    assert "How the target of digits was set" not in said(study(fixture.SUITE))  # by hand


def test_a_small_validation_split_has_its_standard_error(study):
    # sqrt(0.94 · 0.06 / 300) = 1.37 points.
    text = said(study(fixture.SUITE))["Few validation samples in digits"]
    assert "300 samples" in text
    assert "a standard error of 1.4 points" in text
    many = replace(fixture.SUITE, data=replace(fixture.SUITE.data, validation=10_000))
    assert "Few validation samples in digits" not in said(study(many))
