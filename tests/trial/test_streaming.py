"""Streamed data: the same samples with any number of workers; waiting is billed apart."""

import gc
import itertools
import multiprocessing
import os
import random
from contextlib import contextmanager

import checkpoint_ranks
import msgspec
import numpy as np
import pytest
import torch
from alike import assert_alike
from harness_ranks import run_ranks

from bench_apts.core import store
from bench_apts.core.errors import UserError
from bench_apts.core.job import CheckpointJob, RankJob
from bench_apts.core.spec import Augment
from bench_apts.suites import returned_data
from bench_apts.suites.returned_data import SampleReader
from bench_apts.trial.augmentation import Augmentation
from bench_apts.trial.loader import Conversion, Order, Resident
from bench_apts.trial.trial_data import Streamed

CPU = torch.device("cpu")


class Noisy:
    """Forty samples with noise of every usual generator."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        noise = torch.rand(3) + random.random() + torch.from_numpy(np.random.rand(3))
        return noise.float() + 10 * index, index % 2


class Images(Noisy):
    """Grey images of bytes, as PIL has them."""

    def __getitem__(self, index):
        from PIL import Image

        pixels = np.random.default_rng(index).integers(0, 256, (6, 6), dtype=np.uint8)
        return Image.fromarray(pixels), index


def split(dataset, workers, seed=3, rows=None, augment=None):
    reader = SampleReader(dataset, rows, seed)
    pair = reader[[0, 1]]
    conversion = Conversion(*pair, (0.0,), (1.0,), 1.0, CPU)
    return Streamed(reader, pair, conversion, workers,
                    augment and Augmentation(augment, seed, conversion.black))


def drawn(dataset, workers, ranks=1, steps=9, skip=0, **options):
    """Returns batches of 8 that all ranks together draw, those of each step joined."""
    found = []
    for rank in range(ranks):
        part = split(dataset, workers, **options)
        slices = Order(len(part), 5).slices(8, rank, ranks, numbered=True)
        batches = part.draw(itertools.islice(slices, skip, skip + steps))
        found.append([batch.inputs for batch in batches])
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def test_samples_depend_neither_on_workers_nor_on_ranks_nor_on_a_stop():
    expected = drawn(Noisy(), 0)
    assert len(expected) == 9
    for workers, ranks in ((1, 1), (2, 1), (1, 2), (0, 4)):
        for one, other in zip(expected, drawn(Noisy(), workers, ranks), strict=True):
            assert torch.equal(one, other)
    for one, other in zip(expected[4:], drawn(Noisy(), 2, steps=5, skip=4), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(expected[0], drawn(Noisy(), 0, steps=1, seed=4)[0])


def test_a_sample_changes_from_epoch_to_epoch_only():
    part = split(Noisy(), 0)
    first, again, later = (next(part.draw(iter([torch.tensor(draws)]))).inputs
                           for draws in ([7, 8], [8, 7], [47, 48]))
    assert torch.equal(first, again.flip(0))
    assert (first // 10).tolist() == (later // 10).tolist()
    assert not torch.equal(first, later)
    assert torch.equal(part.take(torch.tensor([7, 8])).inputs, first)


def test_the_rows_are_those_that_train_and_keep_their_noise():
    rows = np.array([30, 4, 9])
    some, every = split(Noisy(), 0, rows=rows), split(Noisy(), 0)
    assert len(some) == 3
    assert torch.equal(some.take(torch.arange(3)).inputs,
                       every.take(torch.tensor(rows)).inputs)


@pytest.mark.parametrize("workers", [0, 2])
def test_generators_of_the_training_stay_as_they_were(workers):
    def following():
        return torch.rand(2).tolist(), random.random(), np.random.rand()

    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    expected = following()
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    drawn(Noisy(), workers, steps=3)
    list(split(Noisy(), workers).sweep([torch.arange(4)]))
    assert following() == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_an_evaluation_reads_every_sample_each_time(workers):
    part = split(Noisy(), workers)
    chunks = list(torch.tensor_split(torch.arange(40), 7))
    one, other = ([batch.inputs for batch in part.sweep(iter(chunks))] for _ in range(2))
    assert (torch.cat(one)[:, 0] // 10).tolist() == list(range(40))
    assert torch.equal(torch.cat(one), torch.cat(other))
    assert torch.equal(torch.cat(one), part.take(torch.arange(40)).inputs)


class Places(Noisy):
    """Samples whose targets are the processes that read them."""

    def __getitem__(self, index):
        return super().__getitem__(index)[0], os.getpid()


def test_workers_live_as_long_as_the_training_and_those_of_evaluations_too():
    part = split(Places(), 1)

    def evaluated():
        return {int(pid) for batch in part.sweep([torch.arange(9)]) for pid in batch.targets}

    epochs = part.draw(itertools.islice(Order(40, 5).slices(8, 0, 1, numbered=True), 15))
    training = {int(pid) for batch in epochs for pid in batch.targets}
    first = evaluated()
    assert len(training) == len(first) == 1
    assert training.isdisjoint({os.getpid(), *first})
    assert evaluated() == first != {os.getpid()}


def test_images_are_augmented_as_resident_ones_are():
    images = np.stack([np.asarray(Images()[index][0])[None] for index in range(40)])
    augment = Augment(crop=2, flip=True, cutout=2)
    pair = images, np.arange(40)
    conversion = Conversion(*pair, (0.0,), (1.0,), 1.0, CPU)
    resident = Resident(*pair, conversion, Augmentation(augment, 3, conversion.black))
    draws = list(itertools.islice(Order(40, 5).slices(8, 0, 1, numbered=True), 9))
    for one, other in zip(resident.draw(iter(draws)),
                          split(Images(), 1, augment=augment).draw(iter(draws)), strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)


@pytest.mark.parametrize("workers", [0, 1])
def test_all_waiting_is_billed_aside(workers):
    inside, entered = [], 0

    @contextmanager
    def waiting():
        nonlocal entered
        entered += 1
        inside.append(True)
        yield
        inside.pop()

    class Watched(Noisy):
        def __getitem__(self, index):
            assert workers or inside, "read in this process outside of it"
            return super().__getitem__(index)

    reader = SampleReader(Watched())
    inside.append(True)
    pair = reader[[0, 1]]
    inside.pop()
    part = Streamed(reader, pair, Conversion(*pair, (0.0,), (1.0,), 1.0, CPU), workers)
    batches = part.draw(iter([torch.arange(4)] * 5), waiting)
    assert len([batch for batch in batches if not inside]) == 5
    assert entered >= 5


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_read_is_named(workers):
    class Broken(Noisy):
        def __getitem__(self, index):
            if index == 20:
                raise ZeroDivisionError
            return super().__getitem__(index)

    with pytest.raises(UserError, match="sample 20 cannot be read: ZeroDivisionError") as caught:
        drawn(Broken(), workers)
    assert "\n" not in str(caught.value)
    del caught
    gc.collect()  # its traceback holds the worker, which would outlive the next one's


class Shifted(Noisy):
    """The last sample is another one."""

    def __getitem__(self, index):
        inputs, target = super().__getitem__(index)
        return inputs + (index == 39), target


class Longer(Noisy):
    def __len__(self):
        return 41


@pytest.mark.parametrize(("other", "alike"), [(Noisy, True), (Shifted, False), (Longer, False)])
def test_a_rank_compares_what_it_gets_with_what_was_prepared(other, alike):
    found = {"train": Noisy(), "test": Noisy()}
    kept = returned_data.examples(found, "data")
    now = {"train": Noisy(), "test": other()}
    if alike:
        returned_data.require_unchanged(now, {"train": 40, "test": 40}, kept, "data")
        return
    with pytest.raises(UserError, match="rank"):
        returned_data.require_unchanged(now, {"train": 40, "test": 40}, kept, "data")


def test_examples_lie_evenly_and_their_fingerprint_knows_the_length():
    assert returned_data.places(3) == [0, 1, 2]
    assert returned_data.places(1_000)[::21] == [0, 333, 666, 999]
    kept = {
        f"{part}_{name}": array
        for part in ("train", "test")
        for name, array in zip(("inputs", "targets"), SampleReader(Noisy())[[0, 39]], strict=True)
    }
    assert (returned_data.fingerprint(kept, {"train": 40, "test": 40})
            != returned_data.fingerprint(kept, {"train": 41, "test": 40}))


SUITE = """
name = "noisy"
summary = ""
batch_size = 8
data = { source = "noisy.py:splits", validation = 10, stream = true, workers = 1 }
model = { source = "noisy.py:net" }
task = { name = "classification" }
budget = { samples = 160, seconds = 60 }
evaluation = { every_samples = 80 }
[target]
metric = "accuracy"
direction = "max"
value = 0.9
provenance = { optimizer = "none", trials = 0, seeds = 0 }
"""
CODE = """
import torch
from torch import nn

class Noisy:
    def __len__(self):
        return 50
    def __getitem__(self, index):
        return torch.rand(3) + index % 2, index % 2

def splits():
    return Noisy(), Noisy()

def net():
    return nn.Linear(3, 2)
"""


def stop_and_go(connect, job, steps):
    """Runs or resumes a trial in a rank that may have children."""
    multiprocessing.current_process()._config["daemon"] = False
    return checkpoint_ranks.train(connect, job, steps, fail=False)


@pytest.mark.slow
def test_a_trial_goes_on_bit_for_bit_with_other_workers(tmp_path, cache, monkeypatch):
    from bench_apts.study import resolve
    from bench_apts.study.plan import Plan
    from bench_apts.study.preflight import prepare_data

    monkeypatch.setenv("BENCH_APTS_CACHE", str(cache))
    (tmp_path / "noisy.py").write_text(CODE, encoding="utf-8")
    (tmp_path / "noisy.toml").write_text(SUITE, encoding="utf-8")
    study, _ = resolve.resolve_study([str(tmp_path / "noisy.toml")], (), "2", "sgd", trials=0,
                                     seeds=1, base_seed=0, twins=False)
    assert study.workers == {"noisy": 1}
    assert study.suites[0].data.workers is msgspec.UNSET
    prepared = prepare_data(study, None, offline=True)
    (trial,) = Plan(study, prepared).reporting([])

    def run(name, workers, steps=None, resume=None):
        events = tmp_path / name / f"{trial.run_id}.jsonl"
        events.parent.mkdir(exist_ok=True)
        store.append(events, store.Header(
            trial.run_id, store.now(), trial, {}, resumed=resume))
        saving = CheckpointJob(str(tmp_path / name / "checkpoint"), resume=resume)
        job = RankJob(trial, str(prepared["noisy"].folder), str(events), saving=saving,
                  folder=str(tmp_path), workers=workers)
        assert len(set(run_ranks(stop_and_go, 2, msgspec.json.encode(job), steps))) == 1
        return store.read_trial(events)

    plain = run("plain", 0)
    assert plain.end.ledger["data_s"] > 0
    assert abs(sum(plain.end.ledger.values()) - plain.end.wall_s) < 1e-6
    assert [e.validation["accuracy"] * 10 % 1 for e in plain.evals] == pytest.approx([0] * 3)
    run("stopped", 2, steps=7)
    assert_alike(plain, run("stopped", 1, resume=56))
