"""APTS-S: what it equals in its limits, what it sends, what it restores, where it agrees."""

import copy
import io
import itertools
import math

import pytest
import torch
import torch.distributed as dist
from stochastic_task import Task
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bench_apts.optimizers.apts import APTS

FIXED = {"radius": 0.01, "judge": False, "schedule": False, "longest_round": 1, "bits": 32}


def beside_adam(ours, theirs, steps, wrap=lambda model: model):
    """Steps ``ours``, and torch's Adam on the batches of ``theirs``; returns Adam's weights."""
    model = wrap(copy.deepcopy(theirs.model))
    reference = torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.9, 0.99))
    for _ in range(steps):
        ours.step()
        inputs, targets = theirs.batch()
        reference.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        reference.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_one_rank_with_a_fixed_radius_and_no_judgement_is_adam():
    ours = Task(**FIXED)
    expected = beside_adam(ours, Task(**FIXED), steps=50)
    torch.testing.assert_close(ours.weights(), expected, rtol=1e-5, atol=1e-6)


def against_ddp(rank):
    ours = Task(rank.rank, **FIXED)
    expected = beside_adam(ours, Task(rank.rank, **FIXED), 30, DistributedDataParallel)
    return float((ours.weights() - expected).abs().max())


@pytest.mark.parametrize("size", [2, 4])
def test_rounds_of_one_step_are_data_parallel_adam(on_ranks, size):
    assert max(on_ranks(against_ddp, size)) < 1e-5


def walk(rank, steps, batch_norm, settings):
    task = Task(rank.rank, batch_norm=batch_norm, **settings)
    rank.meter.phase = "train"
    rows = []
    for _ in range(steps):
        last = task.step()
        assert ("overshoot" in last) == last["agreed"]
        rows.append((last["agreed"], task.digest() if last["agreed"] else None, last["floats"],
                     last["calls"], "actual_reduction" in last, last["forwards"],
                     last["backwards"], last["bytes"]))
    traffic = rank.meter.snapshot()["train"]
    return task.n, rows, {name: (t.calls, t.payload_bytes) for name, t in traffic.items()}


def test_ranks_are_equal_wherever_they_agree_and_send_what_the_table_says(on_ranks):
    results = on_ranks(walk, 2, 200, False, {
        "rounds_per_length": 4, "longest_round": 8, "bits": 32, "test_interval": 8})
    n, first, traffic = results[0]
    assert [row[:2] for row in first] == [row[:2] for row in results[1][1]]
    agreed = [row for row in first if row[0]]
    # Before the first round, and never again, ranks tell each other how many samples they have.
    assert agreed[0][2:4] == (n + 3 + 2 + 2, 2)
    assert all(row[3] == 1 and row[2] == n + 3 + 6 * row[4] for row in agreed[1:])
    assert all(row[2:4] == (0, 0) for row in first if not row[0])
    assert any(row[4] for row in agreed)
    assert all(row[6] == 1 for row in first)
    assert sum(row[5] for row in first) >= 200 + sum(row[4] for row in first)
    # Lengths 1, 2, 4, 8: four rounds each of the first three, then rounds of 8 to the end.
    assert [i + 1 for i, row in enumerate(first) if row[0]][:13] == [
        1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 28, 36]
    # The harness's own meter saw the same; those four numbers are in double precision.
    assert traffic == {
        "all_reduce": (len(agreed) + 1, 4 * (sum(row[2] for row in agreed) + 4))}


def message(n, bits, scalars=0):
    """Bytes of a message between two ranks: codes, a float for each block of 16, scalars."""
    chunk = 32 * math.ceil(n / 64)
    return 2 * (chunk * bits // 8 + 4 * math.ceil(chunk / 16) + 4 * scalars)


def test_rounds_in_few_bits_agree_and_send_what_the_formula_says(on_ranks):
    results = on_ranks(walk, 2, 120, True, {"rounds_per_length": 4, "block": 16})
    n, first, traffic = results[0]
    assert [row[:2] for row in first] == [row[:2] for row in results[1][1]]
    agreed = [row for row in first if row[0]]
    assert {row[4] for row in agreed} == {True, False}
    statistics = 4 * 16  # mean and variance of eight features, as they are
    expected = []
    for number, row in enumerate(agreed):
        bits, scalars = 8 if number < 4 else 4, 10 if row[4] else 4
        expected.append((message(n, bits), message(n, bits, scalars)))
        counts = 8 * 4 * (number == 0)  # before the first round, in double precision
        assert row[7] == sum(expected[-1]) + statistics + counts
        assert row[2:4] == (16 + 4 * (number == 0), 3 + (number == 0))
    assert traffic == {
        "all_to_all": (len(agreed), sum(there for there, _ in expected)),
        "all_gather": (len(agreed), sum(back for _, back in expected)),
        "all_reduce": (len(agreed) + 1, len(agreed) * statistics + 32)}


def resumed(rank, cut):
    settings = {"rounds_per_length": 4, "batch_norm": True, "samples": 16 * 150}
    straight, other = (Task(rank.rank, **settings) for _ in range(2))
    for _ in range(cut):
        straight.step()
    other.take_over(straight)
    lasts = [(straight.step(), other.step()) for _ in range(40)]
    # A new one asks for counts of samples once more.
    same = all(one[name] == two[name] for one, two in lasts for name in one
               if name not in ("floats", "calls", "bytes"))
    return same, straight.digest() == other.digest()


def test_ranks_go_on_bit_for_bit_from_a_saved_state(on_ranks):
    assert on_ranks(resumed, 2, 26) == [(True, True)] * 2  # within a round of four


def old(rank, settings):
    task = Task(rank.rank, samples=16 * 420, batch_norm=True, **settings)
    rows = [task.step() for _ in range(400)]
    radii = {step: row["radius"] for step, row in enumerate(rows) if "accepted" in row}
    return radii, sum(row["calls"] for row in rows), task.digest(), float(task.weights().norm())


def test_the_preset_of_november_2026_takes_the_course_that_it_took_then(on_ranks):
    (radii, calls, digest, norm), other = on_ranks(old, 2, {"preset": "2026-11"})
    assert other[:3] == (radii, calls, digest)
    # Of the code of 2026-11-30, before messages had fewer bits.
    known = {8: 0.016, 17: 0.064, 21: 0.032, 87: 0.048114920193161666, 159: 0.046260845060164646,
             175: 0.023130422530082323, 399: 0.023130422530082323}
    assert (len(radii), calls) == (40, 75)
    assert [radii[step] for step in known] == pytest.approx(list(known.values()), rel=1e-9)
    assert norm == pytest.approx(6.7646307945251465, rel=1e-4)
    settings = {"bits": 32, "longest_round": 16, "search": "bracket", "start": 1e-3}
    assert on_ranks(old, 2, settings)[0][2] == digest


def test_batch_norm_statistics_agree_with_the_weights(on_ranks):
    results = on_ranks(walk, 2, 100, True, {"rounds_per_length": 4})
    digests = [[row[1] for row in rows] for _, rows, _ in results]
    assert digests[0] == digests[1]


def test_a_single_process_sends_nothing_and_learns():
    assert not dist.is_initialized()
    task = Task(samples=16 * 600)
    inputs, targets = task.batch()

    def loss():
        with torch.no_grad():
            return float(nn.functional.cross_entropy(task.model(inputs), targets))

    before = loss()
    rows = [task.step() for _ in range(600)]
    assert all(row["floats"] == row["calls"] == 0 for row in rows)
    assert all(1e-7 <= row["radius"] <= 1 for row in rows)
    assert loss() < 0.3 * before


def spoilt(rank, size):
    task = Task(rank.rank, batch_norm=True)
    while "accepted" not in (last := task.step()) or not last["accepted"]:
        pass
    # From the second round after an accepted test on, everything is thrown away again.
    kept = task.optimizer.state_dict()["apts"]
    anchor, buffers = kept["anchor"], kept["anchor_buffers"]
    if rank.rank == size - 1:
        task.disturb = lambda backward, losses: losses * math.nan
    while "accepted" not in (last := task.step()):
        pass
    same = torch.equal(task.weights(), anchor) and all(
        torch.equal(a, b) for a, b in zip(task.model.buffers(), buffers, strict=True))
    state = task.optimizer.state_dict()["apts"]
    task.disturb = lambda backward, losses: losses
    for _ in range(20):
        task.step()
    finite = bool(torch.isfinite(task.weights()).all())
    return (last["accepted"], same, state["search"]["rejected"] >= 0,
            bool((state["moments"]["first"] == 0).all()), finite)


@pytest.mark.parametrize("size", [1, 2])
def test_a_loss_that_is_not_finite_on_one_rank_sends_all_back_bit_for_bit(on_ranks, size):
    for accepted, same, shortened, cleared, finite in on_ranks(spoilt, size, size):
        assert not accepted
        assert same
        assert shortened
        assert cleared
        assert finite


@pytest.mark.parametrize("cut", [1, 17, 40, 77])
def test_training_goes_on_bit_for_bit_from_a_saved_state(cut):
    settings = {"rounds_per_length": 4, "batch_norm": True, "samples": 16 * 150}
    straight = Task(**settings)
    for _ in range(cut):
        straight.step()
    buffer = io.BytesIO()
    torch.save({"model": straight.model.state_dict(),
                "optimizer": straight.optimizer.state_dict(),
                "data": straight.generator.get_state()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    resumed = Task(**settings)
    resumed.model.load_state_dict(saved["model"])
    resumed.optimizer.load_state_dict(saved["optimizer"])
    resumed.generator.set_state(saved["data"])
    for _ in range(60):
        assert straight.step() == resumed.step()
    assert straight.digest() == resumed.digest()


def test_steps_have_full_length_over_half_of_the_budget_and_end_at_zero():
    task = Task(samples=16 * 40, judge=False, radius=0.01, longest_round=1)
    plain = Task(samples=16 * 40, **FIXED)
    for _ in range(20):
        task.step()
        plain.step()
    assert task.digest() == plain.digest()
    for _ in range(20):
        task.step()
    before = task.weights()
    task.step()
    assert torch.equal(task.weights(), before)


def test_without_a_budget_steps_keep_their_length_until_finish():
    task = Task(samples=None, judge=False, radius=0.01, longest_round=1)
    plain = Task(**FIXED)
    for _ in range(60):
        task.step()
        plain.step()
    assert task.digest() == plain.digest()
    task.optimizer.finish(16 * 20)
    lengths = []
    for _ in range(20):
        lengths.append(task.optimizer._method._factor())
        task.step()
    assert lengths == pytest.approx([1 - step / 20 for step in range(20)])
    before = task.weights()
    task.step()
    assert torch.equal(task.weights(), before)


def finishing(rank):
    """A training without a budget whose end is announced in a round, and one resumed after it."""
    straight, other = (Task(rank.rank, samples=None, rounds_per_length=4) for _ in range(2))
    intervals = []
    for step in range(300):
        if "actual_reduction" in straight.step():
            intervals.append(step)
    straight.optimizer.finish(16 * 40)
    straight.step()
    other.take_over(straight)
    for _ in range(45):
        straight.step()
        other.step()
    return intervals, straight.digest(), straight.digest() == other.digest()


def test_ranks_finish_together_and_resume_on_the_way(on_ranks):
    (intervals, digest, same), other = on_ranks(finishing, 2)
    assert same
    assert other == (intervals, digest, same)
    gaps = [late - early for early, late in itertools.pairwise(intervals)]
    assert min(gaps) >= 4
    assert gaps[-1] == 32


def test_finish_is_refused_where_it_means_nothing():
    with pytest.raises(ValueError, match="samples"):
        Task().optimizer.finish(0)
    with pytest.raises(TypeError, match="stochastic"):
        Task(variant="paper").optimizer.finish(100)


@pytest.mark.parametrize(("settings", "said"), [
    ({"samples": 0}, "samples"),
    ({"radius": -1.0}, "radius"),
    ({"longest_round": 3}, "power of 2"),
    ({"start": 2.0}, "start must lie"),
    ({"search": "best"}, "search must be one of"),
    ({"sharing": 1.5}, "between 0 and 1"),
    ({"rounds_per_length": 0}, "at least 1"),
    ({"bits": 5}, "bits must be one of"),
    ({"block": 12}, "multiple of 8"),
    ({"test_interval": -1}, "at least 0"),
    ({"preset": "2025"}, "preset must be one of"),
])
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Task(**settings)
    with pytest.raises(ValueError, match="variant"):
        APTS([nn.Parameter(torch.ones(2))], variant="best")
    with pytest.raises(TypeError):
        Task(learning_rate=0.1)


def crowd(rank, variant):
    settings = {"rounds_per_length": 4, "samples": 16 * 60} if variant == "stochastic" else {}
    task = Task(rank.rank, batch_norm=True, variant=variant, **settings)
    digests = [task.digest() for _ in range(30) if task.step().get("agreed", True)]
    return digests, bool(torch.isfinite(task.weights()).all())


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["stochastic", "paper"])
def test_sixteen_ranks_agree(on_ranks, variant):
    first, *others = on_ranks(crowd, 16, variant)
    assert len(first[0]) > 10
    assert first[1]
    assert all(other == first for other in others)
