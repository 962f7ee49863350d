"""Quantised means: unbiased, bounded, the same bits on all ranks, and bytes by formula."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from storages import Storages

from bench_apts.core.errors import UserError
from bench_apts.optimizers.quantized_layout import BITS
from bench_apts.optimizers.quantized_mean import QuantizedMean, pack, quantize, unpack

PRELOAD = ["bench_apts.optimizers.quantized_mean"]
PACKED = [bits for bits in BITS if bits < 32]
FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


def generator(seed):
    return torch.Generator().manual_seed(seed)


# --- one message --------------------------------------------------------------------------------


@given(st.data(), st.sampled_from(PACKED))
def test_codes_survive_packing(data, bits):
    top = 2 ** (bits - 1) - 1
    codes = torch.tensor(data.draw(st.lists(st.integers(-top, top), min_size=8, max_size=64)))
    codes = codes[: len(codes) // 8 * 8]
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert 8 * len(packed) == bits * len(codes)
    assert torch.equal(unpack(packed, bits).long(), codes)


@given(st.lists(FLOATS, min_size=16, max_size=16), st.sampled_from(PACKED),
       st.none() | st.integers(0, 9))
def test_the_error_of_a_number_is_below_a_step_and_zeros_stay(values, bits, seed):
    blocks = torch.tensor(values).view(2, 8)
    step, codes = quantize(blocks, bits, None if seed is None else generator(seed))
    levels = 2 ** (bits - 1) - 1
    assert (codes.abs() <= levels).all()
    error = (codes.double() * step.double()[:, None] - blocks.double()).abs()
    # x / δ + u is rounded in float32.
    allowed = step.double() * (0.5 if seed is None else 1.0) * (1 + levels * 2e-7)
    assert (error <= allowed[:, None] + 1e-37).all()
    assert (codes[blocks == 0] == 0).all()
    if seed is None and bits < 16:
        assert (error <= blocks.double().abs() * (1 + 1e-5) + 1e-37).all()


@pytest.mark.parametrize("bits", PACKED)
def test_the_mean_of_many_draws_is_the_number(bits):
    values = torch.linspace(-1, 1, 8) ** 3
    draws, draw = 4000, generator(0)
    step, codes = quantize(values.repeat(draws, 1), bits, draw)
    mean = (codes * step[:, None]).mean(dim=0)
    # The standard error of one draw is at most half a step; four of them.
    assert ((mean - values).abs() <= 4 * 0.5 * step[0] / math.sqrt(draws) + 1e-6).all()


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_block_that_is_not_finite_becomes_nan_and_no_other(poison):
    blocks = torch.ones(2, 8)
    blocks[1, 3] = poison
    step, codes = quantize(blocks, 4, generator(0))
    decoded = codes * step[:, None]
    assert (decoded[0] == 1).all()
    assert decoded[1].isnan().all()


@pytest.mark.parametrize("options", [
    {"bits": 5}, {"bits": 4, "block": 12}, {"bits": 4, "block": 0}])
def test_other_widths_and_blocks_are_refused(options):
    with pytest.raises(UserError, match=r"bits=5|block="):
        QuantizedMean(torch.zeros(4), **options)


def test_alone_a_vector_stays_as_it_is():
    vector = torch.randn(10)
    before = vector.clone()
    mean = QuantizedMean(vector, 2, feedback=True)
    mean.average(vector, 0)
    assert torch.equal(vector, before)
    assert mean.layout.payloads == {}


# --- over the ranks -----------------------------------------------------------------------------


def vectors(size, ranks, seed=0):
    """Each rank's vector; numbers of some blocks are much larger than of others."""
    scale = 10.0 ** torch.arange(size).div(16, rounding_mode="floor").remainder(3)
    return [scale * torch.randn(size, generator=generator(100 * seed + rank))
            for rank in range(ranks)]


def everything(ranks):
    found = {}
    for bits in BITS:
        for size in (5, 1000, 70_001):
            mean = QuantizedMean(torch.empty(size), bits, 16, seed=3)
            ranks.meter.phase = f"{bits} {size}"
            mine = vectors(size, ranks.size)[ranks.rank]
            mean.average(mine, 7)
            sent = ranks.meter.snapshot()[ranks.meter.phase]
            again, other = (vectors(size, ranks.size)[ranks.rank] for _ in range(2))
            mean.average(again, 7)
            QuantizedMean(torch.empty(size), bits, 16, seed=3).average(other, 8)
            rolled = vectors(size, ranks.size)[(ranks.rank + 1) % ranks.size]
            mean.average(rolled, 7)
            found[bits, size] = {
                "mean": mine.numpy(), "again": torch.equal(mine, again),
                "other": torch.equal(mine, other), "rolled": rolled.numpy(),
                "sent": {name: (t.calls, t.payload_bytes) for name, t in sent.items()},
                "formula": mean.layout.payloads}
    return found, with_feedback(ranks), poisoned(ranks), memory()


def memory():
    """The peak of what a mean of 2^20 numbers allocates beyond them, and its message's bytes."""
    vector = torch.randn(2**20)
    mean = QuantizedMean(vector, 4)
    with Storages(300_000) as storages:  # a tile of numbers has 262,144 bytes
        mean.average(vector, 0)
    return storages.peak - vector.untyped_storage().nbytes(), mean.layout.payloads["all_gather"]


def with_feedback(ranks):
    """Sums of what was sent and of what should have been, over rounds; and a resumed state."""
    size, rounds = 300, 40
    mean = QuantizedMean(torch.empty(size), 2, 16, feedback=True)
    sent, wanted = torch.zeros(size), torch.zeros(size)
    for number in range(rounds):
        mine = vectors(size, ranks.size, number)
        wanted += torch.stack(mine).mean(0)
        mean.average(mine[ranks.rank], number)
        sent += mine[ranks.rank]
        if number == rounds // 2:
            state = mean.state_dict()
            resumed = QuantizedMean(torch.empty(size), 2, 16, feedback=True)
            resumed.load_state_dict(state)
            total = sent.clone()
        elif number > rounds // 2:
            mine = vectors(size, ranks.size, number)[ranks.rank]
            resumed.average(mine, number)
            total += mine
    return sent.numpy(), wanted.numpy(), torch.equal(sent, total)


def poisoned(ranks):
    """The mean of vectors of which rank 1 holds a NaN, and of the vectors after it."""
    mean = QuantizedMean(torch.empty(64), 4, 16, feedback=True)
    vector = torch.ones(64)
    if ranks.rank == 1:
        vector[40] = math.nan
    mean.average(vector, 0)
    after = torch.ones(64)
    mean.average(after, 1)
    return vector.numpy(), after.numpy()


@pytest.fixture(scope="module")
def ranks(on_ranks):
    return on_ranks(everything, 3)


def test_all_ranks_end_with_the_same_bits_and_repeat_them(ranks):
    for key, one in ranks[0][0].items():
        assert one["again"]
        assert one["other"] == (key[0] == 32)  # of another round
        for other in ranks[1:]:
            assert one["mean"].tobytes() == other[0][key]["mean"].tobytes()


@pytest.mark.parametrize("bits", BITS)
def test_means_are_within_their_bound_in_any_order_of_the_ranks(ranks, bits):
    for size in (5, 1000, 70_001):
        mine = vectors(size, 3)
        exact = torch.stack(mine).double().mean(0).numpy()
        if bits == 32:
            allowed = 1e-6 * np.abs(exact).max()
        else:  # blocks of 16 are those of one order of magnitude but in the middle of a chunk
            largest = max(float(v.abs().max()) for v in mine)
            allowed = (2 / 3 + 1.1) * largest / (2 ** (bits - 1) - 1)
        for way in ("mean", "rolled"):
            assert np.abs(ranks[0][0][bits, size][way] - exact).max() <= allowed


@pytest.mark.parametrize("bits", BITS)
def test_bytes_are_those_of_the_formula(ranks, bits):
    for size in (5, 1000, 70_001):
        chunk = 32 * math.ceil(size / 96)
        steps = 0 if bits == 32 else math.ceil(chunk / 16)
        message = 3 * (chunk * bits // 8 + 4 * steps)
        one = ranks[0][0][bits, size]
        assert one["formula"] == {"all_to_all": message, "all_gather": message}
        assert one["sent"] == dict.fromkeys(one["formula"], (1, message))


def test_feedback_sends_in_the_end_what_was_held_back(ranks):
    for sent, wanted, resumed in (rank[1] for rank in ranks):
        assert resumed
        # Without feedback, errors of 40 rounds of two bits would add up to far more than one's.
        scale = 10.0 ** (np.arange(300) // 16 % 3)
        assert (np.abs(sent - wanted) / scale).max() < 15
        assert np.corrcoef(sent / scale, wanted / scale)[0, 1] > 0.5


def test_beyond_two_messages_only_tiles_are_allocated(ranks):
    for peak, message in (rank[3] for rank in ranks):
        assert peak == 2 * message
        assert message < 0.14 * 4 * 2**20


def test_nan_reaches_all_ranks_and_leaves_no_trace_in_the_errors(ranks):
    for vector, after in (rank[2] for rank in ranks):
        assert np.isnan(vector[32:48]).all()
        assert not np.isnan(vector[:32]).any()
        assert (after == 1).all()
