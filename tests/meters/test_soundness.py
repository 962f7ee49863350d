"""Records that lie are found, each by the line that names its file; sound ones pass."""

import shutil
import subprocess
import sys

import msgspec
import pytest

from bench_apts.core import store
from bench_apts.core.errors import UserError
from bench_apts.core.files import write_json
from bench_apts.core.records import (
    Audited,
    AuditPart,
    DistinctCall,
    End,
    Eval,
    Header,
    Start,
    Traffic,
)
from bench_apts.core.spec import digest
from bench_apts.meters import plausibility, soundness
from bench_apts.study.plan import Plan

LINUX = {"os": "Debian GNU/Linux 12, Linux 6.1.0-13-amd64"}


def events(trial):
    """A whole trial: three evaluations, and a ledger that sums to the wall clock."""
    several = trial.ranks > 1
    share = (trial.ranks - 1) / trial.ranks
    curve = [Eval(
        step=10 * k, samples=640 * k, epoch=k / 2, train_s=0.5 * k, wall_s=1 + 0.6 * k,
        cpu_s=0.4 * k, forwards=10 * k, backwards=10 * k, peak_memory_bytes=2**20,
        train_loss=2.5, validation={"accuracy": 0.5, "loss": 1.5}, flops=640 * k * 3000.0,
        comm={"train": {"all_reduce": Traffic(
            10 * k, 4000 * k, 8000 * k * share, 6000 * k * several)}})
        for k in range(3)]
    ledger = {"setup_s": 0.7, "warmup_s": 0.3, "train_s": 1.0, "eval_s": 0.25, "log_s": 0.05}
    audit = Audited(parts={"setup": AuditPart(0, 8 * several, 8 * several), "eval": AuditPart(),
                           "train": AuditPart(12_000 * several, 12_000 * several)})
    calls = [DistinctCall("train", "all_reduce", trial.ranks, "ALLREDUCE", "float32", None, 400,
                          800 * share, 600 * several, 20)]
    report = trial.stage == "report"
    return [Header(trial.run_id, store.now(), trial, LINUX, trial.configuration),
            Start(1000, f"w{trial.seeds.init}", f"o{trial.seeds.data}", 1197, 300, "hook", "gloo",
                  1000.0, 2000.0),
            *curve,
            End("miss", store.now(), 2.3, ledger, 0.8, 2**20, 1280, curve[-1].comm,
                {"accuracy": 0.5} if report else None, audit=audit, calls=calls)]


@pytest.fixture
def folder(tmp_path, make_study, digits):
    study = make_study("sgd[lr=0.1]", "adam[lr=0.01]", ranks=(1, 2), trials=0, seeds=2)
    tuned = make_study("sgd", ranks=(1,), trials=2)
    (tmp_path / "trials").mkdir()
    write_json(tmp_path / "study.json", store.StudyFile(study, [], store.now(), {}))
    for trial in (*Plan(study, {"digits": digits}).reporting([]),
                  *Plan(tuned, {"digits": digits}).tuning()):
        for event in events(trial):
            store.append(tmp_path / "trials" / f"{trial.run_id}.jsonl", event)
    return tmp_path


@pytest.fixture
def change(folder):
    """Rewrites events of the first trial that ``choose`` wants; returns its path."""

    def run(edit, choose=lambda trial: trial.stage == "report"):
        record = next(r for r in store.read_trials(folder) if choose(r.trial))
        path = folder / "trials" / f"{record.header.run_id}.jsonl"
        lines = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
        edit(lines)
        path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        return path

    return run


def only(folder, path):
    """Checks that all problems are of one file; returns them."""
    _, found = soundness.check(folder)
    assert found
    assert all(line.startswith(f"{path}: ") for line in found), found
    return [line.removeprefix(f"{path}: ") for line in found]


def test_sound_records_pass(folder):
    assert soundness.check(folder) == (10, [])


def setter(index, *keys):
    *inner, last, value = keys

    def edit(lines):
        place = lines[index]
        for key in inner:
            place = place[key]
        place[last] = value

    return edit


@pytest.mark.parametrize(("edit", "words"), [
    (setter(-1, "ledger", "eval_s", 0.2), "miss the wall clock by -2.2%"),
    (setter(-1, "wall_s", 2.4), "miss the wall clock by -4.2%"),
    (setter(-2, "train_s", 0.4), "train_s runs backwards at step 20: 0.5, then 0.4"),
    (setter(-2, "wall_s", 1.5), "wall_s runs backwards at step 20"),
    (setter(-2, "cpu_s", 0.3), "cpu_s runs backwards at step 20"),
    (setter(-3, "samples", 1281), "samples runs backwards at step 20"),
    (setter(-3, "forwards", 21), "forwards runs backwards"),
    (setter(-3, "backwards", 21), "backwards runs backwards"),
    (setter(-3, "step", 21), "step runs backwards"),
    (setter(-3, "comm", "train", "all_reduce", "calls", 21), "calls of all_reduce (train)"),
    (setter(-1, "comm", {}), "payload_bytes of all_reduce (train) runs backwards at the end"),
    (setter(-1, "samples", 1279), "samples runs backwards at the end"),
    (setter(-2, "train_s", 9.0), "train_s is ahead of the wall clock"),
    (setter(-2, "train_s", 0.8), "train_s of the ledger is 1, of the last evaluation 0.8"),
    (setter(0, "run_id", "0" * 12), "run id 000000000000, but its trial has the address"),
    (setter(0, "trial", "hyperparameters", "lr", 0.3), "but its trial has the address"),
    (setter(0, "trial", "hyperparameters", "lr", 0.3), "but its hyperparameters have the hash"),
    (setter(1, "initial_weights_sha256", "other"), "initial weights of"),
    (setter(1, "data_order_sha256", "other"), "order of the data of"),
    (setter(0, "trial", "seeds", "data", 7), "seeds of"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_each_lie_is_found(folder, change, edit, words):
    path = change(edit)
    assert any(words in line for line in only(folder, path))


def alone(trial):
    return trial.ranks == 1


def together(trial):
    return trial.ranks == 2


def put(*keys_and_value):
    """Sets a number of the traffic at the end and at the last evaluation, but of no call."""

    def edit(lines):
        lines[-1]["calls"] = None
        for index in (-1, -2):
            setter(index, "comm", "train", "all_reduce", *keys_and_value)(lines)

    return edit


def also(*edits):
    def edit(lines):
        for one in edits:
            one(lines)

    return edit


AUDITED = (-1, "audit", "parts")


@pytest.mark.parametrize(("choose", "edit", "words"), [
    (together, setter(-1, "audit", None), ["its bytes were not audited"]),
    (together, setter(-1, "audit", "skipped", "no mood"),
     ["the audit was skipped on Linux 6.1: no mood"]),
    (together, setter(*AUDITED, "train", "seen_bytes", 13_001),
     ["rank 0 sent 13001 bytes in train, its collectives account for 12000: something "
      "communicated behind the meter's back"]),
    (together, setter(*AUDITED, "setup", "seen_bytes", 1009),
     ["rank 0 sent 1009 bytes in setup, its collectives account for 0: something "
      "communicated behind the meter's back"]),
    (together, setter(*AUDITED, "eval", "seen_bytes", -1),
     ["the audit of eval has negative bytes: (0, -1, 0)"]),
    (together, setter(-1, "audit", "parts", {"train": {
        "predicted_bytes": 12_000, "seen_bytes": 12_000, "unsure_bytes": 0}}),
     ["the audit lacks eval, setup"]),
    (together, setter(-1, "audit", "rank", 2), ["the audit is of rank 2 of 2"]),
    (together, setter(*AUDITED, "train", "predicted_bytes", 12_001),
     ["the audit predicts 12001 bytes, actual_bytes of the traffic are 12000"]),
    (alone, setter(*AUDITED, "train", "seen_bytes", 1),
     ["the audit of train has bytes without another rank: (0, 1, 0)"]),
    (together, put("actual_bytes", None),
     ["actual_bytes of all_reduce (train) runs backwards at step 20: 6000, then 0",
      "actual_bytes is missing of all_reduce (train)",
      "the audit predicts 12000 bytes, actual_bytes of the traffic are 0"]),
    (together, also(put("actual_bytes", 0), setter(-3, "comm", {}),
                    setter(*AUDITED, "train", "predicted_bytes", 0),
                    setter(*AUDITED, "train", "seen_bytes", 0)),
     ["all_reduce (train) at step 20: actual_bytes is 0, although 8000 are needed",
      "all_reduce (train) at the end: actual_bytes is 0, although 8000 are needed"]),
    (alone, also(put("actual_bytes", 48), setter(*AUDITED, "train", "predicted_bytes", 48)),
     ["all_reduce (train) at step 20: actual_bytes is 48 without another rank",
      "all_reduce (train) at the end: actual_bytes is 48 without another rank",
      "the audit of train has bytes without another rank: (48, 0, 0)"]),
    (alone, put("ideal_bytes", 1.0),
     ["all_reduce (train) at step 20: ideal_bytes is 1, more than the 0 of a payload of 8000",
      "all_reduce (train) at the end: ideal_bytes is 1, more than the 0 of a payload of 8000"]),
    (together, put("ideal_bytes", 8001.0),
     ["all_reduce (train) at step 20: ideal_bytes is 8001, more than the 8000 of a payload of "
      "8000",
      "all_reduce (train) at the end: ideal_bytes is 8001, more than the 8000 of a payload of "
      "8000"]),
    (alone, setter(2, "comm", "train", "all_reduce", "payload_bytes", -1),
     ["all_reduce (train) at step 0: payload_bytes is -1"]),
    (together, setter(2, "comm", "train", "all_reduce", "actual_bytes", -1),
     ["all_reduce (train) at step 0: actual_bytes is -1"]),
    (together, also(setter(-1, "calls", None), setter(-1, "comm", "train", "broadcast", {
        "calls": 1, "payload_bytes": 0, "ideal_bytes": 0, "actual_bytes": 0})),
     ["there was traffic of the phase train after the last evaluation"]),
    (together, setter(-1, "calls", 0, "calls", 19),
     ["calls of all_reduce (train) are 20, the distinct calls sum to 19",
      "payload_bytes of all_reduce (train) are 8000, the distinct calls sum to 7600",
      "ideal_bytes of all_reduce (train) are 8000.0, the distinct calls sum to 7600.0",
      "actual_bytes of all_reduce (train) are 12000, the distinct calls sum to 11400"]),
    (alone, setter(-2, "all_ranks_cpu_s", 5.0),
     ["all_ranks_cpu_s is 5 at step 20, where the busiest of 1 ranks used 0.8"]),
    (alone, setter(2, "peak_memory_bytes", 0), ["no memory was in use at step 0"]),
    (alone, setter(3, "peak_memory_bytes", 2**21),
     [f"peak_memory_bytes runs backwards at step 20: {2**21:g}, then {2**20:g}"]),
    (alone, setter(-1, "peak_memory_bytes", 5),
     ["peak_memory_bytes is 5 at the end, 1048576 at the last evaluation"]),
    (alone, setter(-2, "flops", 3_840_001.0),
     ["flops at step 20 is 3840001.0, of its samples and passes 3840000.0"]),
    (alone, setter(-2, "flops", None),
     ["flops at step 20 is None, of its samples and passes 3840000.0"]),
    (alone, setter(-2, "backwards", 21),
     ["flops at step 20 is 3840000.0, of its samples and passes 3968000.0"]),
    (alone, setter(1, "forward_flops", 0.0), ["no operations of a sample were counted"]),
    (alone, setter(1, "backward_flops", None), ["no operations of a sample were counted"]),
    (alone, setter(-2, "counted", {"samples": 1281, "forwards": 21, "backwards": 20,
                                   "steps_s": 99.0}),
     ["samples at step 20 is 1280, 1281 were counted",
      "forwards at step 20 is 20, 21 were counted",
      "train_s at step 20 is 1, the steps took 99 by a second clock"]),
    (alone, lambda lines: lines.pop(1), ["it ended without a start event"]),
])
def test_each_count_that_cannot_be_is_found(folder, change, choose, edit, words):
    path = change(edit, lambda trial: trial.stage == "report" and choose(trial))
    assert only(folder, path) == words


@pytest.mark.parametrize("edit", [
    also(setter(0, "environment", {"os": "Debian GNU/Linux 9, Linux 4.9.0"}),
         setter(-1, "audit", "skipped", "this kernel does not count a socket's bytes")),
    also(setter(0, "environment", {"os": "Darwin 23.1"}),
         setter(-1, "audit", "skipped", "darwin does not count a socket's bytes")),
    also(setter(1, "comm_meter", "none (no hook)"), setter(-1, "audit", None)),
    also(setter(1, "process_group", "nccl"), put("actual_bytes", None),
         setter(-3, "comm", {}), setter(-1, "audit", "skipped", "the bytes of nccl")),
    also(setter(-1, "status", "timeout"), setter(-1, "audit", None)),
    # Its bytes are why it failed; it will run again.
    also(setter(-1, "status", "error"), setter(*AUDITED, "train", "seen_bytes", 99_999)),
    # The audit is of another rank than the traffic.
    also(setter(-1, "audit", "rank", 1), setter(*AUDITED, "train", "predicted_bytes", 12_500)),
    # A gloo that was allowed 0.1 % of much.
    also(put("actual_bytes", 20_000_000), setter(*AUDITED, "train", "predicted_bytes", 20_000_000),
         setter(*AUDITED, "train", "seen_bytes", 20_019_000)),
], ids=["old kernel", "no Linux", "no meter", "nccl", "ended from outside", "error",
        "another rank", "a thousandth"])
def test_what_has_its_reason_is_no_lie(folder, change, edit):
    change(edit, lambda trial: trial.stage == "report" and together(trial))
    assert soundness.check(folder)[1] == []


@pytest.mark.parametrize(("collective", "ideal", "plausible"), [
    ("gather", 225, True), ("gather", 226, False),  # in a group of two
    ("broadcast", 675, True), ("broadcast", 676, False), ("all_reduce", 1350, True),
    ("all_reduce", 1351, False), ("send", 900, True), ("send", 901, False), ("recv", 1, False)])
def test_groups_may_be_smaller_than_the_world(collective, ideal, plausible):
    problems = list(plausibility._traffic(collective, Traffic(1, 900, ideal, 1000), 4))
    assert (problems == []) == plausible, problems


def test_records_of_a_suite_whose_data_has_options_pass(tmp_path, make_study, digits):
    plain = make_study("sgd[lr=0.1]", trials=0, seeds=1)
    suite = plain.suites[0]
    data = msgspec.structs.replace(suite.data, source="mine:data", options={"kind": [1, 2]})
    study = msgspec.structs.replace(
        plain, suites=(msgspec.structs.replace(suite, data=data),))
    (tmp_path / "trials").mkdir()
    write_json(tmp_path / "study.json", store.StudyFile(study, [], store.now(), {}))
    for trial in Plan(study, {"digits": digits}).reporting([]):
        for event in events(trial):
            store.append(tmp_path / "trials" / f"{trial.run_id}.jsonl", event)
    assert soundness.check(tmp_path) == (1, [])


def test_checking_does_without_torch(folder):
    code = ("import sys, pathlib; from bench_apts.meters import soundness; "
            "print(soundness.check(pathlib.Path(sys.argv[1])), 'torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True,
                          text=True, check=True)
    assert done.stdout == "(10, []) False\n"


def test_tuning_must_not_see_the_test_split(folder, change):
    path = change(setter(-1, "test", {"accuracy": 0.9}), lambda trial: trial.stage == "tune")
    assert only(folder, path) == ["the test split was read in tuning"]


@pytest.mark.parametrize("written", ["portable", "whole"])
def test_the_address_of_a_plugin_file_holds_its_name_or_in_older_records_its_path(
        folder, written):
    (first, *_) = store.read_trials(folder)
    trial = msgspec.structs.replace(first.trial, plugin="/home/me/mine.py", plugin_sha256="q")
    hashed = trial.portable if written == "portable" else trial
    run_id = digest({"schema": 1, "trial": hashed})[:12]
    assert (run_id == trial.run_id) == (written == "portable")
    for event in events(trial):
        if isinstance(event, Header):
            event.run_id = run_id
        store.append(folder / "trials" / f"{run_id}.jsonl", event)
    assert soundness.check(folder) == (11, [])


def test_on_cpus_a_twin_ends_with_the_same_weights(folder):
    (first, *_) = [r for r in store.read_trials(folder) if r.trial.stage == "report"]
    twin = msgspec.structs.replace(first.trial, twin=True)
    paths = {}
    for trial, weights in ((first.trial, "same"), (twin, "other")):
        paths[weights] = folder / "trials" / f"{trial.run_id}.jsonl"
        for event in events(trial):
            if isinstance(event, End):
                event.final_weights_sha256 = weights
            store.append(paths[weights], event)
    # Of two that differ, the first in the folder counts as what is usual.
    assert only(folder, max(paths.values())) == [
        f"final weights of {twin.label} at N = {twin.ranks} differ from 1 of the 2 report trials "
        f"number {twin.repetition}"]


def test_seeds_of_tuning_must_not_be_reported_on(folder):
    tuned = next(r.trial.seeds for r in store.read_trials(folder) if r.trial.stage == "tune")
    for record in store.read_trials(folder):
        if record.trial.stage == "report" and record.trial.repetition == 0:
            trial = msgspec.structs.replace(record.trial, seeds=tuned)
            path = folder / "trials" / f"{record.header.run_id}.jsonl"
            path.unlink()
            for event in events(trial):
                store.append(folder / "trials" / f"{trial.run_id}.jsonl", event)
    _, found = soundness.check(folder)
    assert len(found) == 4
    assert all("a report-stage trial with seeds of tuning trials" in line for line in found)


def test_one_per_cent_is_allowed_and_no_ledger_is_no_lie(folder, change):
    change(setter(-1, "ledger", "eval_s", 0.25 + 0.009 * 2.3))
    change(setter(-1, "ledger", {}), lambda trial: trial.stage == "tune")
    assert soundness.check(folder)[1] == []


def test_a_renamed_file_is_not_what_it_says(folder):
    path = min((folder / "trials").glob("*.jsonl"))
    moved = path.with_name(f"{'f' * 12}.jsonl")
    path.rename(moved)
    assert only(folder, moved) == [f"the file holds the trial {path.stem}"]


def test_a_torn_line_counts_until_the_trial_is_run_again(folder):
    path = min((folder / "trials").glob("*.jsonl"))
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    assert only(folder, path) == ["line 6 is cut off: the writer was killed"]
    for line in content.splitlines():
        store.append(path, msgspec.json.decode(line, type=store.Event))
    assert soundness.check(folder)[1] == []
    path.write_bytes(content[:20])
    assert only(folder, path) == ["no header was written whole"]


def test_corruption_of_one_file_does_not_hide_the_others(folder):
    first, *_, last = sorted((folder / "trials").glob("*.jsonl"))
    lines = first.read_bytes().splitlines(keepends=True)
    first.write_bytes(b"".join([lines[0], lines[1][:-9] + b"\n", *lines[2:]]))
    last.write_bytes(last.read_bytes()[:-20])
    _, found = soundness.check(folder)
    assert len(found) == 2
    assert found[0].startswith(f"{first}, line 2: ")
    assert found[1].startswith(f"{last}: line 6 is cut off")


def test_fields_of_later_versions_do_not_change_the_address_of_older_records(folder, change):
    def older(lines):
        del lines[0]["trial"]["suite"]["scaling"]
        address = soundness.digest({"schema": 1, "trial": lines[0]["trial"]})[:12]
        lines[0]["run_id"] = address

    path = change(older)
    record = store.read_trial(path)
    assert record.header.run_id != record.trial.run_id
    path.rename(path.with_name(f"{record.header.run_id}.jsonl"))
    assert soundness.check(folder)[1] == []


def test_what_is_no_results_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a results folder"):
        soundness.check(tmp_path / "nowhere")


def test_the_command(cli, finished, undrawn, tmp_path):
    count = len(list((finished.folder / "trials").glob("*.jsonl")))  # other tests add to it
    done = cli("check", finished.folder)
    assert (done.code, done.out, done.err) == (0, f"trials: {count}, all sound\n", "")
    copy = tmp_path / "copy"
    shutil.copytree(finished.folder, copy)
    # Another test narrows the study down to this optimizer and N.
    spoilt = next(r for r in finished.records
                  if (r.trial.label, r.trial.ranks, r.trial.stage) == ("sgd", 1, "tune"))
    path = copy / "trials" / f"{spoilt.header.run_id}.jsonl"
    lines = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    lines[-1]["ledger"]["eval_s"] += 0.05 * lines[-1]["wall_s"]
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    done = cli("check", copy)
    assert done.code == 1
    problem, summary = done.out.splitlines()
    assert problem == f"{path}: the ledger's parts miss the wall clock by +5.0%"
    assert summary == f"trials: {count}, problems: 1"
    assert cli("report", copy).code == 0
    assert "Ledgers that do not add up" in (copy / "report.html").read_text(encoding="utf-8")
    assert "Ledgers that do not add up" not in (
        finished.folder / "report.html").read_text(encoding="utf-8")
