"""From the words of a command line to a study."""

import msgspec
import pytest

from bench_apts.core import environment, gpu_devices
from bench_apts.core.errors import UserError
from bench_apts.core.spec import Augment
from bench_apts.study import resolve

WORDS = {"suites": ["digits"], "overrides": (), "gpus": "1", "optimizers": "sgd", "trials": 2,
         "seeds": 1, "base_seed": 0, "twins": True}


@pytest.fixture
def machine(monkeypatch):
    def be(gpus, cores):
        monkeypatch.setattr(gpu_devices, "gpu_count", lambda: gpus)
        monkeypatch.setattr(environment, "cores", lambda: cores)

    be(0, 2)
    return be


@pytest.mark.parametrize(("gpus", "there", "cores", "expected"), [
    (None, 0, 1, ("cpu", (1,))),
    (None, 0, 4, ("cpu", (1, 4))),
    (None, 1, 4, ("cuda", (1,))),
    (None, 8, 4, ("cuda", (1, 8))),
    ("4,1,2", 0, 2, ("cpu", (4, 1, 2))),
    (" 1 , 2 ,1", 8, 2, ("cuda", (1, 2))),
    ("8", 8, 2, ("cuda", (8,))),
])
def test_world_sizes(machine, gpus, there, cores, expected):
    machine(there, cores)
    assert resolve.world_sizes(gpus, []) == expected


@pytest.mark.parametrize(("there", "cores", "suites", "expected"), [
    (0, 6, ["digits"], (1, 4)),
    (0, 48, ["digits"], (1, 32)),
    (6, 96, ["digits"], (1, 4)),
    (0, 8, ["mnist", "paper-mnist"], (1, 4)),
    (0, 7, ["paper-mnist"], (1, 6)),
])
def test_without_gpus_given_all_that_share_the_minibatches(
        machine, there, cores, suites, expected):
    machine(there, cores)
    study, notes = resolve.resolve_study(**WORDS | {"suites": suites, "gpus": None})
    assert study.ranks == expected
    what = f"{there} GPUs" if there else f"{cores} cores"
    assert any(note.startswith(f"N = {expected[-1]} of {what},") for note in notes)


def test_weak_scaling_shares_its_minibatch_over_any_number(machine):
    machine(0, 6)
    study, notes = resolve.resolve_study(
        **WORDS | {"gpus": None, "overrides": ("suite.scaling=weak",)})
    assert study.ranks == (1, 6)
    assert len(notes) == 1


@pytest.mark.parametrize("gpus", ["0", "two", "", "1,", "1,0", "-1", "1.5", "1;2", "2x"])
def test_what_is_no_world_size(machine, gpus):
    with pytest.raises(UserError, match="write world sizes from 1 on, for instance 1,2,4"):
        resolve.world_sizes(gpus, [])


def test_no_more_gpus_than_there_are(machine):
    machine(1, 64)
    with pytest.raises(UserError, match=r"--gpus 1,2: this machine has 1 GPU;.*--device cpu"):
        resolve.world_sizes("1,2", [])
    machine(4, 64)
    with pytest.raises(UserError, match="has 4 GPUs;"):
        resolve.world_sizes("8", [])


def test_notes_say_what_is_not_as_it_seems(machine):
    notes = []
    resolve.world_sizes("1,2", notes)
    assert len(notes) == 1
    assert "no GPU is visible here" in notes[0]
    resolve.world_sizes("1,4", notes)
    assert "4 ranks share 2 cores" in notes[-1]
    machine(4, 2)
    resolve.world_sizes("4", on_gpus := [])
    assert on_gpus == []


def test_a_study_as_it_was_asked_for(machine):
    study, _ = resolve.resolve_study(**WORDS | {
        "suites": ["digits", "mnist", "digits"], "gpus": "1,2", "base_seed": 7,
        "optimizers": "sgd, sgd[lr=0.1,momentum=0.5] ,adam", "overrides": ("suite.version=3",)})
    assert [(s.name, s.version) for s in study.suites] == [("digits", 3), ("mnist", 3)]
    assert [(e.label, e.optimizer, e.pinned) for e in study.entries] == [
        ("sgd", "sgd", {}), ("sgd[lr=0.1,momentum=0.5]", "sgd", {"lr": 0.1, "momentum": 0.5}),
        ("adam", "adam", {})]
    assert (study.ranks, study.trials, study.seeds, study.base_seed) == ((1, 2), 2, 1, 7)
    assert study.device == "cpu"


def test_lists_groups_and_exclusions_become_competitors(machine, plugin):
    path = plugin()
    study, _ = resolve.resolve_study(**WORDS | {
        "optimizers": f"{path}[lr=[0.1,2e-1]],tuning-free,-nadamw,paper"})
    labels = [entry.label for entry in study.entries]
    assert labels[:2] == ["mine[lr=0.1]", "mine[lr=2e-1]"]
    assert {"apts", "adam-default", "apts-paper"} < {*labels}
    assert not {"nadamw", "adam", "sgd"} & {*labels}
    with pytest.raises(UserError, match="lr=fast"):
        resolve.resolve_study(**WORDS | {"optimizers": "sgd[lr=[0.1,fast]]"})


def test_a_file_is_called_by_its_backends_name(machine, plugin, tmp_path):
    path = plugin()
    study, _ = resolve.resolve_study(**WORDS | {"optimizers": f"{path},{path}[lr=0.2],adam"})
    assert [(e.label, e.optimizer, e.pinned) for e in study.entries] == [
        ("mine", str(path), {}), ("mine[lr=0.2]", str(path), {"lr": 0.2}), ("adam", "adam", {})]
    with pytest.raises(UserError, match="names mine twice"):
        resolve.resolve_study(**WORDS | {"optimizers": f"{path},{tmp_path}/./mine.py"})


def test_two_optimizers_of_one_name_are_refused(machine, plugin):
    one, two = plugin("one.py"), plugin("two.py")
    for words in (f"{one},{two}", f"{one},{two}[lr=0.2]"):
        with pytest.raises(UserError, match=rf"{one} and {two} are both called 'mine'"):
            resolve.resolve_study(**WORDS | {"optimizers": words})
    two.write_text(two.read_text().replace('name="mine"', 'name="adam"'))
    with pytest.raises(UserError, match=rf"adam and {two} are both called 'adam'"):
        resolve.resolve_study(**WORDS | {"optimizers": f"adam[lr=0.1],{two}"})
    study, _ = resolve.resolve_study(**WORDS | {"optimizers": f"{one},{two}"})
    assert [entry.label for entry in study.entries] == ["mine", "adam"]


@pytest.mark.parametrize(("words", "expected"), [
    ({"suites": ["digit"]}, r"unknown suite 'digit'; did you mean digits"),
    ({"optimizers": "adm"}, r"unknown optimizer 'adm'; did you mean adam "),
    ({"optimizers": "sgd[momentun=1]"}, r"of sgd 'momentun'; did you mean momentum\?"),
    ({"optimizers": "sgd[lr=fast]"}, "expected float, got str"),
    ({"optimizers": "sgd[lr=1"}, "is not a selector"),
    ({"optimizers": ""}, "--optimizers names none"),
    ({"optimizers": " , "}, "--optimizers names none"),
    ({"optimizers": "sgd,adam,sgd"}, "names sgd twice"),
    ({"overrides": ("nonsense",)}, "--set nonsense"),
])
def test_mistakes_are_answered_in_one_line(machine, words, expected):
    with pytest.raises(UserError, match=expected) as caught:
        resolve.resolve_study(**WORDS | words)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_not_installed_is_left_out_unless_it_was_asked_for(machine, plugin, monkeypatch):
    path = plugin(options='requires=("no_such_package",),')
    with pytest.raises(UserError, match="package no_such_package is not installed; install it or"):
        resolve.resolve_study(**WORDS | {"optimizers": f"sgd,{path}"})
    monkeypatch.setattr(resolve, "DEFAULT_OPTIMIZERS", f"sgd,{path}")
    study, notes = resolve.resolve_study(**WORDS | {"optimizers": None})
    assert [entry.optimizer for entry in study.entries] == ["sgd"]
    assert any("is left out: unavailable (package no_such_package" in note for note in notes)


STREAM = """
name = "{name}"
summary = ""
batch_size = 8
data = {{ source = "streams.py:splits", validation = 10, stream = true{workers} }}
model = {{ source = "streams.py:splits" }}
budget = {{ samples = 160, seconds = 60 }}
evaluation = {{ every_samples = 80 }}
[target]
metric = "accuracy"
direction = "max"
value = 0.9
provenance = {{ optimizer = "none", trials = 0, seeds = 0 }}
"""


def test_workers_belong_to_the_study_and_not_to_a_suite(machine, tmp_path):
    (tmp_path / "streams.py").write_text("def splits(): pass\n", encoding="utf-8")
    suites = []
    for name, workers in (("one", ""), ("two", ", workers = 0")):
        suites.append(str(tmp_path / f"{name}.toml"))
        (tmp_path / f"{name}.toml").write_text(
            STREAM.format(name=name, workers=workers), encoding="utf-8")
    study, _ = resolve.resolve_study(**WORDS | {"suites": suites})
    assert study.workers == {"one": 2, "two": 0}
    assert all("workers" not in msgspec.to_builtins(suite.data) for suite in study.suites)
    plain, _ = resolve.resolve_study(**WORDS)
    assert "workers" not in msgspec.to_builtins(plain)


def test_known_data_is_augmented_by_an_override(machine):
    changed, _ = resolve.resolve_study(**WORDS | {
        "suites": ["cifar10"], "overrides": ("suite.data.augment.crop=4",)})
    plain, _ = resolve.resolve_study(**WORDS | {"suites": ["cifar10"]})
    assert changed.suites[0].data.augment == Augment(crop=4)
    assert "augment" not in msgspec.to_builtins(plain.suites[0].data)
