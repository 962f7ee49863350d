"""What a report says of studies on GPUs: memory, TF32, clocks that were held down, energy."""

import msgspec
import pandas as pd
import pytest
import report_fixture as fixture
from report_fixture import Folder

from bench_apts import reports
from bench_apts.core import store
from bench_apts.core.records import GpuReadings
from bench_apts.reports import search_costs
from bench_apts.reports.caveats import all_caveats
from bench_apts.reports.cost_tables import main_table
from bench_apts.reports.gather import gather


@pytest.fixture
def study(tmp_path):
    """Two optimizers on a GPU each; adam's was hot in one of two readings of its first seed."""
    folder = Folder(tmp_path / "study", device="cuda", trials=0)
    folder.add("adam", "report", (3, 3), like=0).add("apts", "report", (2, 2))
    for record in store.read_trials(folder.path):
        hot = record.trial.label == "adam" and record.trial.repetition == 0
        joules = 100.0 if record.trial.label == "adam" else 60.0
        record.start.baseline_memory_bytes = 64_000_000
        record.start.numerics = {"convolution_tf32": True}
        record.end.gpus = [GpuReadings(2, 300.0, 90.0 if hot else 60.0, 1_500.0, 0.5 * hot,
                                       ["heat (hardware)"] * hot, 70_000_000)]
        record.end.peak_memory_bytes = 68_000_000
        path = folder.path / "trials" / f"{record.trial.run_id}.jsonl"
        path.unlink()
        for event in (record.header, record.start, *(msgspec.structs.replace(
                each, energy_j=joules * each.train_s, peak_memory_bytes=68_000_000)
                for each in record.evals), record.end):
            store.append(path, event)
    return folder.path


def test_float32_that_is_rounded_and_hot_gpus_are_caveats(study):
    found = {caveat.title: caveat.text for caveat in all_caveats(gather(study))}
    assert "10 bits" in found["Convolutions in TF32"]
    assert "1 trial of 4" in found["GPUs with clocks held down"]
    assert "heat (hardware)" in found["GPUs with clocks held down"]
    assert "CPU ranks instead of GPUs" not in found


def test_memory_is_shown_beside_what_was_there_before_the_optimizer(study):
    table = main_table(gather(study).groups, "cuda", {1: False})
    cells = [value for row in table.rows for value in row if "peak_memory_bytes" in value.numbers]
    assert [value.numbers["peak_memory_bytes"] for value in cells] == [68_000_000] * 2
    assert all("before" in value.detail for value in cells)


def test_sensors_are_a_table_with_the_driver_s_count_of_memory(study, tmp_path):
    reports.build(study, ("csv",), out=tmp_path / "out")
    rows = pd.read_csv(tmp_path / "out" / "tables" / "gpus.csv").set_index("optimizer")
    assert rows.temperature_c.to_dict() == {"adam": 90, "apts": 60}
    assert rows.throttled.to_dict() == {"adam": 0.25, "apts": 0}
    for row in rows.itertuples():
        assert (row.power_w, row.clock_mhz, row.trials) == (300, 1_500, 2)
        assert (row.peak_memory_bytes, row.driver_memory_bytes) == (68_000_000, 70_000_000)


def test_joules_are_compared_like_any_currency(study):
    rows = {row["optimizer"]: row for row in search_costs.relative_costs_table(
        gather(study).groups, "cuda").records()}
    assert rows["adam"]["ratio_energy_j"] == pytest.approx(3 * 100 / (2 * 60))


def test_cpu_ranks_say_nothing_of_it(tmp_path):
    titles = {caveat.title for caveat in all_caveats(gather(fixture.populate(tmp_path / "study")))}
    assert not titles & {"Convolutions in TF32", "GPUs with clocks held down"}
