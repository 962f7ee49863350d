"""What the page shows against ``bench_apts.stats`` on the raw records, table by table."""

import math
import statistics

import html_tree
import pytest
import report_fixture as fixture

from bench_apts.core import store, units
from bench_apts.core.currencies import format_cost
from bench_apts.reports.bills_by_trainings import payoff_sentence
from bench_apts.stats.amortisation import Trainings, break_even, tuned
from bench_apts.stats.expected_cost import ert, restart_quantile
from bench_apts.stats.intervals import ert_interval
from bench_apts.stats.pairwise_comparison import Bill, compare
from bench_apts.stats.trial_costs import outcome
from bench_apts.stats.world_sizes import MeasuredTraining, efficiency

LABELS = ("sgd", *fixture.STARTS)
CELLS = [(label, ranks) for ranks in fixture.RANKS for label in LABELS]


@pytest.fixture(scope="module")
def page(written):
    return html_tree.parse((written / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def records(searched):
    found = store.read_trials(searched)
    return {(label, ranks, stage): sorted(
        (r for r in found if (r.trial.label, r.trial.ranks, r.trial.stage)
         == (label, ranks, stage)), key=lambda r: r.trial.repetition)
        for label, ranks in CELLS for stage in ("tune", "report")}


def tables(page, name):
    """All tables of a file: lists of rows, each a list of (text, small text) of its entries."""
    found = []
    for block in page.iter("div"):
        file = block.find("p/span[@class='file']") if block.get("class") == "table" else None
        if file is not None and file.text == f"tables/{name}.csv":
            found.append([[entry(cell) for cell in row] for row in block.find(".//tbody")])
    assert found, name
    return found


def entry(cell):
    small = cell.find("small")
    who = cell.find("div/div")
    mark = cell.find("svg")  # of an optimizer, before its name
    shown = cell.text if mark is None else mark.tail
    if who is not None:
        shown = who.text
    return (shown or "").strip(), (small.text or "").strip() if small is not None else ""


def rows(page, name):
    """The rows of a table by optimizer and N, where it is in the second column."""
    (table,) = tables(page, name)
    return {(row[0][0], int(row[1][0].removesuffix(" †"))): row for row in table}


def drawn(records, label, ranks):
    """Bills of the trials behind an expected cost: draws, or seeds where nothing is tuned."""
    return [outcome(r) for r in records[label, ranks, "tune" if label == "sgd" else "report"]]


def bills(outcomes, currency="samples"):
    return [o.spent[currency] for o in outcomes], [o.cost[currency] for o in outcomes]


def shown(cost, currency="samples"):
    return format_cost(currency, cost)


def middle(records, label, ranks, currency):
    return statistics.median(outcome(r).cost[currency] for r in records[label, ranks, "report"])


@pytest.mark.parametrize(("label", "ranks"), CELLS)
def test_main_table(page, records, label, ranks):
    row, both = rows(page, "main")[label, ranks], drawn(records, label, ranks)
    spent, cost = bills(both)
    found, seeds = ert(spent, cost), records[label, ranks, "report"]
    if found.hits:
        interval = ert_interval(spent, cost)
        assert row[2] == (shown(found.cost), units.between(shown(interval.low),
                                                           shown(interval.high)))
        assert row[3][0] == shown(restart_quantile(spent, cost))
        assert row[4][0] == units.format_percent(found.hits / found.trials, 0)
    else:
        assert row[2] == (f"more than {shown(found.bound)}",
                          f"0 of {found.trials} reached it")
        assert row[3][0] == units.NONE
    for column, currency in ((5, "train_s"), (6, "wire_bytes"), (7, "gradient_evaluations")):
        value = middle(records, label, ranks, currency)
        if currency == "train_s" and ranks > 2:  # four ranks on two cores
            assert row[column] == (("not shown", "N > cores") if math.isfinite(value)
                                   else ("not reached", ""))
            continue
        assert row[column][0] == (shown(value, currency) if math.isfinite(value)
                                  else "not reached")
    tests = [r.end.test["accuracy"] for r in seeds]
    assert row[9][0] == units.format_percent(statistics.fmean(tests), 2)
    assert row[10][0] == f"{sum(outcome(r).hit for r in seeds)} of {len(seeds)}"


@pytest.mark.parametrize("ranks", fixture.RANKS)
def test_decision_box(page, records, ranks):
    (box,) = [card for card in page.iter("article")
              if (chip := card.find("p/span[@class='chip']")) is not None
              and chip.text == f"N = {ranks}"]
    answers = {html_tree.text(one.find("dt")): html_tree.text(one.find("dd"))
               for one in box.find("dl")}
    all_bills = {label: bills(drawn(records, label, ranks)) for label in LABELS}
    costs = {label: ert(*mine).cost for label, mine in all_bills.items()}
    best, second, *_ = sorted(LABELS, key=lambda label: costs[label])
    rival = compare(Bill(*all_bills[second]), Bill(*all_bills[best]),
                    paired="sgd" not in (best, second))  # seeds of equal numbers, or tuning trials
    results = (f"Lowest is {best}, {shown(costs[best])}; not told apart: {second} at "
            f"{units.times(rival.ratio)} that ({units.digits(rival.interval.low)} to "
            f"{units.digits(rival.interval.high)})")
    assert " ".join(results.split()) in answers["Training once"]
    headline = f"No clear winner. {best} has the lowest expected cost, {shown(costs[best])}, but "
    assert html_tree.text(box.find("h3")).startswith(" ".join(headline.split()))
    # All tuning trials and nine trainings with the frozen configuration.
    tens = {label: bill_of(records, label, ranks).at(10) for label in LABELS}
    best = min(tens, key=tens.get)
    assert f"{best}, {' '.join(shown(tens[best]).split())};" in answers["Training ten times"]


def bill_of(records, label, ranks):
    """Bills over the number of trainings, from the tuning trials and the seeds."""
    again = bills([outcome(r) for r in records[label, ranks, "report"]])
    if label != "sgd":
        return Trainings(*again)
    return tuned(*bills(drawn(records, label, ranks)), again)


@pytest.mark.parametrize(("label", "ranks"), CELLS)
def test_tables_of_the_tuning_cost(page, records, label, ranks):
    spent, cost = bills(drawn(records, label, ranks))
    found = ert(spent, cost)
    search = rows(page, "bill-search")[label, ranks]
    bill = rows(page, "bill-trainings")[label, ranks]
    assert search[2][0] == f"{found.hits} of {found.trials}"
    if not found.hits:
        assert search[3][0] == f"more than {shown(found.bound)}"
        return
    assert search[3][0] == shown(found.cost)
    expected = bill_of(records, label, ranks)
    for column, trainings in ((2, 1), (3, 10), (4, 100)):
        interval = expected.interval(trainings)
        if interval is None:
            assert bill[column] == (shown(found.total), "as spent")
            continue
        limits = units.between(shown(interval.low), shown(interval.high))
        assert bill[column] == ((shown(expected.at(trainings)), limits)
                                if expected.worth_a_number(trainings) else (limits, ""))
    spread = rows(page, "bill-spread")[label, ranks]
    assert spread[2][0] == shown(restart_quantile(spent, cost))


@pytest.mark.parametrize("ranks", fixture.RANKS)
def test_when_tuning_pays(page, records, ranks):
    (table,) = tables(page, "bill-break-even")
    results = {row[2][0]: row[3][0] for row in table if row[1][0] == str(ranks)}
    for label in fixture.STARTS:
        mine, theirs = bill_of(records, "sgd", ranks), bill_of(records, label, ranks)
        expected = payoff_sentence("sgd", break_even(mine, theirs))
        assert results[label].split() == expected.split()  # whatever kind of space


@pytest.mark.parametrize("label", LABELS)
def test_scaling_tables(page, records, label):
    runs = {n: MeasuredTraining(n, middle(records, label, n, "train_s"),
                        middle(records, label, n, "samples")) for n in fixture.RANKS}
    mine = {n: rows(page, "scaling")[label, n] for n in fixture.RANKS}
    (table,) = tables(page, "efficiency")
    (summary,) = [row for row in table if row[0][0] == label]
    for column, ranks in ((2, 2), (3, 4)):
        found = efficiency(runs[1], runs[ranks])
        if found is None:
            assert mine[ranks][3][0] == summary[column][0] == "no hit"
            continue
        total, hardware, statistical = map(
            units.digits, (found.total, found.hardware, found.statistical))
        if ranks > 2:  # four ranks on the two cores of the fixture's machine
            assert summary[column] == (units.NONE, f"statistical {statistical}")
            assert [text for text, _ in mine[ranks][5:9]] == [*[units.NONE] * 3, statistical]
            assert mine[ranks][3][0] == "not shown"
        else:
            assert summary[column] == (total, f"{hardware} × {statistical}")
            assert [text for text, _ in mine[ranks][6:9]] == [total, hardware, statistical]
            assert mine[ranks][3][0] == units.format_seconds(runs[ranks].seconds)
        assert mine[ranks][4][0] == units.format_count(runs[ranks].samples)


def test_sensitivity_tables(page, records):
    at = dict(zip(fixture.RANKS, tables(page, "sensitivity-lr"), strict=True))
    for ranks, table in at.items():
        expected = sorted(
            (r.trial.hyperparameters["lr"], outcome(r).cost["samples"])
            for r in records["sgd", ranks, "tune"])
        assert [(row[1][0], row[3][0]) for row in table] == [
            (units.digits(lr), shown(cost) if math.isfinite(cost) else units.NONE)
            for lr, cost in expected]


def test_shares_of_trials_that_hit(written, page, records):
    table = next(t for t in tables(page, "success-by-hyperparameter") if t[0][0][0] == "sgd")
    ends = sorted({(float(row[2][0]), float(row[3][0])) for row in table})
    for ranks in fixture.RANKS:
        here = [row for row in table if row[1][0] == str(ranks)]
        tune = records["sgd", ranks, "tune"]
        assert sum(int(row[5][0]) for row in here) == len(tune)
        assert sum(int(row[4][0]) for row in here) == sum(outcome(r).hit for r in tune)
        for (low, high), row in zip(ends, here, strict=True):
            inside = [r for r in tune if low <= r.trial.hyperparameters["lr"] < high]
            assert (int(row[4][0]), int(row[5][0])) == (
                sum(outcome(r).hit for r in inside), len(inside))
