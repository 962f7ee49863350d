"""Checkpoints on disk: exact, complete or absent, and never executed."""

import hashlib
import math
import os
import pickle
import re
import shutil
from collections import OrderedDict
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
import torch
from checkpoint_study import Folder, Nobody, Ranks

from bench_apts.core import store
from bench_apts.core.records import End
from bench_apts.trial import checkpoint_files
from bench_apts.trial.warmup import UnsupportedState, plain_state

OVERRIDES = ("suite.budget.samples=1280", "suite.evaluation.every_samples=320")
CPU = torch.device("cpu")


def written(folder, state):
    digest = checkpoint_files.write_rank(folder, 5, 0, plain_state(state))
    return checkpoint_files.commit(folder, manifest([digest]))


def manifest(digests, form=checkpoint_files.FORMAT):
    return checkpoint_files.Manifest("a", 1, 5, digests, form)


class Place(NamedTuple):
    row: int
    column: float


def test_a_state_comes_back_as_it_was(tmp_path):
    shared = torch.randn(3)
    state = {
        "numbers": [0, -1, 2**62, 2**80, 0.1, -0.0, 1e-310, math.inf, -math.inf, True, None],
        "subclasses": [np.float64(0.1), np.str_("a"), OrderedDict(a=Place(1, 2.5))],
        "text": "ä\n", 7: {(1, 2): ()}, "empty": {},
        "tensors": [torch.randn(2, 3).t(), torch.tensor(3), torch.empty(0), torch.ones(2) > 0,
                    torch.randn(4).bfloat16(), torch.arange(9, dtype=torch.uint8)[2:5]],
        "images": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "one": shared, "same": (shared,), "equal": shared.clone(),
        "nan": math.nan, "weights": torch.nn.Parameter(torch.ones(2))}
    state["weights"].owner = object()
    sha256 = written(tmp_path / "checkpoints" / "a", state)
    assert checkpoint_files.problem(tmp_path / "checkpoints" / "a", 5, sha256, "a", 1) is None
    back = checkpoint_files.read_rank(tmp_path / "checkpoints" / "a", 5, 0, CPU)
    assert list(back) == list(state)
    assert repr(back["subclasses"]) == "[0.1, 'a', {'a': (1, 2.5)}]"
    for name in ("numbers", "text", 7, "empty"):
        assert repr(back[name]) == repr(state[name])
    pairs = list(zip(back["tensors"], state["tensors"], strict=True))
    for one, other in [*pairs, (back["images"], state["images"])]:
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert back["images"].stride() == state["images"].stride()
    back["one"].zero_()
    assert back["same"][0].tolist() == [0, 0, 0]
    assert torch.equal(back["equal"], state["equal"])
    assert math.isnan(back["nan"])
    assert back["weights"].tolist() == [1, 1]
    assert not back["weights"].requires_grad
    assert not vars(back["weights"])


@pytest.mark.parametrize(("thing", "place"), [
    (object(), r"state\.a\.0 is a object"), ({1, 2}, r"state\.a\.0 is a set"),
    (torch.eye(2).to_sparse(), r"state\.a\.0 is a Tensor \(torch.sparse_coo\)"),
    ({object(): 1}, r"a key of state\.a\.0 is a object")])
def test_what_is_not_data_is_refused_by_its_place(thing, place):
    with pytest.raises(UnsupportedState, match=place):
        plain_state({"a": [thing]})


def test_nothing_on_disk_is_a_checkpoint_before_all_ranks_have_written(tmp_path):
    folder = tmp_path / "checkpoints" / "a"
    digest = checkpoint_files.write_rank(folder, 5, 0, {"a": torch.ones(3)})
    with pytest.raises(FileNotFoundError, match=r"part of rank 1 .* folder that they share"):
        checkpoint_files.commit(folder, manifest([digest, digest]))
    assert [path.name for path in folder.iterdir()] == [".part-5"]
    checkpoint_files.sweep(folder)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def original(tmp_path_factory, digits, make_trial):
    """A trial that was stopped at its tenth step."""
    folder = Folder(tmp_path_factory.mktemp("stopped") / "study", digits)
    trial = make_trial("adam", 1, OVERRIDES)
    assert folder.run(trial, Ranks(10)).checkpoints[0].samples == 640
    return folder, trial


@pytest.fixture
def stopped(original, tmp_path, digits):
    """A copy of it, to be tampered with."""
    folder, trial = original
    shutil.copytree(folder.path, tmp_path / "study")
    copy = Folder(tmp_path / "study", digits)
    copy.notes.write_text("")
    return copy, trial


def resumed_at(folder, trial):
    launcher = Nobody()
    folder.run(trial, launcher)
    return launcher.job.saving.resume


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_an_untouched_checkpoint_is_used(stopped):
    folder, trial = stopped
    assert resumed_at(folder, trial) == 640
    assert "goes on from its checkpoint at 640 samples" in folder.notes.read_text()


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", [
    "checkpoint.json", "rank-0.pt"])
@pytest.mark.parametrize("harm", [
    flip, lambda path: path.write_bytes(path.read_bytes()[:-1]), lambda path: path.unlink(),
    lambda path: path.write_bytes(pickle.dumps(Bomb(path.with_name("bomb"))))],
    ids=["flipped", "cut", "gone", "pickle"])
def test_a_damaged_checkpoint_is_reported_in_a_line_and_the_trial_restarts(stopped, name, harm):
    folder, trial = stopped
    harm(folder.checkpoint(trial, 640) / name)
    assert resumed_at(folder, trial) is None
    notes = [line for line in folder.notes.read_text().splitlines() if "checkpoint" in line]
    assert len(notes) == 1
    assert "its checkpoint cannot be used: " in notes[0]
    assert not list(folder.path.rglob("bomb"))
    assert not folder.checkpoint(trial, 640).exists()


def test_a_forged_checkpoint_is_not_executed_and_not_tried_twice(stopped):
    folder, trial = stopped
    place, bomb = folder.checkpoint(trial, 640), folder.path / "bomb"

    def sha256(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def change(path, old, new):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    data, manifest = place / "rank-0.pt", place / "checkpoint.json"
    old = [sha256(data), sha256(manifest)]
    torch.save(Bomb(bomb), data)
    change(manifest, old[0], sha256(data))
    change(folder.events(trial), old[1], sha256(manifest))
    failed = folder.run(trial)
    assert failed.end.status == "error"
    assert "weights_only" in failed.end.reason.lower(), failed.end.reason
    assert not bomb.exists()
    assert resumed_at(folder, trial) is None
    assert "the attempt that went on from it failed" in folder.notes.read_text()


@pytest.mark.parametrize("name", [
    "checkpoint.json", "rank-0.pt"])
def test_a_pipe_in_a_checkpoint_is_not_waited_for(stopped, name):
    folder, trial = stopped
    place = folder.checkpoint(trial, 640) / name
    place.unlink()
    os.mkfifo(place)
    assert resumed_at(folder, trial) is None
    assert f"{place.name} is not a regular file" in folder.notes.read_text()


@pytest.mark.parametrize(("content", "trouble"), [
    (b"[" * 10**6, "is damaged"),
    (msgspec.json.encode(manifest([64 * "0"])).replace(b"\"step\":1", b"\"step\":1e999"),
     "is damaged"),
    (msgspec.json.encode(manifest([64 * "0"])), "is damaged: .*rank-0.pt"),
    (msgspec.json.encode(manifest([])), "belongs to another trial"),
    (msgspec.json.encode(manifest([64 * "0"], 1)), "the format of another version"),
    (msgspec.json.encode(manifest([64 * "0"], 1)).replace(b",\"format\":1", b""),
     "the format of another version")])
def test_a_manifest_that_cannot_be_used_is_reported_in_a_line(tmp_path, content, trouble):
    place = tmp_path / "a" / "5" / "checkpoint.json"
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    found = checkpoint_files.problem(
        tmp_path / "a", 5, hashlib.sha256(content).hexdigest(), "a", 1)
    assert re.search(trouble, found)
    assert "\n" not in found


def test_what_a_killed_command_left_of_a_finished_trials_checkpoints_is_removed(
        stopped, make_trial):
    folder, _ = stopped
    trial = make_trial("sgd", 1, OVERRIDES)
    header = folder.run(trial, Nobody()).header
    store.append(folder.events(trial), header)
    store.append(folder.events(trial), End("miss", "", 1.0))
    folder.checkpoint(trial, 640).mkdir(parents=True)
    assert folder.run(trial, None).finished
    assert not folder.checkpoint(trial, 640).parent.exists()


def test_another_machine_begins_anew(stopped):
    folder, trial = stopped
    folder.card = folder.card | {"cpu": "another one"}
    assert resumed_at(folder, trial) is None
    assert "written with another cpu" in folder.notes.read_text()


def test_a_checkpoint_that_fails_is_reported_and_the_trial_goes_on(tmp_path, digits, make_trial,
                                                                  plugin):
    path = plugin()
    path.write_text(path.read_text().replace(
        "self.steps])", "self.steps, {1, 2}])"))
    folder, trial = Folder(tmp_path / "study", digits), make_trial(str(path), 1, OVERRIDES)
    record = folder.run(trial, every=320)
    assert record.finished
    assert [c.samples for c in record.checkpoints] == [320, 640, 960]
    assert record.checkpoints[0].sha256 == ""
    assert "rank 0: UnsupportedState: state.stepper.3 is a set" in record.checkpoints[0].skipped
    assert "no checkpoint at 320 samples" in folder.notes.read_text()
