from __future__ import annotations

import base64
import hashlib
import html
import math
import re
import statistics
import subprocess
import sys
from functools import partial
from html.parser import HTMLParser

import msgspec
import pandas as pd
import pytest
import report_fixture as fixture

from bench_apts import reports
from bench_apts.core import store, units
from bench_apts.core.currencies import format_cost
from bench_apts.stats.expected_cost import ert, miss_limit, restart_quantile
from bench_apts.stats.intervals import ert_interval
from bench_apts.stats.trial_costs import outcome, select_fastest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = fixture.populate(tmp_path_factory.mktemp("results") / "study")
    assert reports.build(folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(page):
    shown = page.split("</style>")[1].partition("<script>")[0]
    return html.unescape(re.sub(r"<[^>]+>", " ", shown))


@pytest.fixture(scope="module")
def records(folder):
    return store.read_trials(folder)


def mine(records, label, ranks, stage):
    found = [r for r in records if (r.trial.label, r.trial.ranks, r.trial.stage)
             == (label, ranks, stage)]
    return sorted(found, key=lambda r: r.trial.repetition)


def table(folder, name):
    return pd.read_csv(folder / "tables" / f"{name}.csv")


def main_row(folder, label, ranks):
    rows = table(folder, "main")
    return rows[(rows["optimizer"] == label) & (rows["ranks"] == ranks)].iloc[0]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("label", ["apts", "sgd", "adam"])
def test_expected_cost_is_that_of_stats_on_the_raw_records(folder, text, records, label, ranks):
    drawn = [outcome(r) for r in mine(records, label, ranks,
                                      "report" if label == "apts" else "tune")]
    row = main_row(folder, label, ranks)
    for currency in ("samples", "core_seconds", "wire_bytes", "gradient_evaluations"):
        bills = [o.spent[currency] for o in drawn], [o.cost[currency] for o in drawn]
        found, interval = ert(*bills), ert_interval(*bills)
        if currency != "core_seconds":  # which on CPUs stand in the file alone
            assert format_cost(currency, found.cost) in text
        if currency in ("samples", "core_seconds"):
            # Times of tuning trials are at the pace of the seeds, which differs a little.
            near = pytest.approx if currency == "samples" or label == "apts" else partial(
                pytest.approx, rel=0.02)
            assert row[f"ert_{currency}"] == near(found.cost)
            assert row[f"ert_{currency}_low"] == near(interval.low)
            assert row[f"ert_{currency}_high"] == near(interval.high)
            quantile = "restart_cost_90" + ("_samples" if currency == "samples" else "")
            assert row[quantile] == near(restart_quantile(*bills))
    assert (row["hits"], row["trials"]) == (found.hits, found.trials)
    assert f"{found.hits} of {found.trials}" in text
    assert row["success_rate"] == found.hits / found.trials


@pytest.mark.parametrize("label", ["apts", "sgd", "adam"])
def test_final_training_is_that_of_the_seeds(folder, text, records, label):
    seeds = mine(records, label, 1, "report")
    row = main_row(folder, label, 1)
    times = statistics.median(outcome(r).cost["train_s"] for r in seeds)
    assert row["train_s_to_target"] == times
    assert units.format_seconds(times) in text
    tests = [r.end.test["accuracy"] for r in seeds]
    assert row["test_mean"] == statistics.fmean(tests)
    assert units.format_percent(statistics.fmean(tests), 2) in text
    assert row["peak_memory_bytes"] == 310_000_000


def test_bytes_per_step_are_those_of_the_all_reduce(folder, text):
    assert main_row(folder, "sgd", 2)["wire_bytes_per_step"] == 4 * fixture.PARAMETERS
    assert f"{units.format_size(4 * fixture.PARAMETERS)} a step" in text
    assert main_row(folder, "sgd", 1)["wire_bytes_per_step"] == 0


def test_the_frozen_trial_is_the_one_that_stats_selects(folder, records):
    rows = table(folder, "tuning")
    for label in ("sgd", "adam", fixture.NASTY):
        chosen = rows[(rows["optimizer"] == label) & (rows["ranks"] == 2) & rows["frozen"]]
        assert list(chosen["run_id"]) == [
            select_fastest(mine(records, label, 2, "tune")).header.run_id]


def test_misses_are_words_and_never_numbers(folder, page, text, records):
    tuned = mine(records, fixture.NASTY, 1, "tune")
    bounds = {currency: math.fsum(outcome(r).spent[currency] for r in tuned) / len(tuned)
              / miss_limit(len(tuned)) for currency in ("core_seconds", "samples")}
    assert f"more than {format_cost('samples', bounds['samples'])}" in text
    assert "0 of 3 reached it" in text
    row = main_row(folder, fixture.NASTY, 1)
    assert row["ert_core_seconds_more_than"] == pytest.approx(bounds["core_seconds"])
    assert row["ert_samples_more_than"] == pytest.approx(bounds["samples"])
    for column in ("ert_core_seconds", "train_s_to_target", "wire_bytes_to_target"):
        assert math.isnan(row[column])
    # Half of adam's seeds at N = 2 were cut off before the target: that median is no number.
    assert math.isnan(main_row(folder, "adam", 2)["train_s_to_target"])
    assert "1 of 2 reached it" in text
    assert "∞" not in page.split('id="s0-main"')[1].split("</section>")[0]
    assert not re.search(r"\b(nan|NaN|inf|None)\b", text)


def test_the_curves_file_holds_every_evaluation_of_every_seed(folder, records):
    rows = table(folder, "curves")
    seeds = [r for r in records if r.trial.stage == "report"]
    assert len(rows) == sum(len(r.evals) for r in seeds)
    one = rows[rows["run_id"] == seeds[0].header.run_id]
    assert list(one["validation"]) == [e.validation["accuracy"] for e in seeds[0].evals]


def test_operations_stand_beside_each_trial(folder, text, records):
    rows = table(folder, "trials").set_index("run_id")
    record = mine(records, "sgd", 2, "report")[0]
    samples = record.evals[-1].samples
    assert rows.loc[record.header.run_id, "flops"] == 3 * 2 * fixture.PARAMETERS * samples
    assert units.format_count(record.evals[-1].flops) in text


def test_the_ledger_adds_up(folder):
    rows = table(folder, "ledger")
    assert (rows["difference"].abs() < 1e-9).all()


def test_all_files_are_there_and_named_in_the_page(folder, page):
    for name in ("main", "expected-cost", "tuning", "communication", "ledger", "trials",
                 "curves", "modelled"):
        assert (folder / "tables" / f"{name}.csv").stat().st_size > 100
        assert f"tables/{name}.csv" in page
    drawn = re.findall(r"<figcaption[^>]*>.*?figures/([\w.-]+)\.svg</span></figcaption>", page)
    assert len(drawn) == len(set(drawn)) > 20
    assert {path.stem for path in (folder / "figures").glob("*.svg")} == set(drawn)
    for name in drawn:
        assert (folder / "figures" / f"{name}.svg").read_bytes().startswith(b"<?xml")
    for name in set(re.findall(r"tables/([\w.-]+)\.csv", page)):
        assert (folder / "tables" / f"{name}.csv").exists(), name


def test_strings_from_records_are_escaped(page, folder):
    assert page.count("<script") == 1
    assert html.escape(fixture.NASTY, quote=False).split("(")[0] in page
    assert "<b>boom" not in page
    assert "<b>digits" not in page
    assert "&lt;b&gt;boom" in page
    for path in (folder / "figures").glob("*.svg"):
        assert "<script" not in path.read_text(encoding="utf-8")


class _Loads(HTMLParser):
    """Collects what a browser would fetch, inline styles, and ids."""

    def __init__(self):
        super().__init__()
        self.fetched, self.styled, self.ids, self.targets = [], [], [], []

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key in ("src", "srcset", "data", "action", "poster") or (
                    key in ("href", "xlink:href") and not value.startswith("#")):
                self.fetched.append(value)
            if key == "style" or key.startswith("on"):
                self.styled.append((tag, key))
            if key == "id":
                self.ids.append(value)
            if key == "href" and value.startswith("#"):
                self.targets.append(value[1:])
            self.targets += re.findall(r"url\(#([^)]+)\)", value or "")
            if key in ("aria-labelledby", "aria-describedby"):
                self.targets += value.split()


def test_the_page_loads_nothing_and_its_policy_allows_nothing(page):
    parser = _Loads()
    parser.feed(page)
    assert parser.fetched == ["data:,"]
    assert parser.styled == []
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    assert "@import" not in style
    assert "url(" not in style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    permitted = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == (f"default-src 'none'; style-src 'sha256-{digest}'; "
                      f"script-src 'sha256-{permitted}'; img-src data:; base-uri 'none'; "
                      "form-action 'none'")
    assert page.count("<style") == 1
    # Without the script there must be no button that does nothing.
    assert "<button" not in page
    assert "http:" not in page
    assert "https:" not in page


def test_ids_are_unique_and_references_resolve(page):
    parser = _Loads()
    parser.feed(page)
    assert len(parser.ids) == len(set(parser.ids))
    assert set(parser.targets) <= set(parser.ids)


def test_figures_are_described_for_those_who_cannot_see_them(page):
    figures = re.findall(r"<svg[^>]*role=\"img\".*?</svg>", page, re.DOTALL)
    assert len(figures) == page.count("<figure")
    for figure in figures:
        assert re.search(r"<title [^>]*>[^<]+</title>", figure)
        assert re.search(r'aria-describedby="[\w-]+-caption"', figure)
        assert "<text" in figure


@pytest.mark.slow  # test_cli_commands builds a page again
def test_two_builds_are_the_same_to_the_byte(folder):
    def content():
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = content()
    reports.build(folder)
    assert content() == before


def test_findings_and_caveats_say_it_plainly(text):
    assert "No clear winner." in text
    assert "not told apart:" in text
    for words in ("CPU ranks instead of GPUs", "Target of digits not calibrated", "Few seeds",
                  "1 tuning trial of sgd at each N = 1, 2", "loss 812.5 is above 10 times",
                  "1 seed of adam at N = 2 had not ended", "missed the target"):
        assert words in text
    assert "N = 2 †" not in text
    assert "† more ranks than cores" not in text


def test_cells_carry_what_they_are_sorted_by(folder, page):
    main = page.split('id="s0-main"')[1].split("</table>")[0]
    # An entry that shows its number as it is does not give it a second time.
    keys = [re.search(r'data-v="([^"]*)"|>([^<]*)', cell) for cell in re.findall(
        r"<td[^>]*>[^<]*", main)]
    keys = [found[2] if found[1] is None else found[1] for found in keys]
    rows = table(folder, "main")
    columns = len(re.findall("<th scope=\"col\"", main)) - 1
    assert len(keys) == columns * len(rows)
    costs = keys[1::columns]
    for key, cost in zip(costs, rows["ert_core_seconds"], strict=True):
        assert key == "" if math.isnan(cost) else float(key) == pytest.approx(cost, rel=1e-4)


def test_every_figure_has_its_numbers_and_what_it_rests_on(page):
    figures = page.count("<figure")
    # What most figures of a part rest on is said once, above them.
    assert 0 < len(re.findall('class="(?:key )?basis"', page)) < figures
    assert page.count("<summary>Data") >= 10


def test_records_are_named_with_their_fingerprints(folder):
    rows = table(folder, "trials")
    for file, fingerprint in zip(rows["file"], rows["file_sha256"], strict=True):
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == fingerprint


def test_it_is_small(page):
    assert len(page.encode()) < 3_000_000


def test_more_ranks_than_cores_are_marked(tmp_path, undrawn):
    folder = fixture.populate(tmp_path / "study", fixture.study(ranks=(1, 4), trials=2, seeds=1))
    page = reports.build(folder).read_text(encoding="utf-8")
    assert "More ranks than cores" in page
    assert re.search(r">4 †</td>", page)
    assert not re.search(r">1 †</td>", page)
    assert "Not drawn: N with more ranks than cores, whose times measure the machine." in page
    assert "not shown" in page


def test_a_loss_target_several_suites_and_a_clear_loser(tmp_path, undrawn):
    target = msgspec.structs.replace(fixture.SUITE.target, metric="loss", direction="min",
                                     value=0.06)
    other = msgspec.structs.replace(fixture.SUITE, name="other", target=target)
    plan = fixture.study(ranks=(2,), trials=0, seeds=10, suites=(fixture.SUITE, other))
    folder = fixture.populate(tmp_path / "study", plan)
    text = re.sub(r"<[^>]+>", " ", reports.build(folder).read_text(encoding="utf-8"))
    assert f"validation loss of at most 0.06{units.THIN}" not in text
    assert "validation loss of at most 0.06" in text
    assert "apts loses here" in text
    assert set(table(folder, "main")["suite"]) == {"digits", "other"}


def test_a_study_in_which_nothing_hits(tmp_path, undrawn):
    hard = msgspec.structs.replace(
        fixture.SUITE, target=msgspec.structs.replace(fixture.SUITE.target, value=0.999))
    folder = fixture.populate(tmp_path / "study",
                              fixture.study(ranks=(2,), trials=1, seeds=1, suites=(hard,)))
    text = re.sub(r"<[^>]+>", " ", reports.build(folder).read_text(encoding="utf-8"))
    assert "No optimizer reached the target." in text
    assert "The lower level" in text


def test_importing_the_package_imports_neither_torch_nor_drawing():
    code = ("import sys, bench_apts.reports; "
            "print([n for n in ('torch', 'pandas', 'matplotlib') if n in sys.modules])")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                           check=True)
    assert found.stdout.strip() == "[]"
