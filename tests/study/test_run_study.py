"""``bench-apts run`` from end to end: real processes, real data, real records."""

import re
import shutil
import signal

import pytest
import torch_names

from bench_apts.core import store
from bench_apts.core.records import train_bytes

SMALL = ("--set", "suite.budget.samples=2000", "--set", "suite.evaluation.every_samples=500")
ENDLESS = ("--set", "suite.budget.samples=100_000_000", "--set", "suite.budget.seconds=3000",
           "--set", "suite.evaluation.every_samples=20_000")


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / "trials").glob("*.jsonl")}


def chosen(records, **wanted):
    wanted = {"twin": False} | wanted
    return [r for r in records
            if all(getattr(r.trial, key) == value for key, value in wanted.items())]


def test_the_last_line_names_a_report_that_exists(finished):
    lines = finished.done.stdout.splitlines()
    assert lines[-1] == f"report: {finished.folder / 'report.html'}"
    assert (finished.folder / "report.html").read_text(encoding="utf-8").startswith("<!")
    assert "\x1b" not in finished.done.stdout
    assert finished.done.stderr == ""


def test_every_trial_is_shown_and_recorded(finished):
    assert len(finished.records) == 2 * 2 * 2 + 3 * 2 + 2
    shown = [line for line in finished.done.stdout.splitlines() if line.startswith("[")]
    assert [line.split("/")[0] for line in shown] == [f"[{i}" for i in range(1, 17)]
    assert shown[-1].startswith("[16/16]")
    assert all(r.finished and r.attempts == 1 for r in finished.records)
    assert {r.header.run_id for r in finished.records} == {
        r.trial.run_id for r in finished.records}
    assert any("no GPU is visible here" in line for line in finished.done.stdout.splitlines())


def test_study_and_environment_are_recorded(finished):
    written = store.read_study(finished.folder)
    assert [e.label for e in written.study.entries] == ["sgd", "adam", "apts"]
    assert written.study.ranks == (1, 2)
    assert "--optimizers" in written.command
    assert finished.records[0].header.environment == written.environment
    assert written.environment["versions"]["torch"]


def test_one_configuration_of_apts_is_recorded_whatever_the_ranks(finished):
    hashes = {r.header.configuration for r in chosen(finished.records, label="apts")}
    assert len(hashes) == 1
    assert all(re.fullmatch("[0-9a-f]{12}", r.header.configuration) for r in finished.records)
    assert len({r.header.configuration for r in finished.records}) == 5


def test_weights_and_order_are_the_same_for_all_optimizers_and_ranks(finished):
    seen = {}
    for record in finished.records:
        key = (record.trial.stage, record.trial.repetition)
        seen.setdefault(key, set()).add(
            (record.start.initial_weights_sha256, record.start.data_order_sha256))
        assert record.evals[0].validation["loss"] == pytest.approx(
            chosen(finished.records, stage=key[0], repetition=key[1])[0]
            .evals[0].validation["loss"], rel=1e-6)
    assert set(seen) == {("tune", 0), ("tune", 1), ("report", 0)}
    assert all(len(pairs) == 1 for pairs in seen.values())
    assert len({pair[0] for pairs in seen.values() for pair in pairs}) == 3
    assert len({pair[1] for pairs in seen.values() for pair in pairs}) == 3


def test_the_ledger_sums_to_the_wall_clock(finished):
    for record in finished.records:
        assert sum(record.end.ledger.values()) == pytest.approx(record.end.wall_s, rel=0.01)
        assert record.end.ledger["train_s"] > 0
        assert record.end.ledger["eval_s"] > 0
        assert record.end.ledger["warmup_s"] > 0
        last = record.evals[-1]
        assert last.train_s == pytest.approx(record.end.ledger["train_s"], rel=0.01, abs=1e-3)
        assert last.wall_s <= record.end.wall_s


def test_clocks_and_counters_never_run_backwards(finished):
    for record in finished.records:
        assert record.evals[0].samples == record.evals[0].train_s == 0
        for before, after in zip(record.evals, record.evals[1:], strict=False):
            for name in ("step", "samples", "epoch", "train_s", "wall_s", "forwards",
                         "backwards"):
                assert getattr(before, name) < getattr(after, name), name
            assert before.cpu_s <= after.cpu_s
            assert after.cpu_s > 0
            assert after.cpu_s <= after.all_ranks_cpu_s * 1.001
            assert after.all_ranks_cpu_s <= record.trial.ranks * after.cpu_s * 1.001
            assert 0 < after.peak_memory_bytes < 2**36
            # Weights and gradients at least, and nothing of Python or the data.
            assert 8 * record.start.parameters <= after.tensor_bytes
            assert after.tensor_bytes < 100 * record.start.parameters


def test_one_rank_communicates_nothing(finished):
    for record in chosen(finished.records, ranks=1):
        assert all(traffic.ideal_bytes == 0
                   for phase in record.end.comm.values() for traffic in phase.values())
        assert record.start.comm_meter == torch_names.METER


def test_data_parallel_training_sends_its_gradient_once_a_step(finished):
    records = [r for label in ("sgd", "adam")
               for r in chosen(finished.records, ranks=2, label=label)]
    assert len(records) == 6
    for record in records:
        assert record.start.parameters == 6570
        for event in record.evals:
            assert train_bytes(event.comm) == event.step * 4 * 6570
        assert set(record.end.comm["train"]) == {"all_reduce"}
        assert record.end.comm["train"] == record.evals[-1].comm["train"]
        assert record.end.comm["eval"]["all_reduce"].ideal_bytes > 0


def test_torchs_switches_are_recorded(finished):
    for record in finished.records:
        assert record.start.numerics["deterministic_algorithms"] is False
        assert record.start.numerics["matmul_precision"] == "highest"


def test_passes_are_counted(finished):
    for label in ("sgd", "adam"):
        for record in chosen(finished.records, label=label):
            last = record.evals[-1]
            assert last.step == last.forwards == last.backwards == 32
            assert last.samples == record.end.samples == 32 * 64
            assert [e.samples for e in record.evals] == [0, 512, 1024, 1536, 2048]
    for record in chosen(finished.records, label="apts"):
        assert record.end.samples >= 2000
        assert record.evals[-1].forwards >= record.evals[-1].step


def test_operations_are_those_of_the_network_times_the_samples(finished):
    weights, first = 64 * 64 + 64 * 32 + 32 * 10, 64 * 64
    for record in finished.records:
        assert record.start.forward_flops == 2 * weights
        assert record.start.backward_flops == 4 * weights - 2 * first
        for event in record.evals:
            backward = event.backwards / event.forwards if event.step else 0
            assert event.flops == pytest.approx(
                event.samples * (2 * weights + backward * (4 * weights - 2 * first)))
        assert record.evals[0].flops == 0 < record.evals[-1].flops


def test_the_number_of_ranks_does_not_change_the_mathematics(finished):
    for label in ("sgd", "adam"):
        for repetition in (0, 1):
            one, two = (chosen(finished.records, label=label, ranks=n, stage="tune",
                               repetition=repetition)[0] for n in (1, 2))
            assert one.trial.hyperparameters == two.trial.hyperparameters
            for before, after in zip(one.evals, two.evals, strict=True):
                assert before.validation["loss"] == pytest.approx(
                    after.validation["loss"], abs=1e-4)
                assert before.train_loss == pytest.approx(after.train_loss, abs=1e-4)


def test_seeds_of_tuning_are_not_used_for_reporting(finished):
    tune, report = ({seed for r in chosen(finished.records, stage=stage)
                     for seed in (r.trial.seeds.data, r.trial.seeds.init)}
                    for stage in ("tune", "report"))
    assert len(tune) == 4
    assert len(report) == 2
    assert not tune & report


def test_only_the_report_stage_reads_the_test_split(finished):
    for record in finished.records:
        if record.trial.stage == "tune":
            assert record.end.test is None
        else:
            assert 0 <= record.end.test["accuracy"] <= 1
            assert record.end.test["loss"] > 0


def test_the_best_tuning_trial_is_reported(finished):
    for label in ("sgd", "adam"):
        for ranks in (1, 2):
            tuned = chosen(finished.records, label=label, ranks=ranks, stage="tune")
            best = max(tuned, key=lambda r: max(e.validation["accuracy"] for e in r.evals))
            (report,) = chosen(finished.records, label=label, ranks=ranks, stage="report")
            assert report.trial.hyperparameters == best.trial.hyperparameters
    for record in chosen(finished.records, label="apts"):
        assert record.trial.tuning_free
        assert record.trial.stage == "report"


def test_a_twin_does_the_same_work_again(finished):
    twins = chosen(finished.records, twin=True)
    assert [(r.trial.label, r.trial.stage) for r in twins] == [("sgd", "report")] * 2
    for twin in twins:
        (first,) = chosen(finished.records, label="sgd", stage="report", ranks=twin.trial.ranks)
        assert first.header.run_id != twin.header.run_id
        assert first.trial.hyperparameters == twin.trial.hyperparameters
        assert first.end.final_weights_sha256 == twin.end.final_weights_sha256
        assert first.end.comm.get("train") == twin.end.comm.get("train")
        assert [e.validation for e in first.evals] == [e.validation for e in twin.evals]
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "times of equal trials: up to" in page
    assert "Noise unknown" not in page
    lines = (finished.folder / "tables" / "noise.csv").read_text().splitlines()
    assert len(lines) == 1 + 2


def test_the_same_command_again_runs_nothing_and_more_trials_only_the_new_ones(
        finished, command, tmp_path):
    folder = tmp_path / "digits"
    shutil.copytree(finished.folder, folder)
    arguments = (*finished.arguments, "--out", tmp_path)
    before = contents(folder)
    again = command(*arguments)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("kept from an earlier run") == 16
    assert again.stdout.splitlines()[-1] == f"report: {folder / 'report.html'}"
    assert contents(folder) == before

    more = command(*arguments, "--trials", "3", "--optimizers", "sgd", "--gpus", "1")
    assert more.returncode == 0, more.stderr
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    new = [r.trial for r in store.read_trials(folder)
           if f"{r.trial.run_id}.jsonl" not in before]
    assert [(t.stage, t.repetition) for t in new if t.stage == "tune"] == [("tune", 2)]
    # A new winner is reported afresh, with its twin; else the old report stands.
    assert len(new) in (1, 3)
    assert more.stdout.count("kept from an earlier run") == 5 - len(new)


def test_the_plan_is_printed_and_nothing_run(finished, cli, tmp_path):
    done = cli("run", "--gpus", "1,2", "--optimizers", "sgd,apts", "--trials", "2", "--seeds",
               "3", "--dry-run", "--out", tmp_path / "results", *SMALL)
    assert done.code == 0
    assert "digits sgd N=2: 2 tuning + 6 to 9 report trials of 2000 samples" in done.out  # twins
    assert "digits apts N=1: 0 tuning + 3 report trials" in done.out
    assert re.search(r"estimated cost: about [\d.]+ s, more with communication and start-up$",
                     done.out.splitlines()[-2])
    assert re.search(r"^design: 3 seeds in pairs tell two of 2 optimizers a factor of 1.2 apart "
                     r"in 0% of studies.*; 8 seeds would in 80%", done.out.splitlines()[-1])
    assert not (tmp_path / "results").exists()
    known = cli(*finished.arguments, "--dry-run")
    assert re.search(r"estimated cost: about [\d.]+ s$", known.out.splitlines()[-2])


def test_a_failing_optimizer_does_not_stop_the_others(command, plugin, tmp_path):
    path = plugin(on_step="if rank == 1 and self.steps == 8: raise ValueError('no luck')")
    arguments = ("run", "--gpus", "2", "--optimizers", f"{path},sgd", "--trials", "0",
                 "--seeds", "1", "--no-twins", "--offline", "--no-report", *SMALL, "--out",
                 tmp_path / "results")
    done = command(*arguments)
    assert done.returncode == 1, done.stderr
    assert re.search(r"^\[1/2\] .*: error, .*rank 1: ValueError: no luck", done.stdout,
                     re.MULTILINE)
    assert "note: 1 error among the trials" in done.stdout
    records = {r.trial.optimizer: r for r in store.read_trials(tmp_path / "results" / "digits")}
    failed = records["mine"].end
    assert failed.status == "error"
    assert re.fullmatch(r"rank 1: ValueError: no luck \(mine\.py:\d+\)", failed.reason)
    assert "mine on digits at N = 2 ran to an end: rank 1: ValueError" in done.stderr
    assert "raise ValueError('no luck')" in failed.traceback
    assert records["sgd"].end.status in ("hit", "miss")
    # Mended, it is another plug-in and runs; the finished trial is kept.
    path.write_text(path.read_text().replace("raise ValueError('no luck')", "pass"))
    again = command(*arguments)
    assert again.returncode == 0, again.stderr
    assert f"`bench-apts report {tmp_path / 'results' / 'digits'}`" in again.stdout
    assert not (tmp_path / "results" / "digits" / "report.html").exists()
    assert again.stdout.count("kept from an earlier run") == 1
    assert "among the trials" not in again.stdout
    (mended,) = [r for r in store.read_trials(tmp_path / "results" / "digits")
                 if r.trial.optimizer == "mine" and r.finished]
    assert mended.evals[-1].validation["loss"] < mended.evals[0].validation["loss"]
    assert train_bytes(mended.end.comm) == mended.evals[-1].step * 4 * mended.start.parameters


def test_a_killed_command_leaves_no_worker_and_goes_on_where_it_was(
        started, command, processes, tmp_path):
    arguments = ("run", "--gpus", "2", "--optimizers", "sgd", "--trials", "2", "--seeds",
                 "1", "--no-twins", "--offline", "--set", "suite.budget.samples=28_000", "--set",
                 "suite.evaluation.every_samples=1_400", "--no-report", "--out", tmp_path)
    folder = tmp_path / "digits"

    def in_the_middle():
        records = store.read_trials(folder) if folder.exists() else []
        ended = [r for r in records if r.end]
        running = [r for r in records if not r.end and r.evals]
        return ended and running

    process = started(*arguments)
    processes.wait_for(in_the_middle)
    assert len(processes.session(process.pid)) > 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    processes.wait_for(lambda: not processes.session(process.pid))

    ended = {r.header.run_id: (folder / "trials" / f"{r.header.run_id}.jsonl").read_bytes()
             for r in store.read_trials(folder) if r.end}
    assert 0 < len(ended) < 3
    again = command(*arguments)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("kept from an earlier run") == len(ended)
    records = store.read_trials(folder)
    assert len(records) == 3
    assert all(r.finished for r in records)
    assert {r.header.run_id for r in records if r.attempts == 2} <= {
        r.header.run_id for r in records} - set(ended)
    for run_id, content in ended.items():
        assert (folder / "trials" / f"{run_id}.jsonl").read_bytes() == content


@pytest.mark.parametrize(("number", "whole_group"), [
    (signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_signal_ends_the_command_in_order(started, processes, tmp_path, number, whole_group):
    import os

    process = started("run", "--gpus", "2", "--optimizers", "sgd", "--trials", "0", "--seeds",
                      "1", "--offline", *ENDLESS, "--out", tmp_path)
    folder = tmp_path / "digits"
    processes.wait_for(lambda: (folder / "trials").exists()
                       and any(len(r.evals) > 1 for r in store.read_trials(folder)))
    if whole_group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 128 + number
    assert "interrupted: finished trials are kept in" in out
    assert len([line for line in (out + err).splitlines() if "interrupted" in line]) == 1
    assert "Traceback" not in out + err
    processes.wait_for(lambda: not processes.session(process.pid))
    (record,) = store.read_trials(folder)
    assert record.end.status == "interrupted"
    assert record.end.samples == record.evals[-1].samples > 0
    assert not record.finished


def test_control_c_before_the_first_trial(started, processes, tmp_path):
    process = started("run", "--gpus", "1", "--optimizers", "sgd", "--offline", *ENDLESS,
                      "--out", tmp_path)
    processes.wait_for((tmp_path / "digits" / ".lock.db").exists)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 130, out + err
    assert "Traceback" not in out + err
    assert "interrupted" in out + err
    processes.wait_for(lambda: not processes.session(process.pid))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["apts", "apts-paper", "adam", "zero2", "zero3"])
def test_a_compiled_model_takes_the_same_course(command, tmp_path, name):
    arguments = ("run", "--gpus", "2", "--optimizers", name, "--trials", "0", "--seeds", "1",
                 "--no-twins", "--offline", *SMALL)
    records = []
    for setting in ("true", "false"):
        out = tmp_path / setting
        done = command(*arguments, "--out", out, "--set", f"suite.compile={setting}")
        assert done.returncode == 0, done.stderr
        (record,) = store.read_trials(out / "digits")
        assert record.finished, record.end.reason
        records.append(record)
    compiled, plain = records
    assert compiled.end.ledger["compile_s"] > compiled.end.ledger["warmup_s"]
    assert compiled.end.ledger["train_s"] < compiled.end.ledger["compile_s"]
    assert plain.end.ledger["compile_s"] == 0
    assert compiled.end.comm["train"] == plain.end.comm["train"]
    for one, other in zip(compiled.evals, plain.evals, strict=True):
        assert one.samples == other.samples
        assert one.validation["loss"] == pytest.approx(other.validation["loss"], abs=2e-3)
