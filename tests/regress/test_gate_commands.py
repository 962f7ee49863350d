"""The gate from end to end: real trees, real trainings, planted regressions."""

import subprocess
import sys

import pytest
from clones import commit, git
from rich.console import Console

from bench_apts.core import environment as environments
from bench_apts.core import store
from bench_apts.launch.elastic import Launcher
from bench_apts.regress import gate_comparison, gate_trainings
from bench_apts.regress.gate_findings import GateResult
from bench_apts.regress.gate_trainings import CodeTree, GateRequest
from bench_apts.study.plan import Plan
from bench_apts.study.progress import StudyProgress
from bench_apts.study.scheduler import Scheduler

PLANTED = '''

import time

import torch

_step = TrustRegionStepper.step


def _planted(self, batch):
    begun = time.perf_counter()
    {before}
    report = _step(self, batch)
    end = begun + {factor} * (time.perf_counter() - begun)
    while time.perf_counter() < end:
        pass
    return report


TrustRegionStepper.step = _planted
'''


@pytest.fixture
def check(environment, short_path):
    """Runs ``bench-apts check`` in a folder, its temporary files where a test can see them."""

    def run(*arguments, cwd):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "bench_apts", "check", *map(str, arguments)],
            cwd=cwd, env=environment | {"TMPDIR": str(short_path)}, capture_output=True,
            text=True, check=False, timeout=3000)
        assert not list(short_path.glob("bench-apts-gate-*"))
        return done

    return run


@pytest.fixture
def uninstalled(monkeypatch):
    """Leaves trees uninstalled, for tests in which none of them trains."""
    monkeypatch.setattr(gate_trainings, "_installed",
                        lambda name, text, source, root, inside: CodeTree(name, text, root))


def plant(checkout, before="pass", factor=1.0):
    with (checkout / "optimizers" / "trust_region.py").open("a") as file:
        file.write(PLANTED.format(before=before, factor=factor))


@pytest.mark.parametrize(("arguments", "expected"), [
    ((), "check takes a results folder whose records to check, or --baseline"),
    (("results", "--baseline", "HEAD"), "leave one out"),
    (("results", "--markdown", "file.md"), "are for --baseline, which is missing"),
    (("--baseline", "HEAD", "--pairs", "5"), "'--pairs': Input should be greater"),
    (("--baseline", "HEAD", "--factor", "inf"), "--factor inf tolerates everything"),
    (("--baseline", "HEAD"), "not a git repository"),
], ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_mistakes_end_in_one_line(cli, monkeypatch, tmp_path, arguments, expected):
    monkeypatch.chdir(tmp_path)
    done = cli("check", *arguments)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert expected in done.err


def test_what_cannot_be_told_is_in_the_summary_too(cli, monkeypatch, checkout):
    monkeypatch.chdir(checkout)
    done = cli("check", "--baseline", "nowhere", "--markdown", "folder/summary.md")
    assert done.code == 2
    text = (checkout / "folder" / "summary.md").read_text()
    assert text.startswith("**cannot tell: git rev-parse")
    assert len(text.splitlines()) == 1


@pytest.mark.usefixtures("uninstalled")
def test_a_mistake_does_not_use_up_the_folder(cli, monkeypatch, checkout):
    monkeypatch.chdir(checkout)
    done = cli("check", "--baseline", "nowhere", "--out", "kept")
    assert "give --baseline a revision" in done.err
    assert not (checkout / "kept").exists()
    for _ in range(2):
        done = cli("check", "--baseline", "HEAD", "--optimizers", "nobody", "--out", "kept")
        assert "nobody" in done.err
    (checkout / "kept" / "something").touch()
    done = cli("check", "--baseline", "HEAD", "--out", "kept")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "kept is not empty; name a new folder" in done.err
    done = cli("check", "--baseline", "HEAD", "--out", "LICENSE")
    assert "LICENSE is not a folder" in done.err


def test_a_summary_that_cannot_be_written_is_told_before_anything_runs(cli, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for place, expected in (("file/summary.md", "cannot write file/summary.md: "),
                            ("/dev/null", "--markdown /dev/null is not a regular file"),
                            (".", "--markdown . is not a regular file")):
        done = cli("check", "--baseline", "HEAD", "--markdown", place)
        assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
        assert expected in done.err


def test_a_gate_that_is_killed_leaves_no_summary_of_another(cli, monkeypatch, tmp_path):
    (tmp_path / "summary.md").write_text("**no regression**")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("bench_apts.cli.check._gate", killed)
    assert cli("check", "--baseline", "HEAD", "--markdown", tmp_path / "summary.md").code == 130
    assert (tmp_path / "summary.md").read_text() == (
        "**cannot tell: the gate did not finish**\n")


@pytest.mark.usefixtures("uninstalled")
def test_the_gate_takes_lists_of_values_and_groups(cli, monkeypatch, checkout):
    asked = []

    def compare(base, head, request, *_, **__):
        asked.extend(request.optimizers)
        return GateResult(base.text, head.text, (), ())

    monkeypatch.chdir(checkout)
    monkeypatch.setattr(gate_comparison, "compare_interleaved", compare)
    done = cli("check", "--baseline", "HEAD", "--gpus", "1", "--optimizers",
               "sgd[lr=[0.1,0.2]],paper,-tr")
    assert done.err == ""
    assert asked == ["sgd[lr=0.1]", "sgd[lr=0.2]", "apts-paper", "napts"]


@pytest.mark.usefixtures("uninstalled")
def test_base_that_is_ahead_of_head_is_told(cli, monkeypatch, checkout):
    git(checkout, "switch", "--quiet", "--create", "topic")
    git(checkout, "switch", "--quiet", "main")
    commit(checkout, "of main")
    git(checkout, "switch", "--quiet", "topic")
    monkeypatch.chdir(checkout)
    monkeypatch.setattr(
        gate_comparison,
        "compare_interleaved",
        lambda base, head, *_, **__: GateResult(base.text, head.text, (), ()),
    )
    done = cli("check", "--baseline", "main")
    assert done.code == 0
    assert "head lacks 1 of base's commits" in done.out
    assert "compare with what git merge-base main HEAD says" in done.out
    assert "lacks" not in cli("check", "--baseline", "HEAD").out


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_planted_all_reduce_is_found(check, checkout, tmp_path):
    plant(checkout, "torch.distributed.all_reduce(torch.zeros(1))")
    done = check("--baseline", "HEAD", "--optimizers", "sgd,apts", "--gpus", "1,2", "--offline",
                 "--set", "suite.budget.samples=5600", "--out", tmp_path / "kept",
                 "--markdown", tmp_path / "summary.md", cwd=checkout)
    assert done.returncode == 1, done.stderr
    verdict = done.stdout.splitlines()[-1]
    assert verdict.startswith("regression: ")
    assert "apts on digits at N = 2 needs" in verdict
    assert "collectives per global batch instead of" in verdict
    assert "sgd" not in verdict
    text = (tmp_path / "summary.md").read_text()
    assert "bit-identical" in text
    runs = sorted(folder.name for folder in (tmp_path / "kept").iterdir())
    assert runs == ["01-1-base", "01-2-head", "01-3-head", "01-4-base"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_planted_slowdown_is_found(check, checkout):
    plant(checkout, factor=1.3)
    done = check("--baseline", "HEAD", "--optimizers", "apts", "--gpus", "1", "--offline",
                 "--set", "suite.budget.samples=112000", cwd=checkout)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "apts on digits at N = 1 takes 1." in done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stored_study_is_a_baseline(check, checkout, finished):
    """Its tuned configurations are trained again; equal code takes the same course."""
    done = check("--baseline", finished.folder, "--offline", cwd=checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("bit-identical") == 6
    assert "times are not judged, as the baseline was not run in turns with head" in done.stdout
    plant(checkout, "torch.distributed.all_reduce(torch.zeros(1))")
    done = check("--baseline", finished.folder, "--offline", cwd=checkout)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "apts on digits at N = 2 needs" in done.stdout.splitlines()[-1]
    done = check("--baseline", finished.folder, "--gpus", "1", cwd=checkout)
    assert done.returncode == 2
    assert "which says itself what is trained" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_equal_code_is_never_called_slower(make_study, digits, monkeypatch, tmp_path):
    """Twenty gates of equal code, with real trainings in one warm server to save their starts.

    One in a hundred cannot tell where equal runs scatter by a tenth, so one of twenty may.
    """
    codes = []
    with Launcher([], "cpu") as launcher:

        def train(tree, asked, out, *, seeds=1, base_seed=0):
            study = make_study(*asked.optimizers, ranks=asked.ranks, trials=0, seeds=seeds,
                               base_seed=base_seed,
                               overrides=("suite.budget.samples=28000",))
            plan = Plan(study, {"digits": digits})
            (out / "trials").mkdir(parents=True)
            scheduler = Scheduler(plan, out, environments.environment_card(), launcher,
                                  StudyProgress(Console(quiet=True)))
            for trial in plan.reporting([]):
                scheduler.run(trial)
            return store.read_trials(out)

        monkeypatch.setattr(gate_trainings, "train", train)
        trees = [CodeTree(name, name, tmp_path) for name in ("base", "head")]
        for number in range(20):
            found = gate_comparison.compare_interleaved(
                *trees, GateRequest(("digits",), (1, 2), ("sgd", "apts")), tmp_path / str(number),
                pairs=6, factor=1.1, base_seed=1000 * number, say=lambda text: None)
            print(number, found.code, [t for f in found.findings for t in f.timings])
            assert found.code != 1, (number, [f.slower for f in found.findings])
            codes.append(found.code)
    assert codes.count(0) >= 19, codes
