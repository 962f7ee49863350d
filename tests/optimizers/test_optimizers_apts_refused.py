"""What APTS cannot train or use: refused in one line that says what to do instead."""

import pytest
import torch
from swap_task import APTS_VARIANTS, MAKE, Training
from torch import nn

from bench_apts.optimizers.apts import APTS

both = pytest.mark.parametrize("variant", APTS_VARIANTS)


# --- refused at construction ---------------------------------------------------------------------


REFUSED = {
    "complex": (lambda: [nn.Parameter(torch.ones(2, dtype=torch.complex64))], "view_as_real"),
    "a complex one among others": (
        lambda: [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.cfloat))],
        "view_as_real"),
    "mixed dtypes": (
        lambda: [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2).double())],
        "same dtype and device"),
    "meta": (lambda: nn.Linear(2, 2, device="meta").parameters(), "meta device"),
    "expanded": (lambda: [nn.Parameter(torch.ones(1).expand(4))], "clone"),
    "tied by data": (lambda: [(one := nn.Parameter(torch.ones(3))), nn.Parameter(one.data)],
                     "share memory"),
    "float8": (lambda: [nn.Parameter(torch.ones(2).to(torch.float8_e4m3fn))], "16, 32 or 64"),
    "sparse": (lambda: [nn.Parameter(torch.eye(3).to_sparse())], "dense"),
    "lazy": (lambda: nn.LazyLinear(2).parameters(), "forward pass"),
    "none": (list, "empty parameter list"),
    "integers alone": (
        lambda: [nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)],
        "requires a gradient"),
}


@pytest.mark.parametrize(("parameters", "message"), REFUSED.values(), ids=REFUSED)
@both
def test_parameters_that_cannot_be_trained_are_refused_in_one_line(variant, parameters, message):
    more = {"samples": 100} if variant == "stochastic" else {}
    with pytest.raises(ValueError, match=message) as caught:
        APTS(parameters(), variant=variant, **more)
    assert "\n" not in str(caught.value)


@both
def test_integer_and_boolean_parameters_and_empty_ones_are_left_alone(variant):
    model = Training("sgd").model
    frozen = [nn.Parameter(torch.ones(2, dtype=dtype), requires_grad=False)
              for dtype in (torch.int64, torch.bool, torch.complex64)]
    training = Training(variant)
    parameters = [*frozen, *training.model.parameters(), nn.Parameter(torch.empty(0, 3))]
    training.optimizer = APTS(parameters, variant=variant, buffers=model.buffers,
                              **{"samples": 9600} if variant != "paper" else {})
    losses = training.steps(24)
    assert losses[-1] < 0.8 * losses[0]
    assert all((p == 1).all() for p in frozen)


@pytest.mark.parametrize("clears", [False, True])
@both
def test_sparse_gradients_count(variant, clears):
    losses = {}
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(9, 4, sparse=sparse), nn.Flatten(), nn.Linear(12, 3))
        inputs = torch.randint(9, (32, 3), generator=torch.Generator().manual_seed(1))

        def closure(backward, model=model, inputs=inputs):
            if clears:
                model.zero_grad()
            found = nn.functional.cross_entropy(model(inputs), inputs[:, 0] % 3, reduction="none")
            if backward:
                found.mean().backward()
            return found

        optimizer = MAKE[variant](model)
        losses[sparse] = [optimizer.step(closure).item() for _ in range(10)]
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)


@pytest.mark.parametrize(("variant", "settings", "token"), [
    ("stochastic", {"samples": 0}, "samples"),
    ("stochastic", {"samples": float("nan")}, "samples"),
    ("stochastic", {"samples": 9, "radius": float("nan")}, "radius"),
    ("stochastic", {"samples": 9, "lr": 0.1}, "no setting lr"),
    ("paper", {"lr": 1}, "no setting lr"),
    ("paper", {"samples": 9}, "no setting samples"),
])
def test_settings_that_are_missing_or_unknown_are_named(variant, settings, token):
    with pytest.raises((TypeError, ValueError), match=token) as caught:
        APTS(nn.Linear(2, 2).parameters(), variant=variant, **settings)
    assert "Settings" not in str(caught.value)


WRONG = {
    "nothing": (lambda losses: None, TypeError, "NoneType"),
    "a number": (lambda losses: losses.mean().item(), TypeError, "float"),
    "a list": (lambda losses: losses.tolist(), TypeError, "list"),
    "a matrix": (lambda losses: losses[:, None], ValueError, r"\(32, 1\)"),
}


@pytest.mark.parametrize(("change", "error", "token"), WRONG.values(), ids=WRONG)
@both
def test_closures_that_return_something_else_raise_what_to_return(
        variant, change, error, token):
    training = Training(variant)
    before = training.weights()
    with pytest.raises(error, match=token):
        training.optimizer.step(lambda backward: change(training.closure(backward)))
    assert torch.equal(before, training.weights())
    losses = training.steps(24)
    assert losses[-1] < 0.8 * losses[0]


@both
def test_losses_that_are_attached_to_their_graph_are_detached(variant):
    plain, attached = Training(variant), Training(variant)

    def closure(backward):
        losses = nn.functional.cross_entropy(
            attached.model(attached.inputs), attached.targets, reduction="none")
        if backward:
            losses.mean().backward(retain_graph=True)
        return losses

    for _ in range(5):
        loss = attached.optimizer.step(closure)
        assert not loss.requires_grad
        assert loss.item() == plain.step()


@both
def test_a_closure_without_a_backward_pass_is_an_error(variant):
    training = Training(variant)
    with pytest.raises(RuntimeError, match="backward"):
        training.optimizer.step(lambda backward: training.closure(False))


@pytest.mark.parametrize("closure", [lambda: torch.zeros(()), lambda forward: forward, None])
@both
def test_a_closure_that_takes_no_backward_raises_how_to(variant, closure):
    training = Training(variant)
    with pytest.raises(TypeError, match=r"closure\(backward=True\)"):
        training.optimizer.step(closure)
    with pytest.raises(TypeError, match="own"):
        training.optimizer.step(lambda backward: _raise(TypeError("own")))


def _raise(error):
    raise error
