"""Submitting a study: the script, its mistakes, and real jobs on this machine."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import submitit

from bench_apts.cli.slurm import _minutes
from bench_apts.core import store
from bench_apts.core.errors import UserError

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "slurm"
STUDY = ("--gpus", "1,2", "--optimizers", "adam-default,apts", "--trials", "0", "--seeds", "1",
         "--no-twins", "--offline", "--set", "suite.budget.samples=1280",
         "--set", "suite.evaluation.every_samples=640")


def test_the_script_is_printed_and_nothing_is_submitted(cli, tmp_path):
    done = cli("slurm", "--print", "--nodes", "2", "--gpus-per-node", "4", "--partition", "gpu",
               "--account", "me", "--time", "4:30:00", "--sbatch", "qos=long", "--sbatch",
               "exclusive", "--setup", "module load cuda", "--suite", "digits", "--gpus", "1,8",
               "--grace", "100")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    for line in ("#!/bin/bash", "#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=1",
                 "#SBATCH --gpus-per-node=4", "#SBATCH --partition=gpu", "#SBATCH --account=me",
                 "#SBATCH --time=270", "#SBATCH --qos=long", "#SBATCH --exclusive",
                 "#SBATCH --signal=USR2@160", "#SBATCH --job-name=bench-apts-digits",
                 "module load cuda"):
        assert line in lines
    (srun,) = [line for line in lines if line.startswith("srun ")]
    assert f"{tmp_path}/results/digits/slurm" in srun
    assert not (tmp_path / "results").exists()


def test_options_may_come_from_a_file(cli, tmp_path):
    (tmp_path / "study.toml").write_text('suite = ["mnist"]\noptimizers = "paper"\ngrace = 40\n')
    done = cli("slurm", "--print", "--config", "study.toml")
    assert done.code == 0, done.err
    assert "#SBATCH --job-name=bench-apts-mnist" in done.out
    assert "#SBATCH --signal=USR2@100" in done.out


@pytest.mark.parametrize(("arguments", "says"), [
    (("--config", "none.toml"), "cannot read study file none.toml"),
    (("--optimizers", "pape"), "unknown optimizer 'pape'; did you mean paper"),
    (("--suite", "digit"), "unknown suite 'digit'; did you mean digits"),
    (("--optimizers", "adm"), "unknown optimizer 'adm'"),
    (("--frobnicate",), "No such option: --frobnicate"),
    (("--trials", "x"), "Invalid value for '--trials'"),
    (("--rendezvous", "a:1"), "--rendezvous is not for `slurm`"),
    (("--node-rank", "0"), "--node-rank is not for `slurm`"),
    (("--time", "soon"), "--time soon: write minutes, H:M:S or D-H:M:S"),
    (("--sbatch", "=1"), "--sbatch =1: write an option of sbatch as KEY=VALUE"),
    (("--cluster", "local", "--nodes", "2"), "--cluster local is this machine alone"),
])
def test_mistakes_show_before_a_job_waits_in_a_queue(cli, arguments, says):
    done = cli("slurm", *arguments)
    assert done.code == 2
    assert says in done.err
    assert len(done.err.splitlines()) == 1


def test_without_slurm_it_says_so(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = cli("slurm", *STUDY)
    assert done.code == 2
    assert done.err.startswith("bench-apts: there is no sbatch here, so no SLURM to submit to; ")


@pytest.mark.parametrize(("text", "minutes"), [
    ("60", 60), ("90:30", 91), ("4:30:00", 270), ("0:00:01", 1), ("2-0", 2880), ("1-2:3", 1563),
    ("1-2:3:4", 1564)])
def test_time_limits_read_as_sbatch_reads_them(text, minutes):
    assert _minutes(text) == minutes


@pytest.mark.parametrize("text", ["", "0", "-5", "1:2:3:4", "a", "1h", "²", "0:00"])
def test_no_time_limits(text):
    with pytest.raises(UserError, match="--time"):
        _minutes(text)


@pytest.mark.slow
def test_a_local_job_runs_a_study_to_its_report(command, environment, tmp_path, processes):
    done = command("slurm", "--cluster", "local", *STUDY, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    results = tmp_path / "digits"
    report = results / "report.html"
    assert f"report: {report}, once the job is done" in done.stdout
    processes.wait_for(report.exists)
    job = int(done.stdout.split("job ")[1].split(":")[0])
    output = results / "slurm" / f"{job}_0_log.out"
    processes.wait_for(lambda: "Job completed successfully" in output.read_text())
    assert f"report: {report}" in output.read_text()
    assert {r.end.status for r in store.read_trials(results)} == {"miss"}
    result = submitit.LocalExecutor(results / "slurm")
    assert submitit.LocalJob(result.folder, str(job)).result() == 0


@pytest.fixture
def slurm(environment, tmp_path, processes):
    """Submits to a SLURM of two nodes, and leaves nothing of its job behind."""
    import fake_slurm

    fake_slurm.install(tmp_path / "bin")
    with_slurm = environment | {
        "PATH": f"{tmp_path / 'bin'}:{environment['PATH']}",
        "FAKE_SLURM": str(tmp_path / "scontrol.log")}

    def submit(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "bench_apts", "slurm", *map(str, arguments)], check=False,
            env=with_slurm, capture_output=True, text=True, timeout=200)

    yield submit
    for path in tmp_path.glob("**/batch.pid"):
        processes.end_session(int(path.read_text()))


@pytest.mark.slow
def test_a_job_of_two_nodes_runs_a_study_to_its_report(slurm, tmp_path, processes):
    done = slurm("--nodes", "2", *STUDY, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "`scontrol requeue 4711` or the same command go on from where it stood" in done.stdout
    results = tmp_path / "digits"
    assert "#SBATCH --nodes=2" in (results / "slurm" / "4711_submission.sh").read_text()
    processes.wait_for((results / "report.html").exists)
    records = store.read_trials(results)
    assert {r.end.status for r in records} == {"miss"}
    assert {r.trial.ranks: len(r.header.environment["nodes"]) for r in records} == {1: 1, 2: 2}
    assert all(r.header.environment["slurm"]["SLURM_JOB_ID"] == "4711" for r in records)
    other = (results / "slurm" / "4711_1_log.out").read_text()
    assert "node 1 of 2 runs its ranks of the trials that node 0" in other


@pytest.mark.slow
def test_a_job_whose_time_is_up_ends_in_order_and_is_queued_again(slurm, tmp_path, processes):
    done = slurm("--nodes", "2", *STUDY, "--gpus", "2", "--out", tmp_path,
                 "--set", "suite.budget.samples=2000000",
                 "--set", "suite.evaluation.every_samples=128000")
    assert done.returncode == 0, done.stderr
    results = tmp_path / "digits"
    processes.wait_for(lambda: any(r.evals for r in store.read_trials(results))
                       if (results / "trials").exists() else False, 150)
    batch = int((results / "slurm" / "batch.pid").read_text())
    for process in processes.session(batch):
        if "srun" in process.cmdline():
            os.kill(process.pid, signal.SIGUSR2)
    processes.wait_for(lambda: not processes.session(batch))
    (record,) = store.read_trials(results)
    assert record.end.status == "interrupted"
    assert (tmp_path / "scontrol.log").read_text() == "requeue 4711\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["study.sh", "torchrun.sh"])
def test_the_example_scripts_run_a_study(slurm, tmp_path, processes, environment, name):
    scripts = f"{Path(sys.executable).parent}:{tmp_path / 'bin'}:{environment['PATH']}"
    done = subprocess.run(
        ["sbatch", EXAMPLES / name, *STUDY, "--out", tmp_path], cwd=tmp_path, check=False,
        env=environment | {"PATH": scripts}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    log = tmp_path / "batch.log"
    processes.wait_for(lambda: not processes.session(int((tmp_path / "batch.pid").read_text())),
                       200)
    assert (tmp_path / "digits" / "report.html").exists(), log.read_text()
    records = store.read_trials(tmp_path / "digits")
    assert {r.trial.ranks: len(r.header.environment["nodes"]) for r in records} == {1: 1, 2: 2}
