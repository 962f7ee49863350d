"""Micro-batches: losses, gradients and bytes of the whole batch, wherever it is cut."""

import copy
import functools

import numpy as np
import pytest
import torch
from harness_ranks import run_ranks
from hypothesis import given, settings
from hypothesis import strategies as st
from mechanics_models import Slope, batchnorm
from micro_ranks import BATCH, course
from torch import nn
from torch.utils._pytree import tree_leaves

from bench_apts.contract import Batch
from bench_apts.core.errors import UserError
from bench_apts.plugins import micro_batches
from bench_apts.tasks.loss_module import trained

ZERO = ["zero1", "zero2", "zero3"]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ZERO]


@given(samples=st.integers(1, 60), most=st.integers(0, 70))
def test_parts_hold_every_sample_once_and_no_more_than_allowed(samples, most):
    whole = Batch(torch.arange(samples), torch.arange(samples))
    batch = Batch(whole, whole.targets)  # as tasks with losses of their own get it
    parts = micro_batches.parts(batch, most)
    sizes = [len(part.targets) for part, _ in parts]
    assert len(parts) == micro_batches.count(samples, most)
    assert max(sizes) <= (most or samples)
    assert max(sizes) - min(sizes) <= 1
    assert sum(share for _, share in parts) == pytest.approx(1)
    assert torch.equal(torch.cat([part.inputs.inputs for part, _ in parts]), whole.inputs)
    for (part, share), size in zip(parts, sizes, strict=True):
        assert share == size / samples
        assert torch.equal(part.inputs.targets, part.targets)


def instrumented(model, most):
    """A copy of a model that cuts its batches, and how many samples pass at once."""
    seen, model = [], copy.deepcopy(model)

    def forward(self, *inputs, **named):
        seen.append(len(tree_leaves(inputs)[0]))
        return type(model).forward(self, *inputs, **named)

    chunked = micro_batches.Chunked(forward, most)
    model.forward = lambda *inputs, **named: chunked(model, *inputs, **named)
    return model, seen


@settings(max_examples=20)
@given(samples=st.integers(2, 20), most=st.integers(1, 20), seed=st.integers(0, 99))
def test_a_model_that_cuts_gives_outputs_and_gradients_of_the_whole_batch(samples, most, seed):
    torch.manual_seed(seed)
    whole = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    cut, seen = instrumented(whole, most)
    inputs = torch.randn(samples, 5, dtype=torch.float64)
    weights = torch.rand(samples, 1)  # of each sample, as only the whole's user knows them
    for model in (whole, cut):
        (weights * model(inputs).square()).mean().backward()
    assert max(seen) <= most
    assert sum(seen) == samples * (1 + (most < samples))
    for one, other in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_model_that_cuts_draws_and_counts_each_sample_once():
    torch.manual_seed(0)
    model = nn.Sequential(*batchnorm()[:3], nn.Dropout(0.5), nn.Linear(32, 2))
    cut, _ = instrumented(model, 6)
    masks = []
    cut[3].register_forward_hook(lambda module, inputs, output: masks.append(output != 0))
    output = cut(torch.randn(12, 64))
    norm = cut[1]
    kept = norm.running_mean.clone()
    output.sum().backward()
    assert norm.num_batches_tracked == 2
    assert torch.equal(norm.running_mean, kept)
    first, second, *again = masks
    assert not torch.equal(first, second)
    assert all(any(torch.equal(mask, drawn) for drawn in (first, second)) for mask in again)
    assert len(again) == 2


def test_losses_that_differentiate_the_network_are_cut_too():
    torch.manual_seed(0)
    whole, loss = trained(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)), Slope())
    cut, seen = instrumented(whole, 4)
    batch = Batch(torch.randn(10, 3), torch.zeros(10))
    seen.clear()
    for model in (whole, cut):
        loss(model(batch), batch.targets).backward()
    assert max(seen) == 4
    for one, other in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_an_output_without_samples_first_is_refused():
    model, _ = instrumented(nn.Linear(2, 1), 2)
    model.forward = lambda inputs: micro_batches.Chunked(lambda self, x: x.sum(), 2)(model, inputs)
    with pytest.raises(UserError, match="micro_batch"):
        model(torch.zeros(5, 2))


ONCE = ["sgd", "adam", "nadamw", "schedule-free", "prodigy", "local-adam", "apts", "apts-paper"]


@pytest.fixture(scope="module")
def courses():
    """By backend: courses of both ranks without micro-batches and with them."""
    @functools.cache
    def run(names):
        return run_ranks(course, 2, names)

    def of(name):
        if name not in ZERO:
            return [rank[name] for rank in run((*ONCE, "lbfgs"))]
        pytest.importorskip("deepspeed")
        return [rank[name] for rank in run((name,))]

    return of


@pytest.mark.parametrize("name", [*ONCE, "lbfgs", *SLOW])
def test_the_course_is_that_of_the_whole_batch(courses, name):
    for whole, cut in courses(name):
        np.testing.assert_allclose(whole["losses"], cut["losses"], rtol=1e-4)
        np.testing.assert_allclose(whole["outputs"], cut["outputs"], rtol=1e-3, atol=1e-4)
        for one, other in zip(whole["reports"], cut["reports"], strict=True):
            samples, forwards, backwards = one
            parts = micro_batches.count(BATCH // 2, 5)
            assert parts == 4
            assert other == (samples, forwards * parts, backwards * parts)


@pytest.mark.parametrize("name", [*ONCE, "lbfgs", SLOW[0]])
def test_a_step_sends_what_it_sends_without_micro_batches(courses, name):
    for whole, cut in courses(name):
        assert whole["traffic"] == cut["traffic"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "collective"), [
    ("zero2", "all_reduce"), ("zero3", "reduce_scatter")])
def test_deepspeed_sends_partitioned_gradients_for_each_micro_batch(courses, name, collective):
    for whole, cut in courses(name):
        calls, sent = whole["traffic"][-1][collective]
        more_calls, more = cut["traffic"][-1][collective]
        gradient = sent - (4 if name == "zero2" else 0)  # and a flag
        assert more - sent == 3 * gradient
        assert more_calls - calls == 3
