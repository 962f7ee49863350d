"""The end of the budget against bytes and calls: numbers by hand, and what cannot be drawn."""

import msgspec
import pytest
import report_fixture as fixture

from bench_apts.core.spec import Provenance, Target
from bench_apts.reports.sections import budget_fronts as section

END = fixture.SECONDS_SUITE.budget.samples // 1_400


def trained(folder, label, *ends, sent=100):
    """Adds a seed for each accuracy at the end; all send so many bytes a second, by one call."""
    for number, end in enumerate(ends):
        folder.add(label, "report", [END], 2, like=0, values=[0.1] * END + [end], sent=sent,
                   first=number, test=end - 0.01)


def lost(folder, label, *numbers):
    """Adds seeds that diverge after a quarter of the budget."""
    for number in numbers:
        folder.add(label, "report", [5], 2, like=0, values=[0.1] * 6, sent=100, first=number,
                   status="diverged")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six optimizers: two on the front, one beaten, one far below, two that cannot be drawn."""
    made = fixture.Folder(tmp_path_factory.mktemp("budget") / "study", (
        "silent", "ddp", "apts", "behind", "untaught", "short", "uncounted"), (2,))
    trained(made, "silent", 0.90, 0.91, 0.89, sent=0)
    trained(made, "ddp", 0.97, 0.95, 0.96, sent=1_000)
    trained(made, "apts", 0.94, 0.93, 0.95)
    trained(made, "behind", 0.92, 0.92, sent=1_000)
    trained(made, "untaught", 0.2, 0.2, 0.2, sent=1_000)
    trained(made, "short", 0.97)
    lost(made, "short", 1, 2)
    trained(made, "uncounted", 0.99)
    for path in (made.path / "trials").iterdir():
        text = path.read_text()
        if '"label":"uncounted"' in text:
            path.write_text(text.replace('"c10d pre-hook"', '"none: no hooks"'))
    return made.path


@pytest.fixture(scope="module")
def part(folder):
    return fixture.build_section(section, folder)


def test_the_table_has_the_numbers_by_hand(part):
    rows = {row["optimizer"]: row for row in
            fixture.figures(part)["n2-budget-bytes"].data.records()}
    assert [*rows] == ["silent", "ddp", "apts", "behind", "untaught"]
    ddp = rows["ddp"]
    assert (ddp["validation_median"], ddp["validation_low"], ddp["validation_high"]) == (
        0.96, 0.95, 0.97)
    assert ddp["test_median"] == pytest.approx(0.95)
    assert ddp["wire_bytes_median"] == 1_000 * END
    assert (ddp["calls_median"], ddp["all_reduces"], ddp["ended"], ddp["seeds"]) == (
        END, END, 3, 3)
    fronts = {label: (row["on_bytes_front"], row["on_calls_front"])
              for label, row in rows.items()}
    # All make equally many calls, so that only the best of them is on that front.
    assert fronts == {"silent": (True, False), "ddp": (True, True), "apts": (True, False),
                      "behind": (False, False), "untaught": (False, False)}


def test_captions_name_the_front_and_all_that_is_not_in_the_picture(part):
    by_bytes = fixture.figures(part)["n2-budget-bytes"].caption
    assert by_bytes == (
        "Pareto-optimal: silent, apts and ddp. Open, worse than the axis shows: untaught "
        "(20.00\u202f%). Not drawn: short (1 of 3 got to the end) and uncounted (bytes not "
        "counted).")
    assert part.finding.startswith(
        "At N = 2, ddp ends with the highest median, 96.00\u202f%")
    assert part.finding.endswith(
        ". silent sends least: 0\u202fB per rank, in 20 collective calls.")


def test_zero_bytes_have_a_place_of_their_own_on_the_logarithmic_axis(part):
    figures = fixture.figures(part)
    axes = figures["n2-budget-bytes"].draw().axes[0]
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert axes.get_xscale() == "log"
    assert labels.count("0") == 1
    least = min(float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() == "o")
    assert axes.get_xlim()[0] < least < 100 * END / 2
    assert "0" not in [label.get_text() for label in
                       figures["n2-budget-calls"].draw().axes[0].get_xticklabels()]


def test_a_median_seed_that_is_lost_counts_as_the_worst(tmp_path):
    made = fixture.Folder(tmp_path / "study", ("adam",), (2,))
    trained(made, "adam", 0.9, 0.8)
    lost(made, "adam", 2)
    (point,) = section.budget_fronts(made.contexts()[0].groups[0]).points
    assert point.metric == (0.8, 0.8, 0.9)
    assert (point.ended, point.seeds) == (2, 3)


def test_of_a_loss_less_is_better(tmp_path):
    suite = msgspec.structs.replace(fixture.SECONDS_SUITE, target=Target(
        "loss", "min", 0.05, Provenance("none", 0, 0, "by hand")))
    made = fixture.Folder(tmp_path / "study", ("adam", "apts"), (2,), suites=(suite,))
    trained(made, "adam", 0.9, sent=100)  # whose loss is the rest to 1
    trained(made, "apts", 0.8, sent=100)
    part = fixture.build_section(section, made.path)
    assert fixture.figures(part)["n2-budget-bytes"].caption == "Pareto-optimal: adam."
    assert part.finding.startswith("At N = 2, adam ends with the lowest median, 0.1")


def test_one_rank_sends_nothing_and_makes_no_section(tmp_path):
    made = fixture.Folder(tmp_path / "study", ("adam",), (1,))
    made.add("adam", "report", [END])
    assert fixture.build_section(section, made.path) is None
