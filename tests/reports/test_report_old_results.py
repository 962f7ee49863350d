"""A results folder of November 2026 opens, with the numbers that its records hold.

Made by the version before costs were repriced and modules moved (39b5267), with

    bench-apts run --suite digits --gpus 1,2 --optimizers apts,adam,zero1 --trials 2 --seeds 2 \
        --set suite.budget.samples=6000
"""

import json
import tarfile
from pathlib import Path

import pytest

KEPT = Path(__file__).with_name("results_2026_11.tar.gz")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("old") / "digits"
    with tarfile.open(KEPT) as archive:
        archive.extractall(place, filter="data")
    return place


@pytest.fixture(scope="module")
def lines(folder):
    """The raw events of each trial: header, start, evaluations, end."""
    return [[json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            for path in sorted((folder / "trials").glob("*.jsonl"))]


def test_it_opens_and_shows_what_the_records_hold(cli, folder, lines):
    done = cli("report", folder)
    assert (done.code, done.err) == (0, "")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["trials"] == len(lines) == 22
    rows = {(row["optimizer"], row["ranks"]): row for row in report["tables"]["main"]}
    assert set(rows) == {(label, n) for label in ("apts", "adam", "zero1") for n in (1, 2)}
    for (label, ranks), row in rows.items():
        tests = [trial[-1]["test"]["accuracy"] for trial in lines
                 if trial[0]["trial"]["label"] == label and trial[0]["trial"]["ranks"] == ranks
                 and trial[0]["trial"]["stage"] == "report" and not trial[0]["trial"]["twin"]]
        assert row["test_mean"] == pytest.approx(sum(tests) / len(tests))
    # Tensors of a rank were not counted then, nor the CPU time of all ranks.
    assert rows["adam", 2]["memory_bytes"] is None


def test_other_commands_open_it(cli, folder):
    assert cli("check", folder).code == 0
    assert cli("cost", folder, "--no-replay").code == 0
    assert cli("compare", folder, "adam", "apts").code in (0, 1)
    assert cli("power", folder).code == 0
