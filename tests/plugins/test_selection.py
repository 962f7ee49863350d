"""Groups, exclusions and lists of ``--optimizers``, over backends that are made for the test."""

from dataclasses import replace

import pytest

from bench_apts.contract import GRADIENT_SUM, Backend, Hyperparameter, TrafficFormula
from bench_apts.core.errors import UserError
from bench_apts.plugins import entry_points, registry, selection


def build(model, loss, values, world):
    raise AssertionError("nothing is built to be selected")


PLAIN = Backend("plain", "", {"lr": Hyperparameter(0.1, "")}, build, traffic=GRADIENT_SUM)
BACKENDS = (
    PLAIN,
    replace(PLAIN, name="free", tuning_free=True),
    replace(PLAIN, name="rounds", traffic=replace(GRADIENT_SUM, unit="round")),
    replace(PLAIN, name="half", traffic=TrafficFormula(
        "f·P", "step", lambda n, ranks: {"all_reduce": 2 * n})),
    replace(PLAIN, name="silent", traffic=None),
    replace(PLAIN, name="sketched", traffic=None, saves_communication=True),
    replace(PLAIN, name="published", hyperparameters={
        "preset": Hyperparameter("paper", "", options=("paper", "code"))}),
    replace(PLAIN, name="absent", tuning_free=True, requires=("no_such_package",),
            install="absent>=1"),
)


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """The backends above, and one whose module cannot be imported."""
    plugins = {backend.name: registry.Plugin(backend, "built in", "", "") for backend in BACKENDS}

    def find(name):
        if name == "broken":
            raise UserError("optimizer 'broken' cannot be imported")
        return plugins[name]

    names = sorted([*plugins, "broken"])
    monkeypatch.setattr(registry, "optimizer", find)
    monkeypatch.setattr(registry, "optimizer_names", lambda: names)
    monkeypatch.setattr(entry_points, "entries", lambda group: dict.fromkeys(names))


@pytest.mark.parametrize(("group", "expected"), [
    ("all", ["absent", "broken", "free", "half", "plain", "published", "rounds", "silent",
             "sketched"]),
    ("tuning-free", ["absent", "free"]), ("low-communication", ["half", "rounds", "sketched"]),
    ("paper", ["published"]),
])
def test_groups_are_what_backends_declare(group, expected):
    assert selection.members(group) == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("all,-plain,-paper", ["free", "half", "rounds", "silent", "sketched"]),
    ("plain[lr=[0.1,1]],low-communication", ["plain[lr=0.1]", "plain[lr=1]", "half", "rounds",
                                                "sketched"]),
    ("low-communication,half", ["half", "rounds", "sketched"]),
    ("half , low-communication", ["half", "rounds", "sketched"]),
    ("all,-all,plain", ["plain"]),
    ("plain[lr=[1,2,3]],-plain[lr=2]", ["plain[lr=1]", "plain[lr=3]"]),
    ("plain[lr=[1,2,3]],-plain[lr=[1,2]]", ["plain[lr=3]"]),
    ("plain[lr=[1,2]],free,-plain", ["free"]),
    ("plain,plain", ["plain", "plain"]),  # which the study refuses
    ("file.py[lr=[1,2]]", ["file.py[lr=1]", "file.py[lr=2]"]),
])
def test_what_a_text_names(text, expected):
    assert selection.select(text).selectors == expected


def test_members_that_cannot_run_are_left_out_with_a_note():
    found = selection.select("tuning-free")
    assert found.selectors == ["free"]
    assert found.notes == ["absent is left out: unavailable (package no_such_package is not "
                           "installed: pip install 'absent>=1')"]
    assert [note.split()[0] for note in selection.select("all").notes] == ["absent", "broken"]
    assert selection.select("all,-absent,-broken").notes == []
    # What is named itself is not left out: the study says that it is unavailable.
    assert selection.select("tuning-free,absent").selectors == ["absent", "free"]


@pytest.mark.parametrize(("text", "token"), [
    ("", "names none"), ("all,-all", "names none"), ("plain,-free", "-free' takes back nothing"),
    ("-plain,plain", "takes back nothing"),
    ("al", "unknown optimizer 'al'; did you mean all"),
    ("tuning-fre[lr=1]", "unknown optimizer 'tuning-fre'; did you mean tuning-free"),
    ("all[lr=1]", "takes no settings"), ("paper[preset=[code,paper]]", "takes no settings"),
])
def test_what_names_nothing_is_refused_in_one_line(text, token):
    with pytest.raises(UserError, match=token) as caught:
        selection.select(text)
    assert len(str(caught.value).splitlines()) == 1


def test_an_optimizer_goes_before_a_group_of_its_name(monkeypatch):
    own = registry.Plugin(replace(PLAIN, name="paper"), "built in", "", "")
    monkeypatch.setattr(entry_points, "entries", lambda group: {"paper": None})
    monkeypatch.setattr(registry, "optimizer", {"paper": own}.__getitem__)
    assert selection.select("paper[lr=1]").selectors == ["paper[lr=1]"]
