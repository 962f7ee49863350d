"""What a collective sends, as arithmetic; tests/meters/test_meters_audit.py asks the kernel."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.core.wire import (
    COLLECTIVES,
    Call,
    gloo_bytes,
    ideal_bytes,
    payload_bytes,
    uncertainty,
)

FLOATS = partial(Call, dtype=torch.float32)
KINDS = st.sampled_from(sorted(set(COLLECTIVES.values()) - {"send"}))


@given(KINDS, st.integers(0, 2**40), st.integers(1, 4096))
def test_ideal_bytes_are_bounded_and_nothing_alone(collective, payload, ranks):
    assert 0 <= ideal_bytes(collective, payload, ranks) <= 2 * payload
    assert ideal_bytes(collective, payload, 1) == 0


def test_unknown_operations_are_counted_by_their_larger_side():
    assert payload_bytes("novelty", [12], [12, 12], 2) == 24
    assert payload_bytes("novelty", [], [], 2) == 0


# Read off the kernel's counters, torch 2.15, N = 2 and N = 4: 12 floats unless it says otherwise.
@pytest.mark.parametrize(("call", "two", "four"), [
    (FLOATS("ALLREDUCE", inputs=(48,)), [624, 624], [1424, 1216, 1312, 1520]),
    (FLOATS("ALLREDUCE", inputs=(40,)), [616, 616], [1120, 960, 1160, 1320]),
    (FLOATS("ALLREDUCE"), [0, 0], [0, 0, 0, 0]),
    (FLOATS("REDUCE", 1, inputs=(48,)), [432, 360], [720, 704, 816, 816]),
    (FLOATS("BROADCAST", 1, inputs=(48,)), [48, 144], [48, 288, 192, 48]),
    (FLOATS("BROADCAST", 0, inputs=(0,)), [96, 48], [192, 144, 48, 48]),
    (FLOATS("ALLGATHER", inputs=(48,)), [336, 336], [1008, 1008, 1008, 1008]),
    (FLOATS("GATHER", 0, inputs=(48,)), [48, 144], [144, 144, 144, 144]),
    (FLOATS("BARRIER"), [144, 144], [288, 288, 288, 288]),
])
def test_gloo_sends_what_the_kernel_saw(call, two, four):
    assert [gloo_bytes(call, rank, 2) for rank in range(2)] == two
    assert [gloo_bytes(call, rank, 4) for rank in range(4)] == four


@given(st.integers(1, 10**7), st.integers(2, 9),
       st.sampled_from([torch.uint8, torch.bfloat16, torch.float32, torch.float64]))
def test_a_ring_all_reduce_moves_twice_the_tensor_but_for_headers(elements, ranks, dtype):
    size = elements * dtype.itemsize
    call = Call("ALLREDUCE", dtype=dtype, inputs=(size,))
    sent = sum(gloo_bytes(call, rank, ranks) for rank in range(ranks))
    assert (sent - 2 * (ranks - 1) * size) % (3 * 48) == 0
    assert sent >= ranks * ideal_bytes("all_reduce", size, ranks)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=6).filter(any), st.data())
def test_an_uneven_all_to_all_is_within_its_uncertainty(splits, data):
    ranks = len(splits)
    rank = data.draw(st.integers(0, ranks - 1))
    inputs = (4 * sum(splits),)
    exact = FLOATS("ALLTOALL_BASE", inputs=inputs, splits=tuple(splits))
    assert gloo_bytes(exact, rank, ranks) == (
        (ranks - 1) * 3 * 48 + 4 * (sum(splits) - splits[rank]))
    assert uncertainty(exact, ranks) == 0
    guess = exact._replace(splits=(), outputs=(4,))
    error = gloo_bytes(exact, rank, ranks) - gloo_bytes(guess, rank, ranks)
    assert abs(error) <= uncertainty(guess, ranks) == inputs[0] or inputs == (4,)
