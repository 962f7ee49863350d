"""APTS amid the rest of torch, in both variants: compiled and 16-bit models, groups, copies."""

import copy
import math
import pickle

import pytest
import torch
import torch.distributed as dist
from stochastic_task import Task
from torch import nn

from bench_apts.optimizers.apts import APTS

VARIANTS = {
    "stochastic": {"variant": "stochastic", "samples": 32 * 400, "rounds_per_length": 8},
    "paper": {"variant": "paper", "local_iterations": 2},
}
STEPS = {"stochastic": 150, "paper": 25}

pytestmark = pytest.mark.parametrize("variant", VARIANTS)


def network(batch_norm=False):
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(16)] if batch_norm else []
    return nn.Sequential(nn.Linear(6, 16), *middle, nn.Tanh(), nn.Linear(16, 3))


def data():
    inputs = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
    return inputs, inputs[:, :3].argmax(dim=1)


def closure_of(model, inputs, targets, dtype=torch.float32):
    def closure(backward=True):
        losses = nn.functional.cross_entropy(
            model(inputs.to(dtype)).float(), targets, reduction="none")
        if backward:
            losses.mean().backward()
        return losses.detach()

    return closure


def made(model, variant, params=None, **more):
    return APTS(model.parameters() if params is None else params, buffers=model.buffers(),
                **VARIANTS[variant] | more)


def train(optimizer, closure, steps):
    """First and last loss."""
    losses = [optimizer.step(closure).item() for _ in range(steps)]
    return losses[0], losses[-1]


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


# --- models and closures -------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [
    "aot_eager",
    pytest.param("inductor", marks=[pytest.mark.slow]),
])
def test_a_compiled_model_trains_as_any_other(variant, backend):
    plain, twin = network(), network()
    compiled = torch.compile(twin, backend=backend)
    one, other = made(plain, variant), made(twin, variant)
    try:
        compiled(data()[0])
    except Exception as error:
        if "compiler" not in str(error).lower():
            raise
        pytest.skip(f"no C++ compiler: {type(error).__name__}")
    for _ in range(20):
        one.step(closure_of(plain, *data()))
        other.step(closure_of(compiled, *data()))
    torch.testing.assert_close(flat(twin), flat(plain), rtol=1e-3, atol=1e-5)


def test_autocast_in_the_closure(variant):
    model = network(batch_norm=True)
    plain = closure_of(model, *data())

    def closure(backward=True):
        with torch.autocast("cpu", torch.bfloat16):
            return plain(backward)

    optimizer = made(model, variant)
    first, last = train(optimizer, closure, STEPS[variant])
    assert last < 0.7 * first
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())


def test_a_16_bit_model_has_its_state_in_float32(variant):
    model = network(batch_norm=True).bfloat16()
    optimizer = made(model, variant)
    closure = closure_of(model, *data(), torch.bfloat16)
    first, last = train(optimizer, closure, STEPS[variant])
    assert last < 0.6 * first
    assert all(p.dtype == p.grad.dtype == torch.bfloat16 for p in model.parameters())
    state = optimizer.state_dict()
    tensors = [t for t in torch.utils._pytree.tree_leaves(state) if isinstance(t, torch.Tensor)]
    assert all(t.dtype == torch.float32 for t in tensors if t.numel() >= state["values"].numel())
    # What the model shows are those values, rounded.
    assert torch.equal(flat(model), state["values"].bfloat16())
    assert not torch.equal(flat(model).float(), state["values"])


def test_steps_below_16_bits_add_up(variant):
    """A weight of 1 has a neighbour at 1 − 1/256 in bfloat16; steps of 1e-3 get there."""
    theta = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    small = {"stochastic": {"radius": 1e-3, "judge": False, "schedule": False},
             "paper": {"radius": 2e-3, "max_radius": 2e-3, "local_iterations": 0}}
    optimizer = APTS([theta], **VARIANTS[variant] | small[variant])

    def closure(backward):
        losses = theta.float() * torch.ones(4)
        if backward:
            losses.mean().backward()
        return losses.detach()

    optimizer.step(closure)
    assert (theta == 1).all()
    if variant == "paper":  # which sees no reduction as long as rounding hides it
        assert optimizer.last["accepted"] is False
        return
    for _ in range(31):
        optimizer.step(closure)
    assert (theta.float() - (1 - 0.032)).abs().max() < 1 / 256


def test_a_16_bit_model_goes_on_bit_for_bit_and_hears_of_new_weights(variant):
    straight = network().bfloat16()
    closure, optimizer = closure_of(straight, *data(), torch.bfloat16), made(straight, variant)
    train(optimizer, closure, 13)
    saved = copy.deepcopy((straight.state_dict(), optimizer.state_dict()))
    for order in ((0, 1), (1, 0)):
        resumed = network().bfloat16()
        other = made(resumed, variant)
        for part in order:
            (resumed if part == 0 else other).load_state_dict(saved[part])
        train(other, closure_of(resumed, *data(), torch.bfloat16), 9)
        if order == (0, 1):
            train(optimizer, closure, 9)
        assert torch.equal(flat(straight), flat(resumed))
    with torch.no_grad():
        straight[0].bias[0] = 64.0
    train(optimizer, closure, 1)
    assert abs(straight[0].bias[0].item() - 64) < 8


def test_gradients_may_come_from_several_micro_batches(variant):
    whole, parts = network(), network()
    inputs, targets = data()

    def closure(backward=True):
        losses = []
        for x, y in zip(inputs.split(12), targets.split(12), strict=True):
            part = nn.functional.cross_entropy(parts(x), y, reduction="none")
            if backward:
                (part.sum() / len(inputs)).backward()
            losses.append(part.detach())
        return torch.cat(losses)

    one, other = made(whole, variant), made(parts, variant)
    for _ in range(10):
        expected = one.step(closure_of(whole, inputs, targets))
        torch.testing.assert_close(other.step(closure), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(flat(parts), flat(whole), rtol=1e-3, atol=1e-5)


# --- parameters ----------------------------------------------------------------------------------


def test_frozen_parameters_stay_and_are_not_counted(variant):
    model = network()
    model[0].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(made(model, variant), closure_of(model, *data()), 5)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("0.")
    assert model[0].weight.grad is None


def test_groups_are_one_problem(variant):
    one, grouped = network(), network()
    first, *rest = grouped.named_parameters()
    optimizer = made(grouped, variant, [{"params": [first]}, {"params": rest}])
    assert len(optimizer.param_groups) == 2
    train(made(one, variant), closure_of(one, *data()), 10)
    train(optimizer, closure_of(grouped, *data()), 10)
    assert torch.equal(flat(one), flat(grouped))


def test_groups_have_no_options_but_a_direction_and_none_can_be_added(variant):
    model = network()
    with pytest.raises(ValueError, match="one has lr, weight_decay"):
        made(model, variant, [
            {"params": list(model.parameters()), "weight_decay": 0.1, "lr": 1.0}])
    optimizer = made(model, variant)
    with pytest.raises(RuntimeError, match="cannot be added"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    with pytest.raises(KeyError):
        torch.optim.lr_scheduler.StepLR(optimizer, 1)


def test_an_optimizer_is_not_copied_but_a_model_is(variant):
    model = network()
    optimizer = made(model, variant)
    train(optimizer, closure_of(model, *data()), 3)
    for make in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="state_dict"):
            make(optimizer)
    twin = copy.deepcopy(model)
    before = flat(twin)
    assert torch.equal(before, flat(model))
    train(optimizer, closure_of(model, *data()), 3)
    assert torch.equal(before, flat(twin))


def test_weights_may_be_loaded_after_the_optimizer_is_made(variant):
    model, other = network(), network()
    start = {name: value + 0.1 for name, value in model.state_dict().items()}
    other.load_state_dict(start)
    late, early = made(model, variant), made(other, variant)
    model.load_state_dict(start)
    for _ in range(20):
        late.step(closure_of(model, *data()))
        early.step(closure_of(other, *data()))
    assert torch.equal(flat(model), flat(other))


def test_zero_grad_and_foreign_gradients(variant):
    one, handled = network(), network()
    plain, optimizer = made(one, variant), made(handled, variant)
    for turn in range(9):
        if turn % 3 == 0:
            handled.zero_grad(set_to_none=True)
        elif turn % 3 == 1:
            for p in handled.parameters():
                p.grad = torch.full_like(p, 7.0)
        else:
            optimizer.zero_grad(set_to_none=False)
        plain.step(closure_of(one, *data()))
        optimizer.step(closure_of(handled, *data()))
    assert torch.equal(flat(one), flat(handled))


def test_the_closure_is_not_kept(variant):
    """It holds a minibatch."""
    model = network()
    optimizer = made(model, variant)
    train(optimizer, closure_of(model, *data()), 1)
    with pytest.raises(RuntimeError, match="no closure"):
        optimizer._problem.evaluate(backward=False)


# --- groups of processes -------------------------------------------------------------------------


def grouped(ranks, variant):
    """Two pairs, then four processes each for itself, with unequal shards that are resumed."""
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    more = {k: v for k, v in VARIANTS[variant].items() if k != "variant"}
    task = Task(ranks.rank, group=groups[ranks.rank // 2], variant=variant, **more)
    task.size = 16 + 5 * (ranks.rank % 2)
    for _ in range(21):
        task.step()
    other = Task(ranks.rank, group=groups[ranks.rank // 2], variant=variant, **more)
    other.size = task.size
    other.take_over(task)
    for _ in range(11):  # ends a round
        task.step()
        last = other.step()
    resumed = task.digest() == other.digest()
    outsider = groups[1 - ranks.rank // 2]
    with pytest.raises(ValueError, match="does not belong"):
        Task(ranks.rank, group=outsider, variant=variant, **more)
    alone = [dist.new_group([rank]) for rank in range(ranks.size)][ranks.rank]
    single = Task(0, group=alone, variant=variant, **more)
    calls = sum(single.step()["calls"] for _ in range(10))
    return task.digest(), resumed, last.get("agreed", True), calls, single.digest()


def test_process_groups_keep_to_themselves(on_ranks, variant):
    digests, resumed, agreed, calls, singles = zip(*on_ranks(grouped, 4, variant), strict=True)
    assert digests[0] == digests[1] != digests[2] == digests[3]
    assert all(resumed)
    assert all(agreed)
    assert not any(calls)
    # A process alone in its group trains as one without any group.
    more = {k: v for k, v in VARIANTS[variant].items() if k != "variant"}
    assert not dist.is_initialized()
    single = Task(0, variant=variant, **more)
    for _ in range(10):
        single.step()
    assert set(singles) == {single.digest()}
    assert math.isfinite(single.optimizer.radius)
