"""1-bit Adam: where it is offered; DeepSpeed's own code over gloo, with NumPy for CuPy."""

import math
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from bench_apts.contract import Batch, World, installed
from bench_apts.optimizers import onebit_adam
from bench_apts.optimizers.schedule import cosine

MODULE = "deepspeed.runtime.fp16.onebit.adam"
HAS_IT = installed(MODULE)
PRELOAD = ["deepspeed"] if HAS_IT else []
RANKS, STEPS, LR = 2, 10, 1e-2
FULL = 2  # steps of the first stage: a fifth


@pytest.mark.parametrize(("absent", "gpus", "tokens"), [
    ({MODULE, "cupy"}, 0, (MODULE, "'deepspeed>=0.19.3,<0.19.7'", "'cupy-cuda13x'", "needs GPUs")),
    ({"cupy"}, 2, ("package cupy is not installed", "'cupy-cuda13x'")),
    (set(), 0, ("needs GPUs",)),
    (set(), 2, ()),
])
def test_what_it_lacks_is_said_with_the_line_that_mends_it(monkeypatch, absent, gpus, tokens):
    monkeypatch.setattr("bench_apts.plugins.backend.installed", lambda name: name not in absent)
    monkeypatch.setattr("bench_apts.plugins.backend.gpu_count", lambda: gpus)
    reason = onebit_adam.backend.unavailable()
    assert (reason is None) is (not tokens)
    assert all(token in reason for token in tokens)
    assert gpus == 0 or reason is None or "GPU" not in reason


def stand_in():
    """Return a module with the functions of CuPy that DeepSpeed calls, of NumPy arrays."""
    cupy = types.ModuleType("cupy")
    cupy.packbits, cupy.unpackbits, cupy.split, cupy.zeros = (
        np.packbits, np.unpackbits, np.split, np.zeros)
    cupy.from_dlpack = lambda capsule: torch.utils.dlpack.from_dlpack(capsule).numpy()
    cupy.cuda = types.SimpleNamespace(
        Device=lambda number: types.SimpleNamespace(use=lambda: None),
        get_current_stream=lambda: types.SimpleNamespace(synchronize=lambda: None))
    return cupy


def batch(rank, step):
    generator = torch.Generator().manual_seed(10 * step + rank)
    return Batch(torch.randn(4, 7, generator=generator), torch.randn(4, 3, generator=generator))


def model():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(7, 3), nn.Linear(3, 3, bias=False))
    made[1].weight.requires_grad_(False)
    return made


def trained(ranks):
    """Weights after each step, traffic by step, and weights after going back three steps."""
    sys.modules["cupy"] = stand_in()
    import deepspeed.comm

    gather = deepspeed.comm.all_gather
    # gloo refuses what NCCL takes: a scalar that is gathered into tensors of one number.
    deepspeed.comm.all_gather = lambda outputs, tensor, **kwargs: gather(
        outputs, tensor.reshape(outputs[0].shape), **kwargs)
    world = World(ranks.rank, ranks.size, torch.device("cpu"), 8, 8 * STEPS)
    stepper = onebit_adam.backend.build(
        model(), nn.functional.mse_loss, onebit_adam.backend.configure({"lr": LR}), world)
    weights, traffic = [], []

    def take(step):
        ranks.meter.phase = f"step {step}"
        stepper.step(batch(ranks.rank, step))
        return torch.cat([p.detach().flatten() for p in stepper.engine.module.parameters()])

    for step in range(STEPS):
        if step == STEPS - 3:
            kept = stepper.state_dict()
        weights.append(take(step).numpy().copy())
        traffic.append({name: (found.calls, found.payload_bytes, bool(found.unmeasured))
                        for name, found in ranks.meter.snapshot()[ranks.meter.phase].items()})
    stepper.load_state_dict(kept)
    again = [take(step).numpy().copy() for step in range(STEPS - 3, STEPS)]
    return weights, traffic, again


@pytest.fixture(scope="module")
def course(on_ranks):
    if not HAS_IT:
        pytest.skip(str(onebit_adam.backend.unavailable()))
    return on_ranks(trained, RANKS)


def test_replicas_are_equal_and_a_state_holds_the_errors_of_both_messages(course):
    for weights, _, again in course:
        np.testing.assert_array_equal(weights, course[0][0])
        np.testing.assert_array_equal(again, weights[-3:])


def test_signs_are_billed_as_bits_and_the_first_stage_as_whole_gradients(course):
    padded = [math.ceil(size / 16) * 16 for size in (21, 3)]  # lcm(8, 2) times 2
    for _, traffic, _ in course:
        assert traffic[:FULL] == [{"all_reduce": (1, 4 * 24, False)}] * FULL
        assert traffic[FULL:] == [{
            "all_to_all": (2, sum(padded) // 8, False),
            "all_gather": (6, sum(padded) // 8 + 2 * 2 * RANKS * 4, False),
        }] * (STEPS - FULL)


def signs(x, error):
    """Signs at the root mean square of numbers and earlier errors, and what is lost."""
    x = x + error
    sent = np.where(x >= 0, 1, -1) * np.linalg.norm(x) / math.sqrt(len(x))
    return sent, x - sent


def test_steps_are_those_of_the_paper(course):
    """Algorithm 1 of arXiv 2102.02888 in float64, one tensor and one chunk of a rank at a time."""
    network = model().double()
    tensors = [p for p in network.parameters() if p.requires_grad]
    m, v = ([np.zeros(p.numel()) for p in tensors] for _ in range(2))
    lost = [np.zeros((RANKS + 1, math.ceil(p.numel() / 16) * 16)) for p in tensors]
    for step in range(STEPS):
        gradients = []
        for rank in range(RANKS):
            network.zero_grad()
            data = batch(rank, step)
            nn.functional.mse_loss(
                network(data.inputs.double()), data.targets.double()).backward()
            gradients.append([p.grad.numpy().flatten() for p in tensors])
        for at, p in enumerate(tensors):
            each = [gradients[rank][at] for rank in range(RANKS)]
            if step < FULL:
                m[at] = 0.9 * m[at] + 0.1 * np.mean(each, 0)
                v[at] = 0.999 * v[at] + 0.001 * np.mean(each, 0)**2
            else:
                sent = []
                for rank in range(RANKS):
                    whole = np.zeros(lost[at].shape[1])
                    whole[:p.numel()] = 0.9 * m[at] + 0.1 * each[rank]
                    found, lost[at][rank] = signs(whole, lost[at][rank])
                    sent.append(found)
                chunks = []
                for mean, before in zip(np.split(np.mean(sent, 0), RANKS),
                                        np.split(lost[at][RANKS], RANKS), strict=True):
                    found, before[:] = signs(mean, before)
                    chunks.append(found)
                m[at] = np.concatenate(chunks)[:p.numel()]
            with torch.no_grad():
                update = LR * cosine(step, STEPS) * m[at] / (np.sqrt(v[at]) + 1e-8)
                p -= torch.from_numpy(update.reshape(p.shape))
        ours = torch.cat([p.detach().flatten() for p in network.parameters()])
        np.testing.assert_allclose(course[0][0][step], ours, rtol=0, atol=2e-5)
