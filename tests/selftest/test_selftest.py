"""``bench-apts selftest``: each check on the CPU, and what is said where it cannot run."""

import importlib.metadata
import json
import subprocess
import sys
import tomllib

import pytest

from bench_apts.plugins.selection import Selection
from bench_apts.selftest import checkout_layout, device_checks, harness_checks, run_checks

QUICK = [name for name, (place, _) in run_checks.CHECKS.items()
         if place.startswith("device_checks") and name not in ("compile", "meter")]


@pytest.mark.parametrize("name", QUICK)
def test_a_check_runs_on_the_cpu_and_finds_what_it_looks_for(name):
    text, numbers = getattr(device_checks, run_checks.CHECKS[name][0].partition(":")[2])("cpu")
    assert text
    assert json.dumps(numbers)


def test_without_a_gpu_it_says_so_and_exits_2(command, tmp_path):
    done = command("selftest", "--out", tmp_path / "found.json")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "no GPU" in done.stderr
    assert not (tmp_path / "found.json").exists()


def test_an_unknown_check_is_one_line(cli):
    done = cli("selftest", "--check", "mem")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "memory" in done.err


def test_findings_are_a_table_and_a_file(monkeypatch, tmp_path, capsys):
    def failing(device):
        device_checks.require(device == "gpu", f"this is a {device}")

    def late(device):
        raise device_checks.CheckSkipped("no time was left")

    def lacking(device):
        raise ModuleNotFoundError("no module", name="torchvision")

    monkeypatch.setattr(device_checks, "check_bf16", failing)
    monkeypatch.setattr(device_checks, "check_compile", lacking)
    monkeypatch.setattr(device_checks, "check_meter", late)
    monkeypatch.setattr(run_checks, "_row", lambda name, device, limit_s: {
        "name": name, "seconds": 0.0, **run_checks._one(name, device)})
    out = tmp_path / "folder" / "found.json"
    assert run_checks.run_all("cpu", out, ["memory", "bf16", "compile", "meter"]) == 1
    found = json.loads(out.read_text())
    assert [row["status"] for row in found["checks"]] == ["ok", "failed", "skipped", "skipped"]
    assert found["checks"][1]["text"] == "this is a cpu"
    assert "torchvision" in found["checks"][2]["text"]
    assert found["checks"][3]["text"] == "no time was left"
    assert "1 ok, 1 failed, 2 skipped" in capsys.readouterr().out


def test_a_check_that_dies_or_hangs_is_a_failure(monkeypatch):
    died = run_checks._read(subprocess.CompletedProcess([], -11, "", "Segmentation fault"))
    assert died["status"] == "failed"
    assert "Segmentation fault" in died["text"]
    monkeypatch.setattr(run_checks.subprocess, "run", _late)
    assert "took more than 1 s" in run_checks._row("memory", "cpu", 1)["text"]


def _late(command, timeout, **options):
    raise subprocess.TimeoutExpired(command, timeout)


def test_a_checkout_is_laid_out_as_it_would_be_installed(tmp_path):
    if not (checkout_layout.CHECKOUT / "pyproject.toml").exists():
        pytest.skip("not a checkout")
    declared = tomllib.loads((checkout_layout.CHECKOUT / "pyproject.toml").read_text())
    checkout_layout.lay_out(tmp_path / "there")
    (found,) = importlib.metadata.distributions(path=[str(tmp_path / "there")])
    offered = {}
    for entry in found.entry_points:
        offered.setdefault(entry.group, {})[entry.name] = entry.value
    assert offered == declared["project"]["entry-points"]
    assert found.name == declared["project"]["name"]
    modules = [value.partition(":")[0] for entries in offered.values()
               for value in entries.values()]
    code = ("import importlib.util, sys\n"
            "folder, *modules = sys.argv[1:]\n"
            "sys.path.insert(0, folder)\n"
            "for name in modules:\n"
            "    assert importlib.util.find_spec(name).origin.startswith(folder), name\n")
    # Without site: no other installation is seen.
    subprocess.run([sys.executable, "-S", "-c", code, tmp_path / "there", *modules], check=True)


def test_conformance_tries_what_can_run_here_and_says_what_cannot(monkeypatch):
    tried = []

    def train(device, names, *rest):
        tried.extend(names)
        return dict.fromkeys(names, ("", None))

    monkeypatch.setenv(run_checks.LIMIT, "60")
    monkeypatch.setattr(harness_checks.selection, "select", lambda text: Selection(
        ["napts", "sgd", "zeropp"], ["zero2 is left out"]))
    monkeypatch.setattr(harness_checks, "_trials", train)
    text, numbers = harness_checks.check_conformance("cpu")
    assert tried == ["sgd", "napts"]
    assert "2 of 2" in text
    assert [note.partition(" ")[0] for note in numbers["left_out"]] == ["zero2", "zeropp:"]


@pytest.mark.slow
def test_all_checks_run_on_the_cpu(command, tmp_path):
    done = command("selftest", "--device", "cpu", "--out", tmp_path / "found.json")
    rows = json.loads((tmp_path / "found.json").read_text())["checks"]
    found = {row["name"]: row for row in rows}
    assert set(found) == set(run_checks.CHECKS)
    assert done.returncode == 0, {name: row["text"] for name, row in found.items()}
