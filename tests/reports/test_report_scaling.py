"""Scaling: efficiency and factors against the raw records, what crowded times must not show."""

import re
import statistics

import msgspec
import pytest
import report_fixture as fixture

from bench_apts.core import store, units
from bench_apts.reports.section_parts import Prose
from bench_apts.reports.sections import scaling_section as section
from bench_apts.stats.trial_costs import outcome


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of the N, 4 has more ranks than the 2 cores; nobody's NASTY hits, half of adam's at 4."""
    return fixture.populate(tmp_path_factory.mktemp("results") / "study",
                            fixture.study((1, 2, 4), 2, 2))


@pytest.fixture(scope="module")
def part(folder):
    return fixture.build_section(section, folder)


@pytest.fixture(scope="module")
def median(folder):
    records = store.read_trials(folder)

    def found(label, ranks, currency):
        return statistics.median(
            outcome(r).cost[currency] for r in records if r.trial.stage == "report"
            and (r.trial.label, r.trial.ranks) == (label, ranks))
    return found


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("label", ["apts", "sgd"])
def test_efficiency_is_hardware_times_statistical(part, median, label, ranks):
    row = fixture.columns(fixture.listings(part)["scaling"])[label, ranks]
    seconds = {n: median(label, n, "train_s") for n in (1, ranks)}
    samples = {n: median(label, n, "samples") for n in (1, ranks)}
    assert row["efficiency"] == pytest.approx(seconds[1] / (ranks * seconds[ranks]))
    assert row["statistical"] == samples[1] / samples[ranks]
    assert row["hardware"] == pytest.approx(
        samples[ranks] / seconds[ranks] / ranks / (samples[1] / seconds[1]))
    assert row["efficiency"] == pytest.approx(row["hardware"] * row["statistical"])
    assert row["efficiency_low"] <= row["efficiency_high"]
    assert (row["scaling"], row["base_ranks"], row["hits"], row["seeds"]) == ("strong", 1, 2, 2)
    assert (row["train_s_to_target"], row["samples_to_target"]) == (seconds[ranks], samples[ranks])


def test_the_spread_is_that_of_the_same_seeds(folder, part):
    pairs = {}
    for record in store.read_trials(folder):
        if (record.trial.stage, record.trial.label) == ("report", "sgd"):
            pairs[record.trial.ranks, record.trial.repetition] = outcome(record).cost["train_s"]
    found = [pairs[1, seed] / (2 * pairs[2, seed]) for seed in (0, 1)]
    row = fixture.columns(fixture.listings(part)["scaling"])["sgd", 2]
    assert row["efficiency_low"] == pytest.approx(min(found))
    assert row["efficiency_high"] == pytest.approx(max(found))


def test_both_factors_are_printed_for_each_n(part):
    table = fixture.listings(part)["efficiency"]
    row = next(row for row in table.rows if row[0].text == "sgd")
    long = fixture.columns(fixture.listings(part)["scaling"])
    numbers = long["sgd", 2]
    assert row[2].text == units.digits(numbers["efficiency"])
    assert row[2].detail == (f"{units.digits(numbers['hardware'])} × "
                             f"{units.digits(numbers['statistical'])}")
    # Times of four ranks on two cores stay in the file alone.
    crowded = long["sgd", 4]
    assert (row[3].text, row[3].detail) == (
        units.NONE, f"statistical {units.digits(crowded['statistical'])}")
    assert crowded["efficiency"] > 0
    assert crowded["train_s_to_target"] > 0


def test_misses_have_no_efficiency(part):
    rows = fixture.columns(fixture.listings(part)["scaling"])
    for key in ((fixture.NASTY, 1), (fixture.NASTY, 2), ("adam", 4)):
        row = rows[key]
        assert row["efficiency"] is row["hardware"] is row["train_s_to_target"] is None
    words = {row[0].text: [value.text for value in row[1:]]
             for row in fixture.listings(part)["efficiency"].rows}
    assert words[fixture.NASTY] == ["no hit"] * 3
    assert words["adam"][-1] == "no hit"
    caption = fixture.figures(part)["time-ranks"].caption
    assert f"{fixture.NASTY} at N = 1, 2)" in caption
    assert "adam at N = 4" in fixture.figures(part)["bytes-ranks"].caption


def test_crowded_times_make_no_hardware_factor_and_are_not_drawn(part):
    figures = fixture.figures(part)
    drawn = {which: {row["ranks"] for row in figures[f"{which}-ranks"].data.records()}
             for which in ("hardware", "statistical")}
    assert drawn == {"hardware": {1, 2}, "statistical": {1, 2, 4}}
    assert "Not drawn: N = 4, more ranks than cores." in figures["hardware-ranks"].caption
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", figures["time-ranks"].inline)
    assert {"1", "2"} <= set(texts)
    assert "4" not in texts
    assert "Not drawn: N with more ranks than cores" in figures["time-ranks"].caption
    assert {row["ranks"]: row["more_ranks_than_cores"] for row in
            fixture.listings(part)["scaling"].records()} == {1: False, 2: False, 4: True}


def test_the_finding_leaves_crowded_times_alone(part):
    rows = [row for key, row in fixture.columns(fixture.listings(part)["scaling"]).items()
            if key[1] == 2 and row["efficiency"]]
    best = max(rows, key=lambda row: row["efficiency"])
    assert part.finding == (
        f"Strong scaling: at N = 2 the highest efficiency against N = 1 is that of "
        f"{best['optimizer']}, {units.digits(best['efficiency'])} = "
        f"{units.digits(best['hardware'])} hardware × {units.digits(best['statistical'])} "
        "statistical; times at N = 4 measure this machine, which has fewer cores.")


def test_only_efficiencies_against_the_same_n_are_compared(tmp_path):
    """Against N0 = 2 an optimizer has less to lose than one against N0 = 1, and at N0 nothing."""
    folder = fixture.populate(tmp_path / "study", fixture.study((1, 2, 4), 2, 2))
    for record in store.read_trials(folder):
        if (record.trial.label, record.trial.ranks, record.trial.stage) == ("sgd", 1, "report"):
            (folder / "trials" / f"{record.trial.run_id}.jsonl").unlink()
            fixture.write(folder, record.trial, record.evals[:3], "miss")
    part = fixture.build_section(section, folder)
    captions = {slug: figure.caption for slug, figure in fixture.figures(part).items()}
    assert captions["hardware-ranks"].startswith("Largest at N = 2 against N0 = 1: ")
    assert captions["statistical-ranks"].startswith("Largest at N = 4 against N0 = 1: apts, ")
    assert "the highest efficiency against N = 1 is that of" in part.finding
    assert "that of sgd" not in part.finding


def test_costs_against_n_hold_the_medians_and_one_rank_sends_nothing(part, median):
    figures = fixture.figures(part)
    for slug, currency, sizes in (("time-ranks", "train_s", {1, 2}),
                                  ("bytes-ranks", "wire_bytes", {2, 4})):
        rows = fixture.columns(figures[slug].data)
        assert {ranks for _, ranks in rows} == sizes
        for ranks in sizes:
            assert rows["sgd", ranks][f"{currency}_median"] == median("sgd", ranks, currency)
        assert rows[fixture.NASTY, 2][f"{currency}_median"] is None


def test_modelled_times_are_one_figure_and_only_of_minibatches_that_were_run(part):
    figure = fixture.figures(part)["modelled"]
    assert figure.caption.startswith("Modelled, not measured: nobody ran this.")
    assert "whether optimizers differ is not tested" in figure.caption
    rows = figure.data.records()
    assert {row["fabric"] for row in rows} == {"nvlink4", "ib-ndr", "eth100g", "eth10g", "wan"}
    # A minibatch of 64 samples cannot be shared out among 512 ranks. Of 64 ranks and more apts
    # would take two samples each, 128 and more, a minibatch that was never run here and is more
    # than a tenth of 1,197 samples.
    assert {row["ranks"] for row in rows if row["optimizer"] == "sgd"} == {4, 8, 64}
    assert {row["ranks"] for row in rows if row["optimizer"] == "apts"} == {4, 8}
    slow, fast = ({(r["optimizer"], r["ranks"]): r["to_target_s"] for r in rows
                   if r["fabric"] == name} for name in ("wan", "nvlink4"))
    assert all(slow[key] > fast[key] for key in fast)
    modelled = fixture.listings(part)["modelled"]
    assert {r["samples_to_target"] for r in modelled.records()} == {"measured", "unknown"}
    said = [block.text for block in part.every_block if isinstance(block, Prose)]
    assert ("Time to the target is not modelled for apts on digits at N = 64 and more, strong "
            "scaling: a minibatch of 128 was never run.") in said


def test_weak_scaling_is_labelled(tmp_path):
    suite = msgspec.structs.replace(fixture.SUITE, scaling="weak")
    plan = fixture.study((1, 2), 0, 1, (suite,))
    part = fixture.build_section(section, fixture.populate(tmp_path / "study", plan))
    assert part.finding.startswith("Weak scaling: at N = 2")
    for name, figure in fixture.figures(part).items():
        assert "weak scaling" in figure.title, name
    assert {row["scaling"] for row in fixture.listings(part)["scaling"].records()} == {"weak"}
    assert "each rank's share" in fixture.listings(part)["scaling"].caption


def test_a_single_n_is_not_called_scaling(tmp_path):
    plan = fixture.study((2,), 0, 1)
    part = fixture.build_section(section, fixture.populate(tmp_path / "study", plan))
    assert "a single N was run" in part.finding
    assert fixture.listings(part) == {}
    (said, *_) = [block.text for block in part.every_block if isinstance(block, Prose)]
    assert "is not modelled: needs N = 1" in said
    alone = fixture.populate(tmp_path / "alone", fixture.study((1,), 0, 1))
    assert fixture.build_section(section, alone) is None
