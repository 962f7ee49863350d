"""The commands that only show something: complete, quick, and without torch."""

import json
import os
import subprocess
import sys

import pytest
import warm_processes

from bench_apts import __version__
from bench_apts.cli import commands, main
from bench_apts.plugins import registry

WATCH = """
import sys
from bench_apts.cli import main
sys.argv = ["bench-apts", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {"torch", "deepspeed", "torchvision"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""


@pytest.mark.parametrize("arguments", [
    ("--help",), ("--version",), ("run", "--help"), ("list",), ("list", "--json"), ("info",),
    ("show", "adam"), ("show", "zero3"), ("show", "digits@tanh"), ("show", "classification"),
    ("report", "FOLDER"),
    ("check", "FOLDER"), ("project", "FOLDER"), ("cost", "FOLDER", "--no-replay"),
    ("tune", "--help"), ("compare", "FOLDER", "sgd", "adam"), ("new", "suite", "mine"),
    ("test", "--help"), ("calibrate", "--help"),
], ids=" ".join)
def test_torch_is_not_imported(arguments, environment, finished, tmp_path):
    arguments = [str(finished.folder) if a == "FOLDER" else a for a in arguments]
    done = subprocess.run([sys.executable, "-c", WATCH, *arguments], env=environment,
                          cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_help_names_every_command(cli):
    done = cli("--help")
    assert done.code == 0
    for name in ("run", "tune", "list", "info", "report", "check", "project", "cost", "compare",
                 "new", "test", "calibrate", "show", "import"):
        assert name in done.out
    assert not [line for line in done.out.splitlines() if line.endswith("...")][1:]  # cut off
    assert cli("--version").out == f"bench-apts {__version__}\n"
    for option in ("--suite", "--gpus", "--optimizers", "--trials", "--seeds", "--data-dir",
                   "--out", "--set", "--dry-run", "--offline"):
        assert option in cli("run", "--help").out


@pytest.mark.parametrize(("words", "expected"), [
    ("bench-apts re", ["report"]),
    ("bench-apts cal", ["calibrate"]),
    ("bench-apts run --opt", ["--optimizers"]),
    ("bench-apts run --conf", ["--config"]),
    ("bench-apts run --config study.toml --pruner h", ["hyperband"]),
    ("bench-apts sho", ["show"]),
    ("bench-apts run --pruner h", ["hyperband"]),
])
def test_the_shell_completes_commands_and_options(environment, tmp_path, words, expected):
    done = warm_processes.run(
        [sys.executable, "-m", "bench_apts"], cwd=tmp_path, env=environment | {
            "_BENCH_APTS_COMPLETE": "complete_bash", "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" "))})
    assert (done.stdout.split(), done.stderr) == (expected, "")


def test_ctrl_c_before_the_commands_are_there(environment):
    code = ("import sys\nfrom bench_apts.cli import main\n"
            "class Interrupted:\n"
            "    def find_spec(name, *args):\n"
            "        if name == 'bench_apts.cli.commands': raise KeyboardInterrupt\n"
            "sys.meta_path.insert(0, Interrupted)\nmain()")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True,
                          text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "bench-apts: interrupted\n")


def test_list_names_everything_with_origin_and_summary(cli):
    everything = cli("list").out
    for name in (*registry.suite_names(), *registry.optimizer_names()):
        assert name in everything
    assert "built in" in everything
    assert registry.suite("digits").summary in everything
    optimizers = cli("list", "optimizers").out
    assert "sgd" in optimizers
    assert "mnist" not in optimizers
    apts = next(line for line in optimizers.splitlines() if line.split()[:1] == ["apts"])
    assert apts.rstrip().endswith("tuning-free")
    suites = cli("list", "suites").out
    assert "mnist" in suites
    assert "zero2" not in suites


def test_list_as_json_has_the_same_keys_for_all_of_a_kind(cli):
    found = json.loads(cli("list", "--json").out)
    assert [*found] == ["suites", "optimizers", "tasks"]
    for rows in found.values():
        assert len({tuple(row) for row in rows}) == 1
        assert [*rows[0]][:5] == ["name", "origin", "summary", "available", "reason"]
    optimizers = {row["name"]: row for row in found["optimizers"]}
    assert sorted(optimizers) == registry.optimizer_names()
    apts = optimizers["apts"]
    assert (apts["tuning_free"], apts["family"], apts["groups"]) == (
        True, "APTS", ["all", "tuning-free", "low-communication"])
    assert optimizers["zero2"]["requires"] == ["deepspeed"]
    digits = next(row for row in found["suites"] if row["name"] == "digits@tanh")
    assert (digits["task"], digits["metric"], digits["target"]) == (
        "classification", "accuracy", 0.95)
    assert [*json.loads(cli("list", "tasks", "--json").out)] == ["tasks"]


def test_list_says_what_cannot_run_here(cli, monkeypatch):
    monkeypatch.setattr(
        "bench_apts.plugins.backend.installed", lambda name: name != "deepspeed"
    )
    lines = cli("list", "optimizers").out.splitlines()
    (zero2,) = [line for line in lines if line.split()[:1] == ["zero2"]]
    (sgd,) = [line for line in lines if line.split()[:1] == ["sgd"]]
    assert "unavailable (package deepspeed is not installed: pip install 'deepspeed')" in zero2
    assert "unavailable" not in sgd
    rows = json.loads(cli("list", "optimizers", "--json").out)["optimizers"]
    assert {row["name"] for row in rows if not row["available"]} == {
        "zero1", "zero2", "zero3", "zero-offload", "zeropp", "onebit-adam"}
    assert all(bool(row["reason"]) is not row["available"] for row in rows)


def test_info_shows_the_environment_card(cli):
    done = cli("info")
    assert done.code == 0
    for part in ("hostname", "cores", "python", "versions", "torch"):
        assert part in done.out


def test_the_report_is_built_again_from_the_records(cli, finished):
    page = finished.folder / "report.html"
    before = page.read_bytes()
    page.unlink()
    done = cli("report", finished.folder)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == f"report: {page}"
    assert page.read_bytes() == before


def test_a_reader_that_goes_away_is_no_error(environment, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "bench_apts", "list"], env=environment,
                          stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.returncode in (1, 128 + 13)
    assert done.stderr == ""


def test_an_interrupt_anywhere_in_a_command_ends_in_a_line(monkeypatch, capsys):
    """Also outside of the blocks in which commands end in order; Typer itself says nothing."""
    def interrupt():
        raise KeyboardInterrupt

    known = {command.name: command for command in commands.app.registered_commands}
    monkeypatch.setattr(known["info"], "callback", interrupt)
    monkeypatch.setattr(sys, "argv", ["bench-apts", "info"])
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # main replaces it
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert capsys.readouterr().err == "bench-apts: interrupted\n"
