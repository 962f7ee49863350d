"""The regressions: a configuration that asv reads, and benchmarks that say what they must."""

import importlib
import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
import torch_names
from harness_ranks import run_ranks

from bench_apts.core.records import End, Eval, Header, Start, Traffic, TrialRecord
from bench_apts.plugins import registry

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "suites" / "regressions"
BENCHMARK = re.compile("(track|time)_")


@pytest.fixture(scope="module")
def config():
    pytest.importorskip("asv")
    from asv.config import Config

    return Config.load(str(ROOT / "asv.conf.json"))


@pytest.fixture(scope="module")
def modules():
    """All modules of the benchmarks, by name, imported as asv does."""
    sys.path.insert(0, str(FOLDER.parent))
    try:
        return {path.stem: importlib.import_module(f"{FOLDER.name}.{path.stem}")
                for path in FOLDER.glob("*.py") if path.stem != "__init__"}
    finally:
        sys.path.remove(str(FOLDER.parent))


@pytest.fixture(scope="module")
def benchmarks(modules):
    """All benchmarks by their full names."""
    found = {}
    for module, content in modules.items():
        for name, value in vars(content).items():
            inner = vars(value).items() if isinstance(value, type) else [("", value)]
            found |= {getattr(function, "benchmark_name",
                              f"{module}.{name}{part and '.'}{part}"): function
                      for part, function in inner if BENCHMARK.match(part or name)}
    return found


def test_asv_reads_the_configuration(config):
    assert config.project == "bench-apts"
    assert ROOT / config.benchmark_dir == FOLDER
    assert (FOLDER / "__init__.py").is_file()
    # asv imports the folder under its own name, which must not hide anything.
    assert PathFinder.find_spec(FOLDER.name) is None
    ignored = (ROOT / ".gitignore").read_text().split()
    for place in (config.env_dir, config.results_dir, config.html_dir):
        assert f"{Path(place).parts[0]}/" in ignored
    (build,) = config.build_command
    assert "--no-deps" in build
    assert "--no-build-isolation" in build
    assert config.matrix["req"]["setuptools"] == [""]


def test_environments_of_asvs_own_are_pinned(config):
    (torch,) = config.matrix["req"]["torch"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", torch)
    assert set(config.matrix["env_nobuild"]) == {
        "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
    assert all(values == ["1"] for values in config.matrix["env_nobuild"].values())


def test_every_benchmark_says_what_asv_needs(benchmarks):
    assert len(benchmarks) >= 17
    for name, benchmark in benchmarks.items():
        assert benchmark.version, name
        assert benchmark.timeout > 0, name
        if ".track_" in name:
            assert benchmark.unit, name
            # Lower is better in asv.
            assert not re.search("accuracy|speed|throughput|rate$", name)


def test_every_benchmark_has_one_threshold(config, benchmarks):
    for name in benchmarks:
        found = [value for pattern, value in config.regressions_thresholds.items()
                 if re.match(pattern, name)]
        exact = ".track_" in name and not name.startswith("memory.")
        assert len(found) == 1, name
        assert (found == [0.0]) == exact, name


def test_benchmarks_keep_the_names_that_hold_their_history(benchmarks):
    assert benchmarks.keys() == {
        "harness.Meter.time_10000_all_reduces", "harness.time_20_event_appends",
        "harness.time_start", "harness.track_modules_at_start",
        "harness.track_python_calls_per_step", "kernels.LSR1.time_subproblem",
        "kernels.LSR1.time_update_and_subproblem", "kernels.OuterIteration.time_outer_iteration",
        "memory.track_peak_memory", "per_step.track_backwards_per_step",
        "per_step.track_bytes_per_step", "per_step.track_collectives_per_step",
        "per_step.track_forwards_per_step", "report.time_html",
        "to_target.track_backwards_to_target", "to_target.track_bytes_to_target",
        "to_target.track_error_at_fixed_budget", "to_target.track_forwards_to_target",
        "to_target.track_samples_to_target"}


def test_one_study_serves_all_counts(modules):
    assert [name for name, module in modules.items() if hasattr(module, "setup_cache")] == [
        "backend_costs"]
    assert modules["backend_costs"].setup_cache.timeout >= 600


def test_backends_are_tracked_at_every_n(modules, benchmarks):
    costs = modules["backend_costs"]
    assert {registry.optimizer_origin(name) for name in costs.BACKENDS} == {"built in"}
    assert costs.RANKS == (1, 2, 4)
    assert set(costs.PINNED) <= set(costs.BACKENDS)
    for name, benchmark in benchmarks.items():
        if name.split(".")[0] in ("per_step", "to_target", "memory"):
            assert benchmark.params == [list(costs.BACKENDS), list(costs.RANKS)], name
            assert benchmark.param_names == ["backend", "N"], name


def evaluation(samples, accuracy, calls):
    comm = {"train": {"all_reduce": Traffic(calls, calls * 26280, calls * 26280.0)},
            "eval": {"all_reduce": Traffic(7, 7, 7.0)}}
    return Eval(samples // 64, samples, 1.0, 1.0, 1.0, 1.0, samples // 32, samples // 64, 0, 0.5,
                {"accuracy": accuracy}, comm if calls else {})


def record(make_trial, status="miss", meter="c10d pre-hook", curve=(0.1, 0.5, 0.86, 0.87, 0.9)):
    trial = make_trial("adam", ranks=2)
    start = Start(6570, None, "", 1197, 300, meter, "gloo")
    evals = [evaluation(2816 * place, accuracy, 44 * place)
             for place, accuracy in enumerate(curve)]
    end = End(status, "", 1.0, peak_memory_bytes=5_000_000, reason="boom")
    return TrialRecord(Header(trial.run_id, "", trial, {}), start, evals, end, "")


def test_counts_are_read_at_the_fixed_budget_and_at_the_hit(modules, make_trial):
    costs = modules["backend_costs"]
    assert costs.counts_of(record(make_trial)) == costs.Counts(
        per_step={"bytes": 26280.0, "collectives": 1.0, "forwards": 2.0, "backwards": 1.0},
        to_target={"samples": 5632, "forwards": 176, "backwards": 88, "bytes": 88 * 26280.0},
        error=pytest.approx(0.14), peak_bytes=5_000_000)


@pytest.mark.parametrize(("changed", "why"), [
    ({"status": "error"}, "error: boom"),
    ({"status": "diverged"}, "diverged: boom"),
    ({"meter": "none (old torch)"}, "not counted: none"),
    ({"curve": (0.1, 0.9)}, "no evaluation at 5600 samples"),
])
def test_a_trial_without_an_answer_has_no_counts(modules, make_trial, changed, why):
    assert why in modules["backend_costs"].counts_of(record(make_trial, **changed))


def test_what_has_no_number_raises(modules, make_trial):
    costs = modules["backend_costs"]
    missed = costs.counts_of(record(make_trial, curve=(0.1, 0.5, 0.86, 0.5)))
    results = {("adam", 2): missed, ("sgd", 2): "error: rank 1: boom"}
    assert costs.track_bytes_per_step(results, "adam", 2) == 26280.0
    with pytest.raises(RuntimeError, match="sgd, N = 2: error: rank 1: boom"):
        costs.track_bytes_per_step(results, "sgd", 2)
    assert missed.to_target is None
    with pytest.raises(RuntimeError, match="adam, N = 2: 90% of the target was missed"):
        costs.track_samples_to_target(results, "adam", 2)
    assert costs.track_error_at_fixed_budget(results, "adam", 2) == pytest.approx(0.14)


def test_a_backend_that_a_commit_does_not_know_is_left_out(modules, make_trial):
    """asv runs the benchmarks of the present on the commits of the past."""
    mark = pytest.importorskip("asv_runner.benchmarks.mark")
    costs = modules["backend_costs"]
    results = {("sgd", 2): costs.counts_of(record(make_trial)), ("adam", 2): "error: boom",
            ("new", 2): None}
    require_backend = costs.track_bytes_per_step.setup
    require_backend(results, "sgd", 2)
    require_backend(results, "adam", 2)  # which fails instead
    with pytest.raises(mark.SkipNotImplemented, match="this commit has no new"):
        require_backend(results, "new", 2)


@pytest.mark.slow
def test_the_study_runs_without_a_backend_that_the_commit_lacks(modules, monkeypatch, tmp_path):
    costs = modules["backend_costs"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(costs, "BACKENDS", ("sgd", "not-yet"))
    monkeypatch.setattr(costs, "RANKS", (1,))
    results = costs.setup_cache()
    assert results["not-yet", 1] is None
    assert results["sgd", 1].per_step["backwards"] == 1


def metered(connect):
    """What becomes of each meter's all-reduces; in a process of its own: hooks stay."""
    sys.path.insert(0, str(FOLDER.parent))
    meter = importlib.import_module(f"{FOLDER.name}.harness").Meter()
    for how in ("none", "pre-hook", "dispatcher"):
        meter.setup(how)
        meter.time_10000_all_reduces(how)
        meter.teardown(how)
    meter.setup("pre-hook")
    try:
        meter.teardown("pre-hook")
    except RuntimeError as error:
        return str(error)


@torch_names.hooked
def test_the_meter_of_the_benchmark_counts_or_fails():
    assert run_ranks(metered, 1) == ["meter pre-hook counted {}"]
