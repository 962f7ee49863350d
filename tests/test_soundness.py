"""Records that lie are found, each by the line that names its file; sound ones pass."""

import shutil

import msgspec
import pytest

from bench_apts import soundness, store
from bench_apts.errors import UserError
from bench_apts.plan import Plan
from bench_apts.records import End, Eval, Header, Start, Traffic


def events(trial):
    """A whole trial: three evaluations, and a ledger that sums to the wall clock."""
    share = (trial.ranks - 1) / trial.ranks
    curve = [Eval(
        step=10 * k, samples=640 * k, epoch=k / 2, train_s=0.5 * k, wall_s=1 + 0.6 * k,
        cpu_s=0.4 * k, forwards=10 * k, backwards=10 * k, peak_memory_bytes=2**20,
        train_loss=2.5, validation={"accuracy": 0.5, "loss": 1.5},
        comm={"train": {"all_reduce": Traffic(10 * k, 4000 * k, 8000 * k * share)}})
        for k in range(3)]
    ledger = {"setup_s": 0.7, "warmup_s": 0.3, "train_s": 1.0, "eval_s": 0.25, "log_s": 0.05}
    report = trial.stage == "report"
    return [Header(trial.run_id, store.now(), trial, {}, trial.configuration),
            Start(1000, f"w{trial.seeds.init}", f"o{trial.seeds.data}", 1197, 300, "hook", "gloo"),
            *curve,
            End("miss", store.now(), 2.3, ledger, 0.8, 2**20, 1280, curve[-1].comm,
                {"accuracy": 0.5} if report else None)]


@pytest.fixture
def folder(tmp_path, make_study, digits):
    study = make_study("sgd[lr=0.1]", "adam[lr=0.01]", ranks=(1, 2), trials=0, seeds=2)
    tuned = make_study("sgd", ranks=(1,), trials=2)
    (tmp_path / "trials").mkdir()
    store.write_json(tmp_path / "study.json", store.StudyFile(study, [], store.now(), {}))
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


def test_tuning_must_not_see_the_test_split(folder, change):
    path = change(setter(-1, "test", {"accuracy": 0.9}), lambda trial: trial.stage == "tune")
    assert only(folder, path) == ["the test split was read in tuning"]


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
        store.append(path, store._decoder.decode(line))
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
    with pytest.raises(UserError, match="is no results folder"):
        soundness.check(tmp_path / "nowhere")


def test_the_command(cli, finished, tmp_path):
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
