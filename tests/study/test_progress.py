"""What a study shows: plain lines in a pipe, bars on a terminal."""

import io
import re
import time

import msgspec
import pytest
from rich.console import Console

from bench_apts.core import store
from bench_apts.core.records import End, Eval, Header, TrialRecord
from bench_apts.core.spec import Searched
from bench_apts.study.progress import StudyProgress, describe_trial

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def evaluation(samples, accuracy):
    return Eval(samples // 64, samples, samples / 1197, 1.25, 2.0, 1.0, 1, 1, 0, 2.0,
                {"accuracy": accuracy, "loss": 1.0}, {})


@pytest.fixture
def record(make_trial, tmp_path):
    trial = msgspec.structs.replace(make_trial("sgd[momentum=0.5]", ranks=2), stage="tune")
    return TrialRecord(Header(trial.run_id, store.now(), trial, {}), None,
                       [evaluation(0, 0.1), evaluation(1280, 0.875)],
                       End("miss", store.now(), 2.0), str(tmp_path / "x.jsonl"))


def terminal():
    return Console(force_terminal=True, file=io.StringIO(), width=200, soft_wrap=True)


def test_a_trial_is_described_by_what_tells_it_from_others(record):
    text = describe_trial(record.trial)
    assert text.startswith("digits sgd[momentum=0.5] N=2 tuning 1 (")
    assert "lr=0.05" in text
    report = msgspec.structs.replace(record.trial, stage="report", repetition=4)
    assert describe_trial(report) == "digits sgd[momentum=0.5] N=2 report 5"


def test_values_of_every_type_are_shown_if_they_were_searched(record):
    values = {"lr": 0.012345, "momentum": 0.5, "steps": 16, "on": True, "norm": "l2", "left": 3}
    searched = Searched("random", "none", "narrow", 1, {"lr": (1e-3, 1.0), "steps": (1.0, 64.0)},
                        choices=("on", "norm"))
    trial = msgspec.structs.replace(record.trial, hyperparameters=values, searched=searched)
    assert describe_trial(trial).endswith("tuning 1 (lr=0.0123, steps=16, on=true, norm=l2)")
    older = msgspec.structs.replace(trial, searched=Searched("random", "none", "narrow", 1))
    assert describe_trial(older).endswith("tuning 1 (lr=0.0123, momentum=0.5)")


def test_a_pipe_gets_plain_lines(record, tmp_path):
    console = Console(file=io.StringIO(), width=60)
    path = tmp_path / "x.jsonl"
    path.write_text("")
    progress = StudyProgress(console)
    with progress.shown():
        progress.study_started(3)
        progress.trial_kept(record)
        with progress.trial(record.trial, path):
            pass
        progress.trial_finished(record)
        failed = msgspec.structs.replace(
            record, end=End("error", store.now(), 0.0, reason="rank 1: [red]no[/red] luck"),
            evals=[])
        progress.trial_finished(failed)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 3
    assert "\x1b" not in "".join(lines)
    assert lines[0].startswith("[1/3] digits sgd[momentum=0.5] N=2 tuning 1 (")
    assert "accuracy 0.8750" in lines[0]
    assert "kept from an earlier run" in lines[0]
    assert lines[1].startswith("[2/3]")
    assert "miss" in lines[1]
    assert lines[2].startswith("[3/3]")
    assert lines[2].endswith("error, rank 1: [red]no[/red] luck")
    assert progress.statuses == {"miss": 2, "error": 1}


def test_a_terminal_shows_suite_trial_metric_and_progress(record, tmp_path):
    console = terminal()
    path = tmp_path / "x.jsonl"
    path.write_text("")
    store.append(path, evaluation(0, 0.999))  # of an earlier attempt: not to be shown
    progress = StudyProgress(console)

    def wait_for(text):
        deadline = time.monotonic() + 200
        while text not in ESCAPE.sub("", console.file.getvalue()):
            assert time.monotonic() < deadline, f"{text!r} was never shown"
            time.sleep(0.05)

    with progress.shown():
        progress.study_started(5)
        with progress.trial(record.trial, path):
            wait_for("starting")
            wait_for("digits sgd[momentum=0.5] N=2 tuning 1")
            store.append(path, evaluation(0, 0.0))
            wait_for("epoch 0.0, accuracy 0.0000")
            store.append(path, evaluation(640, 0.4375))
            wait_for("epoch 0.5, accuracy 0.4375")
        progress.trial_finished(record)
        wait_for("1/5")
    shown = ESCAPE.sub("", console.file.getvalue())
    assert re.search(r"\d:\d\d min left", shown)
    assert "\x1b[" in console.file.getvalue()
    assert "0.9990" not in shown


def test_a_half_written_line_is_shown_once_it_is_whole(record, tmp_path):
    console = terminal()
    path = tmp_path / "x.jsonl"
    path.write_text("")
    line = msgspec.json.encode(evaluation(640, 0.4375)) + b"\n"
    progress = StudyProgress(console)
    with progress.shown(), progress.trial(record.trial, path), path.open("ab") as file:
        file.write(line[:50])
        file.flush()
        time.sleep(0.5)
        assert "0.4375" not in console.file.getvalue()
        file.write(line[50:])
        file.flush()
        deadline = time.monotonic() + 200
        while "0.4375" not in console.file.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.05)
