"""Files on disk: what a killed writer leaves is read, what is corrupt is named."""

import gc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.core import store
from bench_apts.core.errors import UserError
from bench_apts.core.files import write_json
from bench_apts.core.records import End, Eval, Header, Start, Traffic
from bench_apts.core.spec import SCHEMA
from bench_apts.core.store import collect_only_new, pause_gc


@pytest.fixture
def header(make_trial):
    trial = make_trial("sgd")
    return Header(trial.run_id, store.now(), trial, {"hostname": "here", "cores": 2})


def evaluation(step):
    return Eval(
        step=step, samples=64 * step, epoch=step / 20, train_s=0.25, wall_s=0.5, cpu_s=0.125,
        forwards=step, backwards=step, peak_memory_bytes=2**20, train_loss=2.5,
        validation={"accuracy": 0.5, "loss": 1.5}, diagnostics={"radius": 0.1},
        comm={"train": {"all_reduce": Traffic(3, 24, 24.0)}})


START = Start(10, "ab", "cd", 1197, 300, "c10d pre-hook", "gloo")
END = End("hit", "2026-01-01T00:00:00+00:00", 1.5, {"train_s": 1.0}, reason=None)


@pytest.fixture
def path(tmp_path, header):
    path = tmp_path / f"{header.run_id}.jsonl"
    for event in (header, START, evaluation(0), evaluation(5), END):
        store.append(path, event)
    return path


def test_events_come_back_as_they_were_written(path, header):
    record = store.read_trial(path)
    assert record.header == header
    assert record.start == START
    assert record.evals == [evaluation(0), evaluation(5)]
    assert record.end == END
    assert record.attempts == 1
    assert record.finished
    assert len(path.read_bytes().splitlines()) == 5


def test_a_record_without_an_end_is_not_finished(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert store.read_trial(path).end is None
    assert not store.read_trial(path).finished


@pytest.mark.parametrize(("status", "finished"), [
    ("hit", True), ("miss", True), ("diverged", True), ("oom", True), ("timeout", True),
    ("pruned", True), ("error", False), ("interrupted", False),
])
def test_failed_and_interrupted_trials_are_to_be_run_again(path, status, finished):
    store.append(path, msgspec.structs.replace(END, status=status))
    assert store.read_trial(path).finished is finished


@pytest.mark.parametrize("last", [END, evaluation(10)], ids=["end", "eval"])
def test_a_last_line_cut_anywhere_is_as_if_it_had_not_been_written(path, header, last):
    lines = path.read_bytes().splitlines(keepends=True)[:4]
    whole = b"".join(lines)
    line = msgspec.json.encode(last)
    for cut in range(len(line)):
        path.write_bytes(whole + line[:cut])
        record = store.read_trial(path)
        assert record.evals == [evaluation(0), evaluation(5)]
        assert record.end is None
    path.write_bytes(whole + line)  # all but the line's end
    record = store.read_trial(path)
    assert (record.end, len(record.evals)) == ((END, 2) if last is END else (None, 3))


def test_a_header_cut_anywhere_is_no_record(path, header):
    line = msgspec.json.encode(header)
    for cut in range(len(line)):
        path.write_bytes(line[:cut])
        assert store.read_trial(path) is None
    assert store.read_trials(path.parent.parent) == []


def test_after_a_torn_line_a_new_attempt_counts(path, header):
    path.write_bytes(path.read_bytes()[:-30])
    store.append(path, header)
    store.append(path, evaluation(0))
    record = store.read_trial(path)
    assert record.attempts == 2
    assert record.evals == [evaluation(0)]
    assert record.start is None
    assert record.end is None


@pytest.mark.parametrize("status", ["error", "oom", "timeout", "interrupted"])
def test_after_a_torn_line_the_launcher_may_say_how_the_attempt_ended(path, status):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4])[:-30])
    store.append(path, msgspec.structs.replace(END, status=status))
    record = store.read_trial(path)
    assert record.end.status == status
    assert record.evals == [evaluation(0)]


def test_a_torn_first_header_does_not_count_as_an_attempt(path, header):
    path.write_bytes(msgspec.json.encode(header)[:40])
    store.append(path, header)
    assert store.read_trial(path).attempts == 1


@pytest.mark.parametrize("number", [2, 3, 4])
def test_a_torn_line_in_the_middle_of_an_attempt_is_named(path, number):
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number - 1] = lines[number - 1][:-20] + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(UserError) as caught:
        store.read_trial(path)
    assert str(caught.value).startswith(f"{path}, line {number}: ")
    assert "corrupt" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("line", [
    b'{"event":"dance"}', b'{"event":"eval","step":"five"}', b'{"step":1}', b"[]", b"17",
])
def test_a_line_that_is_json_but_no_event_is_named(path, line):
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(UserError, match="line 6: "):
        store.read_trial(path)


def test_an_event_before_any_header_is_named(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[1:]))
    with pytest.raises(UserError, match="line 1: an event before any header"):
        store.read_trial(path)


@given(st.binary(max_size=60))
def test_any_rubbish_is_no_record_or_a_user_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "rubbish.jsonl"
    path.write_bytes(content)
    try:
        record = store.read_trial(path)
    except UserError:
        return
    assert record is None


def test_newer_files_are_refused_and_older_ones_read(path, header):
    content = msgspec.to_builtins(header)
    path.write_bytes(msgspec.json.encode(content | {"schema": SCHEMA + 1}) + b"\n")
    with pytest.raises(UserError, match=f"schema {SCHEMA + 1}.*install a newer bench-apts"):
        store.read_trial(path)
    newer = {"event": "header", "schema": SCHEMA + 1, "trial": {"unheard": "of"}}
    path.write_bytes(msgspec.json.encode(newer) + b"\n")
    with pytest.raises(UserError, match="install a newer bench-apts"):
        store.read_trial(path)
    path.write_bytes(msgspec.json.encode(content | {"schema": 0}) + b"\n")
    assert store.read_trial(path).trial == header.trial


def test_trials_are_read_in_the_order_of_their_names(tmp_path, header):
    (tmp_path / "trials").mkdir()
    for name in ("b", "a", "c"):
        store.append(tmp_path / "trials" / f"{name}.jsonl",
                     msgspec.structs.replace(header, run_id=name))
    (tmp_path / "trials" / "note.txt").write_text("no record")
    assert [r.header.run_id for r in store.read_trials(tmp_path)] == ["a", "b", "c"]


def test_study_files(tmp_path, make_study):
    with pytest.raises(UserError, match="is not a results folder"):
        store.read_study(tmp_path)
    path = tmp_path / "study.json"
    written = store.StudyFile(make_study("sgd"), ["run"], store.now(), {"cores": 2})
    write_json(path, written)
    assert store.read_study(tmp_path) == written
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"study\.json is broken"):
        store.read_study(tmp_path)
    path.write_text('{"schema": 99, "unheard": "of"}')
    with pytest.raises(UserError, match=r"schema 99.*install a newer bench-apts"):
        store.read_study(tmp_path)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "study.json"
    write_json(path, {"old": True})

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync" if step == "fsync" else "pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"new": True})
    assert msgspec.json.decode(path.read_bytes()) == {"old": True}
    assert list(tmp_path.iterdir()) == [path]


def test_written_files_replace_the_old_ones_whole(tmp_path):
    path = tmp_path / "study.json"
    write_json(path, {"old": list(range(1000))})
    write_json(path, {"new": 1})
    assert msgspec.json.decode(path.read_bytes()) == {"new": 1}
    assert list(tmp_path.iterdir()) == [path]


class Node:
    """Refers to itself, so that only the collector can find it."""

    def __init__(self):
        self.me = self


@pytest.fixture(autouse=True)
def untouched():
    before = gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()
    yield
    assert (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()) == before


def test_nothing_is_collected_while_it_is_paused():
    with pause_gc():
        assert not gc.isenabled()
        with pause_gc():
            pass
        assert not gc.isenabled()


def test_garbage_is_looked_for_in_what_is_added_alone():
    with collect_only_new(lambda: [{"record": [number]} for number in range(1_000)]) as made:
        assert gc.get_freeze_count() > len(made)
        assert gc.isenabled()
        assert not any(found is made[0] for found in gc.get_objects())
        gc.collect()
        Node()
        assert gc.collect() >= 1
    assert any(found is made[0] for found in gc.get_objects())


def test_an_error_leaves_no_trace():
    with pytest.raises(ZeroDivisionError), collect_only_new(list):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), collect_only_new(lambda: 1 // 0):
        pass
