"""``bench-apts show``: what optimizers, suites and tasks declare, installed or in files."""

import pytest

from bench_apts.plugins import registry


def facts(done):
    """The lines of a table without a head, by their first word."""
    assert done.code == 0, done.err
    return {line.split()[0]: " ".join(line.split()[1:])
            for line in done.out.splitlines() if line.startswith(" ") and line.strip()}


def test_an_optimizer_with_its_knobs_and_both_search_spaces(cli):
    shown = facts(cli("show", "adam"))
    assert shown["summary"] == registry.optimizer("adam").backend.summary
    assert shown["tuned"] == "lr"
    assert shown["sends"].startswith("2f·P a step")
    assert shown["code"] == "bench_apts.optimizers.adam:backend"
    assert shown["lr"] == ("0.001 peak learning rate float above 0 0.0001 to 0.1, logarithmic "
                           "1e-05 to 1, logarithmic")
    assert shown["beta1"].endswith("float from 0 and below 1 – 0.8 to 0.98")


def test_what_makes_an_optimizer_special(cli):
    apts = cli("show", "apts")
    assert facts(apts)["groups"] == "all, tuning-free, low-communication"
    assert "twice as much in its first 16 rounds" in apts.out
    assert "developed on  digits, mnist" in apts.out
    listed = cli("show", "nadamw-list").out
    assert "5 configurations in their order" in listed
    assert "configuration 5: lr=0.00174" in listed
    assert "AlgoPerf" in listed.splitlines()[-1] + listed
    paper = cli("show", "apts-paper").out
    assert "paper, reference, 2026" in paper
    assert "preset 2026: " in paper


def test_a_file_of_ones_own(cli, plugin):
    path = plugin(options='requires=("no_such_package",),')
    done = cli("show", path)
    shown = facts(done)
    assert done.out.startswith(f"optimizer mine ({path})")
    assert shown["available"].startswith("no: package no_such_package is not installed")
    assert shown["source"] == str(path)


def test_a_suite_with_its_target_and_variants(cli):
    shown = facts(cli("show", "digits"))
    assert shown["data"] == "name = digits, validation = 300"
    assert shown["budget"] == "28,000 samples or 120 s"
    assert shown["target"].startswith("validation accuracy of at least 95 % (version ")
    assert "digits@tanh" in shown["variants"]
    variant = facts(cli("show", "digits@tanh"))
    assert "'activation': 'tanh'" in variant["model"]
    assert "variants" not in variant
    assert facts(cli("show", registry.suite_path("digits"))) == shown


def test_a_task_with_its_metrics(cli):
    done = cli("show", "classification")
    assert facts(done)["metrics"] == "accuracy (max, %)"
    assert "Cross-entropy is trained" in done.out


def test_all_that_have_a_name_are_shown(cli, monkeypatch):
    names = registry.suite_names()
    monkeypatch.setattr(registry, "suite_names", lambda: [*names, "sgd"])
    find = registry.suite_path
    monkeypatch.setattr(registry, "suite_path",
                        lambda name: find("digits" if name == "sgd" else name))
    out = cli("show", "sgd").out
    assert out.startswith("optimizer sgd (built in)")
    assert "\nsuite digits (" in out


@pytest.mark.parametrize(("name", "expected"), [
    ("adm", "unknown optimizer, suite or task 'adm'; did you mean adam"),
    ("none.py", "no optimizer file none.py"), ("none.toml", "cannot read suite none.toml"),
    ("digits@tan", "did you mean tanh"),
])
def test_unknown_names_are_refused_in_one_line(cli, name, expected):
    done = cli("show", name)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert expected in done.err
