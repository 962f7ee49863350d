"""Curves: medians and bands against the raw records, hits and misses, thinning, findings."""

import re
import statistics
from unittest import mock

import matplotlib.figure
import msgspec
import numpy as np
import pytest
import report_fixture as fixture

from bench_apts.core import store, units
from bench_apts.core.files import write_json
from bench_apts.core.spec import Budget, Entry
from bench_apts.reports import curve_data as curves
from bench_apts.reports.sections import training_curves as section
from bench_apts.stats.trial_costs import hit_bracket, outcome


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fixture.populate(tmp_path_factory.mktemp("results") / "study",
                            fixture.study((1, 4), 2, 3))


@pytest.fixture(scope="module")
def part(folder):
    return fixture.build_section(section, folder)


@pytest.fixture(scope="module")
def seeds(folder):
    def found(label, ranks):
        return [r for r in store.read_trials(folder) if r.trial.stage == "report"
                and (r.trial.label, r.trial.ranks) == (label, ranks)]
    return found


def test_every_n_has_its_axes_and_one_rank_none_of_bytes(part):
    # Samples are shown first. Times of four ranks on two cores would measure the machine.
    assert list(fixture.figures(part)) == [
        "n1-accuracy-samples", "n4-accuracy-samples", "n1-accuracy-seconds",
        "n1-accuracy-gradients", "n4-accuracy-gradients", "n4-accuracy-bytes"]
    (block,) = part.blocks
    shown, others = block.chosen
    assert [figure.slug for figure in shown] == [
        "digits-n1-accuracy-samples", "digits-n4-accuracy-samples"]
    assert len(others) == 4
    # Of each N one table serves all axes.
    assert len(block.shared) == 2


def test_the_finding_counts_hits_and_names_the_first(folder, part, seeds):
    finals = [outcome(r) for ranks in (1, 4) for label in fixture.PACE
              for r in seeds(label, ranks)]
    assert part.finding.startswith(
        f"{sum(o.hit for o in finals)} of {len(finals)} final trainings reached the target")
    for ranks in (1, 4):
        cost, label = min((statistics.median(outcome(r).cost["samples"]
                                             for r in seeds(label, ranks)), label)
                          for label in fixture.PACE)
        mark = " †" if ranks == 4 else ""
        assert f"at N = {ranks}{mark} {label} ({units.format_count(cost)})" in part.finding


def test_the_table_holds_median_and_range_of_the_seeds(part, seeds):
    table = fixture.figures(part)["n4-accuracy-bytes"].data
    rows = [row for row in table.records() if row["optimizer"] == "sgd"]
    runs = [r.evals for r in seeds("sgd", 4)]
    assert (len(runs[0]), len(rows)) == (21, 11)
    for at, row in zip(range(0, 21, 2), rows, strict=True):
        values = [run[at].validation["accuracy"] for run in runs]
        assert row["accuracy_median"] == statistics.median(values)
        assert (row["accuracy_low"], row["accuracy_high"]) == (min(values), max(values))
        assert row["train_s"] == statistics.median(run[at].train_s for run in runs)
        assert row["backwards"] == statistics.median(run[at].backwards for run in runs)
        assert (row["samples"], row["seeds"]) == (runs[0][at].samples, 3)
    # One of adam's seeds was cut off after six evaluations: nobody's median goes beyond.
    assert len([row for row in table.records() if row["optimizer"] == "adam"]) == 6


def test_captions_name_the_first_and_figures_their_conditions(part, seeds):
    figure = fixture.figures(part)["n1-accuracy-gradients"]
    ranked = sorted((statistics.median(outcome(r).cost["gradient_evaluations"]
                                       for r in seeds(label, 1)), label)
                    for label in ("apts", "sgd", "adam"))
    (first, one), (second, other), _ = ranked
    assert figure.caption.startswith(
        f"First to the target (median seed): {one}, after {units.format_count(first)} gradient "
        f"evaluations; then {other}, after {units.format_count(second)}.")
    assert "Band: smallest to largest of the seeds." in figure.caption
    assert f"Beyond the axis: {fixture.NASTY}." in figure.caption
    assert figure.basis == (
        "n = 3 seeds of each optimizer's frozen configuration. Target: validation accuracy of at "
        "least 94\u202f%; cap: 28\u202fk samples or 2\u202fmin.")


def test_those_who_need_the_same_are_first_together(tmp_path):
    plan = msgspec.structs.replace(fixture.study((2,)), entries=(
        Entry("lion", "lion"), Entry("muon", "muon"), Entry("apts", "apts")))
    with mock.patch.dict(fixture.PACE, {label: (pace, 0.002, 1, 1) for label, pace in (
            ("lion", 1.5), ("muon", 1.5), ("apts", 0.9))}, clear=True):
        part = fixture.build_section(section, fixture.populate(tmp_path / "study", plan))
    caption = fixture.figures(part)["n2-accuracy-samples"].caption
    assert re.match(r"First to the target \(median seed\): lion and muon, equally after [\d,]+ "
                    r"samples; then apts, after ", caption)
    assert "at N = 2 lion and muon (" in part.finding


def horizontals(figure):
    """Return the heights of the lines that cross the whole axis, with their dashes' lengths."""
    lines = figure.draw().axes[0].lines
    return {line.get_ydata()[0] for line in lines if list(line.get_xdata()) == [0, 1]}


@pytest.mark.parametrize("floor", [0.004, None])
def test_the_best_that_any_model_can_expect_is_drawn(tmp_path, floor):
    target = msgspec.structs.replace(fixture.SUITE.target, metric="loss", direction="min",
                                     value=0.06)
    if floor:
        target = msgspec.structs.replace(target, floor=floor)
    suite = msgspec.structs.replace(fixture.SUITE, target=target)
    part = fixture.build_section(section, fixture.populate(
        tmp_path / "study", fixture.study((1,), 1, 1, suites=(suite,))))
    figure = fixture.figures(part)["n1-loss-samples"]
    assert horizontals(figure) == ({0.06, floor} if floor else {0.06})
    # Nothing that was measured comes near it, and the axis shows it all the same.
    low, high = figure.draw().axes[0].get_ylim()
    assert low < (floor or 0.06) < high
    assert ("Dotted: 0.00400, the best that any model can expect." in figure.caption) == bool(
        floor)


def test_figures_are_images_with_words_and_real_text(part):
    for figure in fixture.figures(part).values():
        assert re.match(r'<svg [^>]*role="img"', figure.inline)
        assert "<title" in figure.inline
        assert re.search(r"<text[^>]*>validation accuracy", figure.inline)
        assert figure.data is not None


def test_hits_are_ringed_and_misses_crossed(folder, seeds):
    context = fixture.contexts(folder)[0]
    run_ids = [r.header.run_id for label in fixture.PACE for r in seeds(label, 4)]
    data = context.curves[context.curves["run_id"].isin(run_ids)]
    found, step = curves.curve_bands(data, fixture.PACE, "validation", ["samples", "validation"])
    assert (step, [one.label for one in found]) == (1, list(fixture.PACE))
    for course in found:
        axes = matplotlib.figure.Figure().subplots()
        section.draw_ends(axes, course, "samples", context.looks[course.label], (0.9, 1.0))
        drawn = {line.get_marker(): line.get_xydata().tolist() for line in axes.lines}
        records = sorted(seeds(course.label, 4), key=lambda r: r.trial.repetition)
        hits = [r.evals[hit_bracket(r)[1]] for r in records if hit_bracket(r)]
        misses = [r.evals[-1] for r in records if not hit_bracket(r)]
        assert len(hits) + len(misses) == 3
        assert drawn.get(context.looks[course.label].marker, []) == [
            [e.samples, e.validation["accuracy"]] for e in hits]
        # Beyond the axis, at its end.
        assert drawn.get("x", []) == [
            [e.samples, min(max(e.validation["accuracy"], 0.9), 1.0)] for e in misses]
    assert "x" in drawn  # the last one never hits


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Curves of 242 evaluations of five seeds of sgd."""
    suite = msgspec.structs.replace(fixture.SUITE, budget=Budget(241 * 1_400, 120.0))
    folder = tmp_path_factory.mktemp("results") / "long"
    folder.mkdir()
    write_json(folder / "study.json", store.StudyFile(
        fixture.study((1,), 0, 5, (suite,)), [], "2026-01-02T03:00:00+00:00",
        fixture.ENVIRONMENT))
    for seed in range(5):
        spec = fixture.trial("sgd", 1, "report", seed, suite=suite)
        fixture.write(folder, spec, fixture.evals(
            spec, pace=0.2 + 0.1 * seed, step_s=0.01, backwards=1, every=1), "hit", test=0.95)
    return folder


def test_long_curves_are_thinned_by_the_rule_that_the_caption_tells(long):
    context = fixture.contexts(long)[0]
    found, step = curves.curve_bands(
        context.curves, ["sgd"], "validation", ["samples", "validation"]
    )
    assert step == 3
    (sgd,) = found
    for run in sgd.runs:
        whole = context.curves[context.curves["run_id"] == run["run_id"].iat[0]]
        hit = int(whole["evaluation"][whole["hit"]].iloc[0])
        assert set(run["evaluation"]) == {*range(0, 242, 3), hit, 241}
    every = np.array([context.curves[context.curves["run_id"] == run["run_id"].iat[0]]
                      ["validation"].to_numpy() for run in sgd.runs])
    assert np.array_equal(sgd.shared["validation"], every.T[[*range(0, 242, 3), 241]])


def test_captions_tell_of_thinning_and_of_quartiles(long):
    part = fixture.build_section(section, long)
    figure = fixture.figures(part)["n1-accuracy-samples"]
    assert figure.caption.endswith("Band: quartiles over seeds. Drawn: every 3rd evaluation, "
                                   "each first hit and each end.")
    rows = [row for row in figure.data.records() if row["optimizer"] == "sgd"]
    assert 10 <= len(rows) <= 13
    assert rows[-1]["samples"] == 241 * 1_400
    assert "thinned" in figure.data.caption


def test_of_many_seeds_some_are_drawn_singly_and_all_count(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    study = fixture.study((1,), 0, 13)
    write_json(folder / "study.json", store.StudyFile(
        study, [], "2026-01-02T03:00:00+00:00", fixture.ENVIRONMENT))
    for seed in range(13):
        spec = fixture.trial("sgd", 1, "report", seed)
        fixture.write(folder, spec, fixture.evals(spec, pace=1.3, step_s=0.01, backwards=1,
                                                  every=1), "hit", test=0.95)
    context = fixture.contexts(folder)[0]
    (sgd,), _ = curves.curve_bands(context.curves, ["sgd"], "validation", ["validation"])
    assert [run["seed"].iat[0] for run in sgd.runs] == list(range(5))
    assert sgd.shared["validation"].shape == (21, 13)
    part = fixture.build_section(section, folder)
    assert "Single: the first 5 seeds of each." in (
        fixture.figures(part)["n1-accuracy-samples"].caption)
    assert part.finding.startswith("13 of 13 final trainings reached the target")


def test_nothing_final_makes_no_section(tmp_path):
    plan = fixture.study((1,), 2, 0)
    assert fixture.build_section(section, fixture.populate(tmp_path / "study", plan)) is None
