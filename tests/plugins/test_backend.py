"""What a backend says of itself, and what it refuses."""

import subprocess
import sys

import numpy as np
import pytest

from bench_apts.contract import Backend, Choice, Hyperparameter, LogUniform, Sampling, Uniform
from bench_apts.core.errors import UserError
from bench_apts.plugins import registry
from bench_apts.trial.observer import missing_methods


def backend(**changes):
    return Backend(**{
        "name": "mine", "summary": "", "build": lambda *args: None,
        "hyperparameters": {
            "lr": Hyperparameter(0.1, "", LogUniform(1e-3, 1.0), above=0),
            "share": Hyperparameter(0.5, "", Uniform(0.0, 1.0)),
            "steps": Hyperparameter(5, "", least=1),
            "decay": Hyperparameter(0.9, "", least=0, below=1),
            "nesterov": Hyperparameter(True, ""),
            "norm": Hyperparameter("l2", "", options=("l2", "linf")),
            "width": Hyperparameter(4, "", Choice((2, 4, 8))),
        }, **changes})


def test_configurations_are_completed_with_the_defaults():
    assert backend().configure({}) == {
        "lr": 0.1, "share": 0.5, "steps": 5, "decay": 0.9, "nesterov": True, "norm": "l2",
        "width": 4}
    assert backend().configure({"steps": 7, "norm": "linf"}) == {
        "lr": 0.1, "share": 0.5, "steps": 7, "decay": 0.9, "nesterov": True, "norm": "linf",
        "width": 4}


def test_a_whole_number_serves_as_a_float():
    value = backend().configure({"lr": 1})["lr"]
    assert value == 1.0
    assert isinstance(value, float)


@pytest.mark.parametrize(("key", "value", "expected"), [
    ("lr", "fast", "expected float, got str"),
    ("lr", True, "expected float, got bool"),
    ("lr", float("nan"), "expected a finite number"),
    ("lr", float("inf"), "expected a finite number"),
    ("lr", 10**400, "expected a finite number"),
    ("lr", 0, "expected a number above 0"),
    ("steps", 5.0, "expected int, got float"),
    ("steps", True, "expected int, got bool"),
    ("steps", 0, "expected a number of at least 1"),
    ("decay", -1e-9, "expected a number of at least 0 and below 1"),
    ("decay", 1, "expected a number of at least 0 and below 1"),
    ("nesterov", 1, "expected bool, got int"),
    ("norm", "l3", "expected one of l2, linf"),
    ("norm", 2, "expected str, got int"),
    ("width", 3, "expected one of 2, 4, 8"),
])
def test_values_of_another_kind_or_range_are_refused(key, value, expected):
    with pytest.raises(UserError) as caught:
        backend().configure({key: value})
    assert str(caught.value).startswith(f"mine[{key}=")
    assert expected in str(caught.value)


def test_the_ends_of_a_range():
    assert backend().configure({"decay": 0})["decay"] == 0
    assert backend().configure({"decay": 0.999})["decay"] == 0.999
    assert backend().configure({"steps": 1})["steps"] == 1


def test_unknown_hyperparameters_are_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"of mine 'nestrov'; did you mean nesterov\?"):
        backend().configure({"nestrov": True})


def test_what_is_searched():
    assert set(backend().searched()) == {"lr", "share", "width"}
    assert set(backend().searched({"lr": 0.1, "steps": 3})) == {"share", "width"}


def test_ordered_configurations_decide_what_is_searched():
    listed = backend(ordered=({"steps": 1}, {"steps": 2, "norm": "linf"}))
    assert set(listed.searched()) == {"steps", "norm"}
    assert set(listed.searched({"norm": "l2"})) == {"steps"}
    assert listed.searched({"norm": "l2", "steps": 3}) == {}


def test_a_choice_of_either_space_is_a_value_of_the_knob():
    knob = Hyperparameter(2, "", Choice((2, 4)), wide=Choice((2, 4, 8)))
    both = backend(hyperparameters={"width": knob})
    assert both.configure({"width": 8}) == {"width": 8}
    with pytest.raises(UserError, match="one of 2, 4, 8"):
        both.configure({"width": 16})
    mixed = backend(hyperparameters={
        "width": Hyperparameter(2, "", Choice((2, 4)), wide=Uniform(1, 64))})
    assert mixed.configure({"width": 33}) == {"width": 33}


@pytest.mark.parametrize(("answer", "token"), [
    (32.0, "float 32.0"), (0, "int 0"), (-4, "int -4"), (True, "bool True"), (None, "NoneType"),
    ("32", "str '32'"), (2**70, "from 1 on")])
def test_a_minibatch_is_a_whole_number_from_1_on(answer, token):
    asked = backend(batch_size=lambda batch, values, ranks: answer)
    with pytest.raises(UserError, match="mine: batch_size") as caught:
        asked.minibatch(64, {}, 2)
    assert token in str(caught.value)


def test_the_minibatch_and_its_slices_are_the_functions_answers():
    assert backend().minibatch(64, {}, 2) == 64
    assert backend().slicing({}) is None
    asked = backend(batch_size=lambda batch, values, ranks: np.int64(batch * ranks),
                    sampling=lambda values: Sampling(values["overlap"]))
    assert asked.minibatch(64, {}, 2) == 128
    assert type(asked.minibatch(64, {}, 2)) is int
    assert asked.slicing({"overlap": 0.5}) == Sampling(0.5)


@pytest.mark.parametrize(("sampling", "token"), [
    (lambda values: 0.5, "float 0.5"), (lambda values: Sampling(-1), "overlap=-1"),
    (lambda values: values["none"], "KeyError"), (lambda values: Sampling("half"), "TypeError")])
def test_a_sampling_is_one(sampling, token):
    with pytest.raises(UserError, match="mine: sampling") as caught:
        backend(sampling=sampling).slicing({})
    assert token in str(caught.value)
    with pytest.raises(UserError, match="ZeroDivisionError"):
        backend(batch_size=lambda batch, values, ranks: batch // 0).minibatch(64, {}, 2)


def test_missing_methods_of_a_stepper_are_named():
    class Half:
        step = evaluation_model = lambda self: None
        state_dict = None

    assert missing_methods(Half()) == ["state_dict", "load_state_dict"]
    assert missing_methods(None) == ["step", "state_dict", "load_state_dict", "evaluation_model"]
    Half.state_dict = Half.load_state_dict = lambda self: None
    assert missing_methods(Half()) == []


@pytest.mark.parametrize("name", ["no_such_package", "no_such_package.part", "json.no_such_part"])
def test_a_missing_package_is_a_reason_and_no_exception(name):
    assert backend(requires=(name,)).unavailable() == f"package {name} is not installed"
    assert backend(requires=("json", name)).unavailable() == f"package {name} is not installed"


def test_the_line_that_mends_it_names_the_distribution():
    missing = backend(requires=("no_such_package",), install="bench-apts[rivals]").unavailable()
    assert missing == ("package no_such_package is not installed: "
                       "pip install 'bench-apts[rivals]'")


def test_what_needs_gpus_says_why_where_there_are_none(monkeypatch):
    only = backend(gpu_only="its kernels are CUDA's")
    for count, reason in ((0, "needs GPUs: its kernels are CUDA's"), (2, None)):
        monkeypatch.setattr("bench_apts.plugins.backend.gpu_count", lambda count=count: count)
        assert only.unavailable() == reason


def test_what_nvcc_builds_says_so_where_there_is_none(monkeypatch, tmp_path):
    built = backend(nvcc=True)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert "needs nvcc" in built.unavailable()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").touch(mode=0o755)
    assert built.unavailable() is None


def test_what_is_installed_is_available():
    assert backend(requires=("json", "os.path")).unavailable() is None


@pytest.mark.parametrize("name", registry.optimizer_names())
def test_defaults_of_the_installed_backends_are_valid_and_searched_within_bounds(name):
    offered = registry.optimizer(name).backend
    defaults = offered.configure({})
    assert offered.configure(defaults) == defaults
    for values in offered.ordered:
        assert offered.configure(values).items() >= values.items()
    for key, knob in offered.searched().items():
        assert knob.meaning
        if knob.search is None:
            assert any(key in values for values in offered.ordered)
        elif isinstance(knob.search, Choice):
            assert defaults[key] in knob.search.options
        else:
            assert knob.search.low <= defaults[key] <= knob.search.high
    assert bool(offered.searched()) is not offered.tuning_free


def test_no_backend_imports_torch_before_it_is_built():
    code = ("import sys; from bench_apts.plugins import registry; "
            "[registry.optimizer(name) for name in registry.optimizer_names()]; "
            "sys.exit('torch' in sys.modules or 'deepspeed' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
