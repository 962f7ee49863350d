"""Who is cheapest in which currency: ratios by hand, and the sentence where the order changes."""

import msgspec
import pytest
import report_fixture as fixture
from report_fixture import Folder

from bench_apts import reports
from bench_apts.core import store
from bench_apts.core.records import Traffic
from bench_apts.reports import search_costs
from bench_apts.reports.gather import gather
from bench_apts.reports.sections import decision_boxes

CHANGES = {"adam": (1, 3.0, 100), "apts": (2, 1.0, 10)}
"""Samples, CPU seconds and bytes of a step beside those of the fixture."""


@pytest.fixture
def doubled(tmp_path):
    """adam hits after 3 steps, apts after 2 of twice the samples but less CPU time and bytes."""
    folder = Folder(tmp_path / "study", labels=("adam", "apts"), ranks=(1, 2), trials=0)
    for ranks in (1, 2):
        folder.add("adam", "report", (3, 3), ranks, like=0).add("apts", "report", (2, 2), ranks)
    change(folder.path, CHANGES)
    return folder.path


def change(folder, changes):
    for record in store.read_trials(folder):
        samples, cpu, sent = changes[record.trial.label]
        (folder / "trials" / f"{record.trial.run_id}.jsonl").unlink()
        fixture.write(folder, record.trial, [msgspec.structs.replace(
            event, samples=samples * event.samples, flops=samples * event.flops,
            all_ranks_cpu_s=cpu and cpu * event.step,
            comm={"train": {"all_reduce": Traffic(
                event.step, sent * event.step, float(sent * event.step))}}
            if record.trial.ranks > 1 else {}) for event in record.evals], record.end.status)


def ratios(folder, ranks):
    rows = search_costs.relative_costs_table(gather(folder).groups, "cpu").records()
    return {row["optimizer"]: {key.removeprefix("ratio_"): value for key, value in row.items()
                               if key.startswith("ratio_")}
            for row in rows if row["ranks"] == ranks}


def headlines(folder):
    return [box.headline for box in fixture.build_section(decision_boxes, folder).blocks[0].boxes]


def test_ratios_are_to_the_cheapest_in_samples(doubled):
    found = ratios(doubled, 2)
    assert found["adam"] == dict.fromkeys(found["adam"], 1)
    # 2 steps of twice the samples against 3; 2 · 1 CPU seconds against 3 · 3; 20 bytes of 300.
    assert found["apts"] == pytest.approx({
        "samples": 4 / 3, "flops": 4 / 3, "wire_bytes": 20 / 300, "cpu_s": 2 / 9,
        "core_seconds": 2 / 3})
    alone = ratios(doubled, 1)["apts"]  # one rank sends nothing
    assert alone["wire_bytes"] is None
    assert alone["cpu_s"] == pytest.approx(2 / 9)


def test_the_first_line_says_where_the_order_changes(doubled):
    one, two = headlines(doubled)
    assert one.endswith("Which is cheapest depends on what is counted: adam in samples and FLOPs; "
                        "apts in CPU-seconds and core-seconds.")
    assert two.endswith("Which is cheapest depends on what is counted: adam in samples and FLOPs; "
                        "apts in bytes, CPU-seconds and core-seconds.")


def test_where_the_order_stays_nothing_is_said(doubled):
    change(doubled, {"adam": (4, 3.0, 100), "apts": (1, 1.0, 10)})
    assert not any("depends on what is counted" in line for line in headlines(doubled))


def test_times_of_more_ranks_than_cores_are_left_out(tmp_path):
    folder = Folder(tmp_path / "study", labels=("adam", "apts"), ranks=(4,), trials=0)
    folder.add("adam", "report", (3, 3), 4, like=0).add("apts", "report", (2, 2), 4)
    change(folder.path, {"adam": (1, None, 100), "apts": (2, None, 200)})
    (group,) = gather(folder.path).groups
    assert search_costs.compared_currencies(group, "cpu") == [
        "samples",
        "flops",
        "wire_bytes",
        "cpu_s",
    ]
    found = ratios(folder.path, 4)["apts"]
    assert "core_seconds" not in found
    assert found["cpu_s"] is None  # only the busiest of four ranks was kept
    assert "depends" not in headlines(folder.path)[0]


def test_the_page_has_the_table_beside_the_boxes(doubled, undrawn):
    page = reports.build(doubled).read_text(encoding="utf-8")
    assert "Expected cost over that of the cheapest, by what is counted" in page
    assert page.index("by what is counted") < page.index("Main table.")
    assert (doubled / "tables" / "currencies.csv").exists()
