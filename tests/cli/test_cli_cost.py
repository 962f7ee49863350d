"""``bench-apts cost`` over a real study: what it prints and writes, and its errors."""

import subprocess
import sys

import pandas as pd
import pytest

WITHOUT_TORCH = """
import sys
from bench_apts.cli import main
sys.argv = ["bench-apts", "cost", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert not {"torch", "deepspeed"} & set(sys.modules)
"""


def test_the_command_prints_and_writes_the_bill(cli, finished):
    done = cli("cost", finished.folder)
    assert (done.code, done.err) == (0, "")
    for part in ("digits: Expected cost to the target", "Expected cost (samples)",
                 "digits: How the bill scatters", "digits: Bill of R trainings",
                 "digits: When tuning pays", "no tuning trial of sgd reached the target",
                 "digits: Totals over N = 1 and 2",
                 "digits: Tuning policies, replayed", "defaults of 3 optimizers",
                 "not replayed: sgd on digits at N = 1", "as 0 of 2 reached it", "few trials"):
        assert part in done.out
    assert not {"\x1b", "\u202f", "\u2011"} & set(done.out)
    tables = finished.folder / "tables"
    written = [line.removeprefix("table: ") for line in done.out.splitlines()
               if line.startswith("table: ")]
    assert written == [str(tables / f"bill-{name}.csv") for name in (
        "search", "spread", "trainings", "break-even", "world-sizes", "replay")]
    search = pd.read_csv(tables / "bill-search.csv")
    assert [*zip(search["optimizer"], search["ranks"], search["trials"], strict=True)] == [
        ("sgd", 1, 2), ("adam", 1, 2), ("apts", 1, 1),
        ("sgd", 2, 2), ("adam", 2, 2), ("apts", 2, 1)]
    pays = pd.read_csv(tables / "bill-break-even.csv")
    assert set(pays["against"]) == {"apts"}
    assert set(pays["optimizer"]) == {"sgd", "adam"}


def test_the_options_choose_what_is_counted(cli, finished):
    done = cli("cost", finished.folder, "--currency", "samples", "--level", "0.95",
               "--no-replay")
    assert done.code == 0
    assert "Expected cost (samples)" in done.out
    assert "replayed" not in done.out
    search = pd.read_csv(finished.folder / "tables" / "bill-search.csv")
    assert set(search["level"]) == {0.95}
    assert set(search["currency"]) == {"samples"}


@pytest.mark.parametrize(("arguments", "expected"), [
    (("nowhere",), "is not a results folder"),
    (("FOLDER", "--level", "0.5"), "--level 0.5: the target of digits has the levels 0.95, 0.99"),
    (("FOLDER", "--currency", "euros"), "--currency"),
    ((), "Missing argument"),
])
def test_mistakes_end_in_one_line(cli, finished, arguments, expected):
    done = cli("cost", *(finished.folder if a == "FOLDER" else a for a in arguments))
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert expected in done.err


def test_torch_is_not_imported(environment, finished):
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, finished.folder], env=environment,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Tuning policies, replayed" in done.stdout
