"""The regressions: a configuration that asv reads, tracks that it finds, numbers that it keeps."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench_apts import registry
from bench_apts.records import End, Eval, Header, Start, Traffic, TrialRecord

ROOT = Path(__file__).parents[1]
UNITS = {
    "track_bytes_per_step": "bytes",
    "track_collectives_per_step": "collectives",
    "track_forwards_per_step": "passes",
    "track_backwards_per_step": "passes",
}


@pytest.fixture(scope="module")
def config():
    pytest.importorskip("asv")
    from asv.config import Config

    return Config.load(str(ROOT / "asv.conf.json"))


@pytest.fixture(scope="module")
def per_step():
    path = ROOT / "suites" / "regressions" / "per_step.py"
    spec = importlib.util.spec_from_file_location("per_step_of_regressions", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_asv_reads_the_configuration(config):
    assert config.project == "bench-apts"
    folder = ROOT / config.benchmark_dir
    assert (folder / "__init__.py").is_file()
    # asv imports the folder under its own name, which must not hide anything.
    assert importlib.util.find_spec(folder.name) is None
    ignored = (ROOT / ".gitignore").read_text().split()
    for place in (config.env_dir, config.results_dir, config.html_dir):
        assert f"{Path(place).parts[0]}/" in ignored
    (build,) = config.build_command
    assert "--no-deps" in build
    assert "--no-build-isolation" in build
    assert any(name == "setuptools" for name in config.matrix["req"])


def test_every_track_says_what_asv_needs(per_step):
    tracks = {name: value for name, value in vars(per_step).items() if name.startswith("track_")}
    assert {name: track.unit for name, track in tracks.items()} == UNITS
    for track in tracks.values():
        assert track.version
        assert track.timeout > 0
        assert track.params == [list(per_step.BACKENDS)]
        assert track.param_names == ["backend"]
    assert per_step.setup_cache.timeout >= 600


def test_every_built_in_backend_is_tracked(per_step):
    built_in = [name for name in registry.optimizer_names()
                if registry.optimizer(name).origin == "built in"]
    assert sorted(per_step.BACKENDS) == built_in


def test_a_backend_without_an_answer_fails(per_step):
    told = {"adam": {"bytes": 4.0}, "sgd": "error: rank 1: boom"}
    assert per_step.tracked(told, "adam", "bytes") == 4.0
    with pytest.raises(RuntimeError, match="sgd: error: rank 1: boom"):
        per_step.track_bytes_per_step(told, "sgd")


def record(make_trial, status, meter="c10d pre-hook"):
    trial = make_trial("adam", ranks=2)
    start = Start(6570, None, "", 1197, 300, meter, "gloo")
    last = Eval(20, 1280, 1.0, 1.0, 1.0, 1.0, 40, 20, 0, 0.5, {}, {})
    comm = {"train": {"all_reduce": Traffic(20, 20 * 26280, 20 * 26280.0)},
            "eval": {"all_reduce": Traffic(7, 7, 7.0)}}
    end = End(status, "", 1.0, comm=comm, reason="boom")
    return TrialRecord(Header(trial.run_id, "", trial, {}), start, [last], end, "")


def test_counts_are_totals_of_training_over_steps(per_step, make_trial):
    assert per_step.per_step(record(make_trial, "miss")) == {
        "bytes": 26280.0, "collectives": 1.0, "forwards": 2.0, "backwards": 1.0}
    assert per_step.per_step(record(make_trial, "error")) == "error: boom"
    assert per_step.per_step(record(make_trial, "diverged")) == "diverged: boom"
    assert "not counted" in per_step.per_step(record(make_trial, "hit", "none (old torch)"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_asv_stores_exact_numbers(tmp_path, cache, per_step):
    pytest.importorskip("asv")
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("no git checkout")
    clone, home = tmp_path / "clone", tmp_path / "home"
    home.mkdir()
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-C", str(clone)]
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    # The clone holds what is committed; what is being tested may not be yet.
    shutil.copy(ROOT / "asv.conf.json", clone)
    shutil.copytree(ROOT / "suites" / "regressions", clone / "suites" / "regressions",
                    dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--no-verify", "-m", "test"],
                   check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True,
                            text=True).stdout.strip()

    def asv(*arguments):
        # asv keeps what it knows of the machine in the home folder.
        done = subprocess.run(
            [sys.executable, "-m", "asv", *arguments], cwd=clone, capture_output=True, text=True,
            check=False, env=os.environ | {"HOME": str(home), "BENCH_APTS_CACHE": str(cache)})
        assert done.returncode == 0, done.stdout + done.stderr

    asv("machine", "--yes")
    asv("check", "-E", "existing:same")
    asv("run", "-E", "existing:same", "--set-commit-hash", commit)
    (file,) = (clone / ".asv" / "results").glob(f"*/{commit[:8]}-*.json")
    results = json.loads(file.read_text())["results"]
    numbers = {name: dict(zip(per_step.BACKENDS, results[f"per_step.{name}"][0], strict=True))
               for name in UNITS}
    assert all(value is not None for track in numbers.values() for value in track.values())
    n = 6570
    padded = 4 * -(-n // 4) * 4
    exact = {
        "sgd": 4 * n, "adam": 4 * n, "tr": 4 * (n + 2), "apts-paper": 4 * (3 * n + 4),
        "napts": 4 * (3 * n + 4),
        # f = 1/2: all-reduces of n floats and of 4 bytes, an all-gather of the padded parameters;
        "zero1": 4 * n + 4 + padded / 2, "zero2": 4 * n + 4 + padded / 2,
        # reduce-scatter and all-gather of all parameters, an all-reduce of 8 bytes.
        "zero3": 4 * n + 8,
    }
    measured = numbers["track_bytes_per_step"]
    assert {name: measured[name] for name in exact} == exact
    assert numbers["track_backwards_per_step"] | {"apts-paper": 1, "napts": 1} == dict.fromkeys(
        per_step.BACKENDS, 1)
