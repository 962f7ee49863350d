"""Kinds of data that a source may return: dictionaries, tokens, streams, torchvision's classes."""

import gzip
import struct
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from bench_apts.core.errors import UserError
from bench_apts.core.spec import Study
from bench_apts.plugins import suite_file
from bench_apts.study.preflight import preflight_suite
from bench_apts.study.suite_network_checks import rehearse_batch
from bench_apts.suites import data, returned_data, user_data
from bench_apts.suites.suite_problem import SuiteProblem, resolved
from bench_apts.trial.loader import Conversion, Resident, stored

CODE = """
import numpy as np, torch
from torch import nn

rng = np.random.default_rng(0)
ids, mask = rng.integers(0, 50, (40, 6)), rng.random((40, 6)) > 0.2
features, labels = rng.random((40, 3)), np.arange(40) % 2
calls = 0

class Rows:
    classes = ["a", "b", "c"]
    def __init__(self, begin, end):
        self.begin, self.end = begin, end
    def __len__(self):
        return self.end - self.begin
    def __getitem__(self, i):
        i += self.begin
        return {"input_ids": torch.tensor(ids[i]), "attention_mask": torch.tensor(mask[i]),
                "extra": features[i]}, int(labels[i])

class Noisy(Rows):
    def __getitem__(self, i):
        return torch.rand(3, 8, 8) + self.begin + i, i % 2

class Unseeded(Noisy):
    def __getitem__(self, i):
        return torch.tensor(np.random.default_rng().random((3, 8, 8))), i % 2

class Growing(Noisy):
    def __len__(self):
        global calls
        calls += 1
        return 30 + calls

class Streams(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield torch.rand(3), 0

def splits(kind="mapping", data_dir=None, offline=None):
    if kind == "mapping":
        return tuple(({"input_ids": ids[part], "attention_mask": mask[part],
                       "extra": features[part]}, labels[part])
                     for part in (slice(30), slice(30, None)))
    if kind == "rows":
        return Rows(0, 30), Rows(30, 40)
    if kind == "arguments":
        return data_dir, offline
    wrong = {"unequal": {"input_ids": ids, "attention_mask": mask[:-1]}, "none": {},
             "spaced": {"input ids": ids}, "nan": {"x": np.where(mask, np.nan, 1.0)}}
    if kind in wrong:
        return (wrong[kind], labels), (wrong[kind], labels)
    if kind == "targets":
        return (ids, {"a": labels}), (ids, {"a": labels})
    if kind == "other names":
        return ({"x": ids}, labels), ({"y": ids}, labels)
    if kind == "arrays":
        return (features, labels), (features, labels)
    named = {"noisy": Noisy, "unseeded": Unseeded, "growing": Growing}
    if kind in named:
        return named[kind](0, 30), Noisy(30, 40)
    if kind == "empty":
        return Noisy(0, 30), Noisy(0, 0)
    if kind == "iterable":
        return Streams(), Streams()

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 4), nn.Linear(7, 2)
    def forward(self, input_ids, attention_mask, extra):
        assert input_ids.dtype == torch.int64 and attention_mask.dtype == torch.bool
        found = (self.embedding(input_ids) * attention_mask.unsqueeze(2)).mean(1)
        return self.head(torch.cat([found, extra], 1))

def conv():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
"""

SUITE = {
    "name": "mine", "summary": "", "batch_size": 8,
    "data": {"source": "mine.py:splits", "validation": 10}, "model": {"source": "mine.py:Net"},
    "budget": {"samples": 100, "seconds": 60}, "evaluation": {"every_samples": 50},
    "target": {"metric": "accuracy", "direction": "max", "value": 0.9,
               "provenance": {"optimizer": "none", "trials": 0, "seeds": 0}}}


@pytest.fixture
def tried(tmp_path, cache):
    """Prepares and tries out the suite with some of its data and model changed."""
    (tmp_path / "mine.py").write_text(CODE, encoding="utf-8")

    def run(kind=None, folder=None, offline=False, model="mine.py:Net", **changes):
        changes |= {"options": {"kind": kind}} if kind else {}
        raw = {**SUITE, "data": {**SUITE["data"], **changes}, "model": {"source": model}}
        if isinstance(model, dict):
            raw["model"] = model
        path = tmp_path / "mine.toml"
        path.write_text("\n".join(f"{key} = {_toml(value)}" for key, value in raw.items()))
        suite = resolved(suite_file.load(path), str(tmp_path))
        problem = SuiteProblem(suite, str(tmp_path))
        prepared = user_data.prepare(suite, problem, folder, cache, offline)
        study = Study((suite,), (), (1,), 0, 1, 0, "cpu", folders={"mine": str(tmp_path)})
        preflight_suite(study, suite, prepared)
        return data.load(prepared.folder), problem

    return run


def _toml(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    return msgspec.json.encode(value).decode()


def test_dictionaries_reach_the_network_as_keyword_arguments(tried):
    dataset, problem = tried("mapping")
    pair = dataset.train_inputs, dataset.train_targets
    conversion = Conversion.of(dataset, *pair, torch.device("cpu"))
    batch = Resident(*pair, conversion).take(torch.tensor([3, 1]))
    found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in batch.inputs.items()}
    assert found == {
        "input_ids": (torch.int64, (2, 6)), "attention_mask": (torch.bool, (2, 6)),
        "extra": (torch.float32, (2, 3))}
    assert batch.inputs["input_ids"].tolist() == dataset.train_inputs["input_ids"][[3, 1]].tolist()
    assert problem.network(dataset)(batch.inputs).shape == (2, 2)
    single = stored(dataset.train_inputs[:1])  # its fields lie unaligned, beside each other
    assert single["extra"].tolist() == dataset.train_inputs["extra"][:1].tolist()
    rows = tried("rows")[0]
    assert rows.sha256 == dataset.sha256


def test_tokens_of_16_bits_stay_so_and_are_handed_out_as_they_were():
    tokens = np.array([[0, 40_000], [65_535, 7]], dtype=np.uint16)
    inputs, targets = returned_data.pair((tokens, tokens[:, 0]), "train")
    assert (inputs.dtype, targets.dtype) == (np.uint16, np.int64)  # numbers of classes are not
    split = Resident(inputs, inputs, Conversion(
        inputs, inputs, (0.0,), (1.0,), 1.0, torch.device("cpu")))
    batch = split.take(torch.tensor([1, 0]))
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    assert batch.inputs.tolist() == batch.targets.tolist() == [[65_535, 7], [0, 40_000]]


@pytest.mark.parametrize(("kind", "token"), [
    ("unequal", "length"), ("none", "none"), ("spaced", "argument"), ("nan", "'x'"),
    ("targets", "targets"), ("other names", "test")])
def test_dictionaries_that_cannot_be_used_are_refused(tried, kind, token):
    with pytest.raises(UserError, match=token) as caught:
        tried(kind)
    assert "\n" not in str(caught.value)


def test_a_known_network_takes_no_dictionary(tried):
    with pytest.raises(UserError, match="dictionary"):
        tried("mapping", model={"name": "mlp", "options": {"hidden": [4]}})


@pytest.mark.parametrize("offline", [False, True])
def test_a_source_receives_the_folder_and_whether_it_may_download(tried, tmp_path, offline):
    _, problem = tried("mapping")
    named = msgspec.structs.replace(problem.suite.data, options={"kind": "arguments"})
    suite = msgspec.structs.replace(problem.suite, data=named)
    assert user_data.call(SuiteProblem(suite, str(tmp_path)), tmp_path, offline) == (
        tmp_path,
        offline,
    )


@pytest.mark.parametrize(("kind", "token"), [
    ("unseeded", "two calls"), ("growing", "two calls"), ("empty", "empty"),
    ("iterable", "__getitem__"), ("arrays", "data.stream")])
def test_streams_that_cannot_be_used_are_refused(tried, kind, token):
    with pytest.raises(UserError, match=token) as caught:
        tried(kind, model="mine.py:conv", stream=True)
    assert "\n" not in str(caught.value)


def test_random_transforms_are_for_streams(tried):
    with pytest.raises(UserError, match="stream = true"):
        tried("noisy", model="mine.py:conv")
    dataset, _ = tried("noisy", model="mine.py:conv", stream=True)
    assert dataset.stream.lengths == {"train": 30, "test": 10}
    assert dataset.classes == 3  # as the data set says
    assert dataset.mean == (0.0,) * 3


def test_dictionaries_are_streamed(tried):
    dataset, problem = tried("rows", stream=True)
    rehearse_batch(problem, dataset)
    assert dataset.train_inputs["input_ids"].shape == (30, 6)


@pytest.mark.parametrize(("changes", "token"), [
    ({"workers": 2}, "data.stream"), ({"augment": {"crop": 0}}, "data.augment"),
    ({"augment": {"crop": 8}, "stream": True}, "8x8"), ({"stream": False}, "data.stream"),
    ({"augment": {"turn": 3}}, "turn"), ({"validation": 30, "stream": True}, "validation")])
def test_keys_that_do_not_fit_are_refused(tried, changes, token):
    with pytest.raises(UserError, match=token):
        tried("noisy", model="mine.py:conv", **changes)


def test_only_images_are_augmented(tried):
    with pytest.raises(UserError, match="images"):
        tried("rows", augment={"flip": True})


def write_idx(folder, train, test, packed=False):
    """Writes images and labels as the files of MNIST's kind that torchvision reads."""
    folder.mkdir(parents=True)
    for stem, (images, labels) in (("train", train), ("t10k", test)):
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = bytes([0, 0, 8, array.ndim]) + struct.pack(
                f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
            (folder / f"{stem}-{kind}-ubyte").write_bytes(
                gzip.compress(content) if packed else content)


@pytest.fixture
def fashion(tmp_path):
    """A folder with a tiny Fashion-MNIST: 40 training and 20 test images."""
    rng = np.random.default_rng(0)
    halves = [(rng.integers(0, 256, (n, 28, 28)), np.arange(n) % 10) for n in (40, 20)]
    write_idx(tmp_path / "data" / "FashionMNIST" / "raw", *halves)
    return tmp_path / "data", halves


RESNET = {"source": "torchvision.models:resnet18", "options": {"num_classes": 10}}


def test_a_class_of_torchvision_is_a_source_by_itself(tried, fashion):
    folder, ((images, labels), _) = fashion
    dataset, _ = tried(None, folder, True, RESNET, source="torchvision.datasets:FashionMNIST",
                       options={"channels": 3})
    assert dataset.train_inputs.shape == (40, 3, 28, 28)
    assert np.array_equal(dataset.train_inputs[:, 1], images)
    assert np.array_equal(dataset.train_targets, labels)
    assert len(dataset.test_targets) == 20
    assert dataset.classes == 10


def test_a_class_of_torchvision_is_streamed(tried, fashion):
    folder, ((images, _), _) = fashion
    dataset, _ = tried(None, folder, True, {"name": "cnn-small"},
                       source="torchvision.datasets:FashionMNIST", stream=True)
    assert dataset.stream.lengths == {"train": 40, "test": 20}
    assert dataset.scale == 1 / 255
    assert np.array_equal(dataset.train_inputs[:, 0], images)


@pytest.mark.parametrize(("changes", "token"), [
    ({"options": {"spilt": "x"}}, "spilt"), ({"source": "torchvision.datasets:KMNIST"}, "KMNIST"),
    ({"options": {"channels": 3}, "stream": True}, "channels")])
def test_what_torchvision_cannot_give_is_refused(tried, fashion, changes, token):
    with pytest.raises(UserError, match=token) as caught:
        tried(None, fashion[0], True, RESNET,
              **{"source": "torchvision.datasets:FashionMNIST"} | changes)
    assert "\n" not in str(caught.value)
    assert Path(fashion[0]).is_dir()
