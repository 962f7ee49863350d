"""Suites and --set: read once, checked, and said clearly when wrong; what a run id depends on."""

import json
import os
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_apts.core.errors import UserError
from bench_apts.core.spec import Seeds, Suite, Trial, canonical, digest
from bench_apts.plugins import registry, suite_file

NUMBER = st.integers(-2**63, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
UNICODE = st.text(st.characters(exclude_categories=("Cs",)))


@pytest.fixture(scope="module")
def written():
    return registry.suite_path("digits").read_text(encoding="utf-8")


@given(st.text() | st.builds("suite.{}={}".format, st.sampled_from(
    ["batch_size", "budget.samples", "target.levels", "model.options.hidden", "name", "a.b"]),
    st.text()))
def test_any_override_gives_a_suite_or_a_user_error(text):
    try:
        suite = registry.suite("digits", (text,))
    except UserError:
        return
    assert msgspec.json.decode(canonical(suite), type=Suite) == suite


def test_overrides_change_what_they_name_and_nothing_else():
    plain = registry.suite("digits")
    changed = registry.suite("digits", (
        "suite.batch_size=128", "suite.budget.samples = 10_000", "suite.target.levels=[0.5, 1.0]",
        "suite.model.options.hidden=[8]", "suite.summary=short"))
    assert changed.batch_size == 128
    assert changed.budget.samples == 10_000
    assert changed.target.levels == (0.5, 1.0)
    assert changed.model.options == {"hidden": [8]}
    assert changed.summary == "short"
    assert msgspec.structs.replace(
        changed, batch_size=64, summary=plain.summary, budget=plain.budget, target=plain.target,
        model=plain.model) == plain


@pytest.mark.parametrize("text", [
    "", "batch_size=64", "suite=1", "suite.=1", "suite..x=1", "suite.batch_size", "=", "study.x=1",
    "suite.name.first=1",
])
def test_malformed_overrides_say_which(text):
    with pytest.raises(UserError, match="--set"):
        registry.suite("digits", (text,))


MISTAKES = [
    ("batch_size = 64\n", "", "key 'batch_size' is missing"),
    ("samples = 28_000\n", "", "key 'budget.samples' is missing"),
    ("[target.provenance]", "[target.origin]", "unknown key in [target] 'origin'"),
    ("batch_size = 64", 'batch_size = "64"', "key 'batch_size': expected `int`, got `str`"),
    ("batch_size = 64", "batch_size = 6.4", "key 'batch_size': expected `int`, got `float`"),
    ("batch_size = 64", "batch_size = true", "key 'batch_size': expected `int`, got `bool`"),
    ("batch_size = 64", "batch_size = 0", "key 'batch_size': expected `int` >= 1"),
    ("batch_size = 64", "batch_sise = 64", "unknown key 'batch_sise'; did you mean batch_size"),
    ("samples = 28_000", "sampels = 1", "unknown key in [budget] 'sampels'; did you mean samples"),
    ("seconds = 120", "seconds = inf", "key 'budget.seconds': expected a finite number"),
    ("seconds = 120", "seconds = 0", "key 'budget.seconds': expected `float` > 0.0"),
    ('precision = "fp32"', 'precision = "fp16"',
     "key 'precision': expected fp32 or bf16, got 'fp16'"),
    ('direction = "max"', 'direction = "up"', "key 'target.direction': expected max or min"),
    ('split = "validation"', 'split = "test"', "key 'target.split': expected validation"),
    ("levels = [0.95, 0.99, 1.0]", "levels = [0.9, 2.0]",
     "key 'target.levels[1]': expected `float` <= 1.0"),
    ("levels = [0.95, 0.99, 1.0]", "levels = 1.0", "key 'target.levels': expected `array`"),
    ('name = "digits"\nsummary', 'name = "a b"\nsummary', "key 'name': expected `str` matching"),
    ('[model]\nname = "mlp"\noptions = { hidden = [64, 32] }', "", "key 'model' is missing"),
    ("hidden = [64, 32]", "hidden = [64, nan]", "key 'model.options.hidden.1': expected a finite"),
    ("batch_size = 64", "batch_size =", "is not valid TOML"),
    ("batch_size = 64", "batch_size = 64\nbatch_size = 64", "is not valid TOML"),
    ("batch_size = 64", "batch_size = " + "9" * 5000, "is not valid TOML"),
    ("batch_size = 64", "batch_size = " + "[" * 5000, "is not valid TOML"),
]


@pytest.mark.parametrize(("old", "new", "expected"), MISTAKES,
                         ids=[f"{i}" for i in range(len(MISTAKES))])
def test_mistakes_in_a_file_name_file_key_and_what_was_expected(
        tmp_path, written, old, new, expected):
    assert old in written
    path = tmp_path / "mine.toml"
    path.write_text(written.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        suite_file.load(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert expected in message
    assert len(message.splitlines()) == 1


def test_a_mistake_made_by_an_override_says_so():
    with pytest.raises(UserError, match=r"after --set suite\.batch_size=no\): key 'batch_size'"):
        registry.suite("digits", ("suite.batch_size=no",))


def test_unreadable_suite_files(tmp_path):
    with pytest.raises(UserError, match=r"cannot read suite .*none\.toml: No such file"):
        suite_file.load(tmp_path / "none.toml")
    with pytest.raises(UserError, match="is not a regular file"):
        suite_file.load(tmp_path)
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'name = "\xe4"')
    with pytest.raises(UserError, match=r"latin\.toml is not valid TOML"):
        suite_file.load(latin)


def test_targets_in_both_directions():
    target = registry.suite("digits", ("suite.target.value=0.8",)).target
    assert target.reached(0.8)
    assert not target.reached(0.799)
    assert target.reached(0.76, 0.95)
    assert not target.reached(0.759, 0.95)
    loss = registry.suite("digits", ("suite.target.metric=loss", "suite.target.direction=min",
                                     "suite.target.value=0.19")).target
    assert loss.reached(0.19)
    assert not loss.reached(0.1901)
    assert loss.reached(0.2, 0.95)
    assert not loss.reached(0.2001, 0.95)
    assert not target.reached(float("nan"))
    assert not loss.reached(float("nan"))


def test_the_global_batch_is_fixed_or_grows_with_the_ranks():
    assert registry.suite("digits").global_batch(4) == 64
    assert registry.suite("digits", ("suite.scaling=weak",)).global_batch(4) == 256


def leaves(value, path=()):
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path, value


OTHER = {
    "metric": "loss", "direction": "min", "precision": "bf16", "scaling": "weak",
    "stage": "tune", "device": "cuda", "memory_format": "channels_last",
    "searched": {"sampler": "tpe", "pruner": "none", "space": "narrow", "version": 1},
}


def test_the_run_id_changes_with_every_field(make_trial):
    trial = make_trial("sgd")
    ids = {trial.run_id}
    unchangeable = 0
    plain = json.loads(msgspec.json.encode(trial))
    for path, value in leaves(plain):
        if path[-1] in ("split", "loss"):  # there is but one choice so far
            unchangeable += 1
            continue
        edited = json.loads(json.dumps(plain))
        place = edited
        for name in path[:-1]:
            place = place[name]
        if isinstance(value, bool):
            place[path[-1]] = not value
        elif isinstance(value, int):
            place[path[-1]] = value + 1
        elif isinstance(value, float):
            place[path[-1]] = (value + 1) / 3
        else:
            place[path[-1]] = OTHER.get(path[-1], f"{value}x")
        ids.add(msgspec.convert(edited, Trial).run_id)
    assert unchangeable == 2
    assert len(ids) == 1 + len(list(leaves(plain))) - unchangeable
    assert all(len(run_id) == 12 and int(run_id, 16) >= 0 for run_id in ids)


def test_the_run_id_is_the_same_in_every_process_and_order(make_trial):
    trial = make_trial("sgd")
    plain = msgspec.to_builtins(trial)
    turned = {k: plain[k] for k in reversed(plain)}
    turned["hyperparameters"] = dict(reversed(plain["hyperparameters"].items()))
    code = ("import sys, msgspec; from bench_apts.core.spec import Trial; "
            "print(msgspec.json.decode(sys.stdin.read(), type=Trial).run_id)")
    for seed in ("1", "2"):
        done = subprocess.run([sys.executable, "-c", code], input=json.dumps(turned), text=True,
                              env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True,
                              check=True)
        assert done.stdout.strip() == trial.run_id


def test_the_configuration_does_not_depend_on_suite_seed_or_ranks(make_trial):
    one = make_trial("sgd")
    two = make_trial("sgd", ranks=2, overrides=("suite.batch_size=128",))
    assert one.configuration == two.configuration
    assert one.run_id != two.run_id
    assert make_trial("sgd[lr=0.2]").configuration != one.configuration


@given(st.dictionaries(UNICODE, st.booleans() | NUMBER | UNICODE))
def test_trials_survive_the_way_through_a_file(hyperparameters):
    trial = msgspec.structs.replace(TRIAL, hyperparameters=hyperparameters)
    read = msgspec.json.decode(msgspec.json.encode(trial), type=Trial)
    assert read == trial
    assert read.run_id == trial.run_id


TRIAL = Trial(
    label="x", optimizer="x", hyperparameters={}, tuning_free=False, batch_size=64,
    suite=registry.suite("digits"), ranks=1, stage="tune", repetition=0,
    seeds=Seeds(data=1, init=2),
    device="cpu", data_sha256="", plugin="x", plugin_sha256="")


def test_equal_values_have_equal_digests_and_others_do_not():
    assert digest({"a": 1, "b": [1.0]}) == digest({"b": [1.0], "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})
    assert digest({"a": "1"}) != digest({"a": 1})
