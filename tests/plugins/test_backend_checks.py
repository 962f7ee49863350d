"""What a backend declares is checked when it is made: one line that names field and knob."""

import functools
import math
from dataclasses import replace

import pytest

from bench_apts.contract import (
    GRADIENT_SUM,
    Backend,
    Choice,
    Hyperparameter,
    LogUniform,
    Sampling,
    Uniform,
)
from bench_apts.core.errors import UserError, one_line


def build(model, loss, values, world):
    pass


def backend(**changes):
    return Backend(**{"name": "mine", "summary": "", "build": build,
                      "hyperparameters": {"lr": Hyperparameter(0.1, "")}, **changes})


def refused(token, **changes):
    with pytest.raises(UserError) as caught:
        backend(**changes)
    message = str(caught.value)
    assert token in message
    assert message == one_line(message)
    return message


KNOBS = {
    "a bare number": (0.05, "a Hyperparameter"),
    "a list": ([0.05, LogUniform(1e-3, 1.0)], "a Hyperparameter"),
    "a distribution": (LogUniform(1e-3, 1.0), "a Hyperparameter"),
    "none": (None, "a Hyperparameter"),
    "the class": (Hyperparameter, "a Hyperparameter"),
    "search list": (Hyperparameter(0.05, "", [1e-3, 1e-1]), "search: expected LogUniform"),
    "search tuple": (Hyperparameter(0.05, "", (1e-3, 1e-1)), "search: expected LogUniform"),
    "search number": (Hyperparameter(0.05, "", 0.1), "search: expected LogUniform"),
    "search class": (Hyperparameter(0.05, "", LogUniform), "search: expected LogUniform"),
    "wide list": (Hyperparameter(0.05, "", wide=[1e-3, 1e-1]), "wide: expected LogUniform"),
    "low above high": (Hyperparameter(0.05, "", LogUniform(1e-1, 1e-3)), "low bound below"),
    "uniform low above high": (Hyperparameter(0.5, "", Uniform(1.0, 0.0)), "low bound below"),
    "low is high": (Hyperparameter(0.05, "", LogUniform(0.05, 0.05)), "low bound below"),
    "wide is empty": (Hyperparameter(0.5, "", wide=Uniform(1.0, 1.0)), "wide: expected a low"),
    "log of 0": (Hyperparameter(0.05, "", LogUniform(0, 1e-1)), "above 0"),
    "log of less": (Hyperparameter(0.05, "", LogUniform(-1.0, 1e-1)), "above 0"),
    "nan": (Hyperparameter(0.05, "", Uniform(math.nan, 1.0)), "finite bounds"),
    "inf": (Hyperparameter(0.05, "", LogUniform(1e-3, math.inf)), "finite bounds"),
    "minus inf": (Hyperparameter(0.05, "", Uniform(-math.inf, 1.0)), "finite bounds"),
    "too far apart": (Hyperparameter(0.05, "", Uniform(-1.7e308, 1.7e308)), "finite bounds"),
    "bound is text": (Hyperparameter(0.05, "", Uniform("0", "1")), "finite bounds"),
    "bound is bool": (Hyperparameter(0.05, "", Uniform(False, True)), "finite bounds"),
    "bound is none": (Hyperparameter(0.05, "", Uniform(None, 1.0)), "finite bounds"),
    "bound is huge": (Hyperparameter(1, "", Uniform(1, 2**80)), "finite bounds"),
    "integer with floats": (Hyperparameter(4, "", LogUniform(1.0, 64.0)), "type int"),
    "text in a range": (Hyperparameter("a", "", Uniform(0.0, 1.0)), "a Choice"),
    "bool in a range": (Hyperparameter(True, "", Uniform(0, 1)), "a Choice"),
    "options in a range": (Hyperparameter(0.5, "", Uniform(0.0, 1.0), options=(0.5, 0.6)),
                           "a Choice"),
    "empty choice": (Hyperparameter(0.05, "", Choice(())), "at least one option"),
    "choice of a list": (Hyperparameter(4, "", Choice([4, 8])), "a tuple"),
    "choice of text": (Hyperparameter("a", "", Choice("abc")), "a tuple"),
    "choice of another type": (Hyperparameter(4, "", Choice((4, 8.0))), "expected int, got float"),
    "choice of bools": (Hyperparameter(1, "", Choice((1, True))), "expected int, got bool"),
    "choice of lists": (Hyperparameter("a", "", Choice(("a", ["b"]))), "expected str, got list"),
    "choice twice": (Hyperparameter(4, "", Choice((4, 8, 4))), "twice"),
    "choice beyond options": (Hyperparameter("a", "", Choice(("a", "c")), options=("a", "b")),
                              "one of a, b"),
    "choice beyond limits": (Hyperparameter(4, "", Choice((0, 4)), least=1), "at least 1"),
    "default not chosen": (Hyperparameter(2, "", Choice((4, 8))), "one of 4, 8"),
    "default not an option": (Hyperparameter("c", "", options=("a", "b")), "one of a, b"),
    "default below least": (Hyperparameter(0, "", least=1), "at least 1"),
    "default at above": (Hyperparameter(0.0, "", above=0), "above 0"),
    "default at below": (Hyperparameter(1.0, "", below=1), "below 1"),
    "default out of its search": (Hyperparameter(5.0, "", LogUniform(1e-3, 1.0)),
                                  "within its search"),
    "0 out of its search": (Hyperparameter(0.0, "", Uniform(0.5, 1.0)), "within its search"),
    "default nan": (Hyperparameter(math.nan, ""), "finite number"),
    "default inf": (Hyperparameter(math.inf, ""), "finite number"),
    "default none": (Hyperparameter(None, ""), "default: expected bool"),
    "default tuple": (Hyperparameter((0.9, 0.999), ""), "default: expected bool"),
    "default huge": (Hyperparameter(2**70, ""), "default: expected bool"),
    "search below least": (Hyperparameter(0.5, "", Uniform(-1.0, 1.0), least=0), "at least 0"),
    "search from above": (Hyperparameter(0.5, "", Uniform(0.0, 1.0), above=0), "above 0"),
    "search to below": (Hyperparameter(0.5, "", Uniform(0.0, 1.0), below=1), "below 1"),
    "wide below least": (Hyperparameter(0.5, "", wide=Uniform(-1.0, 1.0), least=0), "at least 0"),
    "limit text": (Hyperparameter(0.5, "", least="0"), "least: expected a number"),
    "limit nan": (Hyperparameter(0.5, "", above=math.nan), "above: expected a number"),
    "options list": (Hyperparameter("a", "", options=["a", "b"]), "options: expected a tuple"),
    "options text": (Hyperparameter("a", "", options="ab"), "options: expected a tuple"),
    "options of another type": (Hyperparameter("a", "", options=("a", 1)), "expected str"),
    "meaning left out": (Hyperparameter(0.1, LogUniform(1e-3, 1.0)), "meaning: expected str"),
}


@pytest.mark.parametrize("case", KNOBS)
def test_a_hyperparameter_that_cannot_be_used_is_named(case):
    knob, token = KNOBS[case]
    message = refused(token, hyperparameters={"beta": Hyperparameter(0.9, ""), "lr": knob})
    assert message.startswith("mine: hyperparameter lr")


FIELDS = {
    "requires": [("torch", "a tuple"), (["torch"], "a tuple"), ((1,), "modules"),
                 (("",), "modules"), (("pytorch-optimizer",), "modules")],
    "sources": [("my_helper", "a tuple"), ((None,), "modules"), (("./my_helper.py",), "modules")],
    "min_ranks": [(0, "at least 1"), (-1, "at least 1"), (1.5, "int"), (True, "int")],
    "summary": [(None, "str")],
    "install": [(None, "str")],
    "tuning_free": [("no", "bool"), (1, "bool")],
    "follows": [("mine", "another optimizer"), (None, "str")],
    "space_version": [("2", "int")],
    "build": [(None, "a function"), ("mine:build", "a function"),
              (lambda model, loss, values: None, "takes (model, loss, values)"),
              (lambda: None, "takes ()"),
              (lambda model, loss, values, world, *, more: None, "'more'")],
    "batch_size": [(64, "a function"), (lambda batch: batch, "takes (batch)")],
    "sampling": [(Sampling(), "a function"), (lambda: Sampling(), "takes ()")],
    "hyperparameters": [([("lr", Hyperparameter(0.1, ""))], "by name"), (None, "by name"),
                        ({"lr": Hyperparameter(0.1, "", LogUniform(0.1, 0.01))}, "lr")],
    "family": [(None, "str")],
    "developed_on": [("digits", "a tuple"), (("digits", 3), "names of suites")],
    "traffic": [("2f·P", "a TrafficFormula"),
                (replace(GRADIENT_SUM, unit="epoch"), "step or round"),
                (replace(GRADIENT_SUM, words=2), "str"),
                (replace(GRADIENT_SUM, payloads=lambda n: {}), "takes (n)")],
    "presets": [({"fast": {"lr": 0.2}}, "named preset"), ([], "by the preset's name")],
    "ordered": [([{"lr": 0.2}], "a tuple"), ({"lr": 0.2}, "a tuple"), ((0.2,), "by the hyper"),
                (({"lr": 0.2}, {"rate": 0.1}), "configuration 2"), (({"lr": "fast"},), "float"),
                (({"lr": math.nan},), "finite")],
}


@pytest.mark.parametrize(("field", "value", "token"), [
    (field, value, token) for field, cases in FIELDS.items() for value, token in cases])
def test_a_field_that_cannot_be_used_is_named(field, value, token):
    message = refused(token, **{field: value})
    assert message.startswith(f"mine: {field}") or "mine: hyperparameter" in message


NAMES = ["", " ", "my lr", "lr,", "l[r", "lr]", "a=b", "lr\n", "l\x00r", "l\u200br", 3, None,
         "l" * 65, "\udc80"]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_selector_cannot_hold_is_no_name(name):
    assert "name" in refused("printable characters", name=name)
    assert refused("printable characters", hyperparameters={
        name: Hyperparameter(0.1, "")}).startswith("mine: a hyperparameter's name")


def test_a_name_must_not_read_like_a_file():
    refused(".py", name="mine.py")


PRESET = {"preset": Hyperparameter("slow", "", options=("slow", "fast")),
          "lr": Hyperparameter(0.1, "", above=0)}


@pytest.mark.parametrize(("presets", "token"), [
    ({"fast": {"rate": 0.2}}, "presets: fast: expected hyperparameters out of preset, lr"),
    ({"fast": {"lr": 0}}, "above 0"), ({"fast": {"lr": "quick"}}, "float"),
    ({"faster": {"lr": 0.2}}, "out of slow, fast"), ({3: {"lr": 0.2}}, "out of slow, fast"),
    ({"fast": 0.2}, "by the hyperparameter's name")])
def test_presets_set_known_hyperparameters_and_can_be_chosen(presets, token):
    refused(token, hyperparameters=PRESET, presets=presets)


@pytest.mark.parametrize("changes", [
    {"hyperparameters": {"lr": Hyperparameter(0.1, "", LogUniform(1e-3, 1.0))}},
    {"hyperparameters": {"lr": Hyperparameter(0.1, "", wide=LogUniform(1e-3, 1.0))}},
    {"ordered": ({"lr": 0.2},)}])
def test_what_needs_no_tuning_declares_no_search(changes):
    refused("tuning_free contradicts", tuning_free=True, **changes)
    assert backend(**changes).searched(space="wide")


class Stepper:
    def __init__(self, model, loss, values, world):
        pass


def test_what_is_right_is_accepted():
    for made in (Stepper, functools.partial(build), lambda *arguments: None,
                 lambda model, loss, values, world, more=0: None):
        backend(build=made)
    whole = backend(
        name="größe-2_b.c", hyperparameters=PRESET | {
            "lr": Hyperparameter(1, "", LogUniform(1, 64), least=1),
            "decay": Hyperparameter(0.0, "0 is off", LogUniform(1e-6, 0.1), least=0),
            "beta": Hyperparameter(0.9, "", Choice((0, 0.9)), wide=Uniform(0.0, 0.99), below=1),
            "on": Hyperparameter(True, "", Choice((True, False)))},
        presets={"fast": {"lr": 2}}, ordered=({}, {"lr": 3, "on": False}), requires=("os.path",),
        sources=("json",), follows="adam", min_ranks=2, batch_size=lambda *given: 4,
        sampling=lambda values: Sampling())
    assert whole.configure({"preset": "fast"})["lr"] == 2
