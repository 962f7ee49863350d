"""Modules in the folder of a plug-in file: found, hashed, and never those of another folder."""

import os
import subprocess
import sys

import pytest

from bench_apts.core import store
from bench_apts.core.errors import UserError
from bench_apts.plugins import registry, user_code
from bench_apts.plugins.user_code import SiblingModules

SMALL = ("--set", "suite.budget.samples=2000", "--set", "suite.evaluation.every_samples=500")

USES = """
from my_rates import factor


def build(model, loss, values, world):
    from my_parts import late  # as a plug-in imports torch: when it is built

    stepper = Stepper(model, loss, values, world)
    stepper.optimizer.param_groups[0]["lr"] *= factor * late.FACTOR
    return stepper


backend = Backend(
    name="{name}", summary="", build=build, tuning_free=True,
    hyperparameters={{"lr": Hyperparameter(0.1, "learning rate")}}, {options})
"""


@pytest.fixture
def write(tmp_path, plugin):
    """Writes a plug-in file with a module and a package beside it; returns its path."""
    stepper = plugin("stepper.py").read_text().split("def build")[0]

    def write(folder="a", name="mine", factor=1.0, options=""):
        place = tmp_path / folder
        (place / "my_parts").mkdir(parents=True, exist_ok=True)
        (place / "my_rates.py").write_text(f"factor = {factor}\n")
        (place / "my_parts" / "__init__.py").write_text("")
        (place / "my_parts" / "late.py").write_text("from .deeper import FACTOR\n")
        (place / "my_parts" / "deeper.py").write_text("FACTOR = 1.0\n")
        (place / "my_parts" / "unused.py").write_text("")
        (place / "other.py").write_text("")
        path = place / "mine.py"
        path.write_text(stepper + USES.format(name=name, options=options))
        return path

    return write


def run(command, out, *plugins, gpus, cwd=None):
    done = command("run", "--optimizers", ",".join(map(str, plugins)), "--gpus", gpus, "--seeds",
                   "1", "--no-twins", "--no-report", "--offline", "--out", out, *SMALL, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    records = store.read_trials(out / "digits")
    assert all(r.end.status in ("hit", "miss") for r in records), [r.end for r in records]
    return records


def test_the_files_that_a_plugin_imports_are_known_without_running_them(write):
    path = write()
    (path.parent / "my_rates.py").write_text("import my_parts\nraise SystemExit\n")
    found = [str(file.relative_to(path.parent)) for file in SiblingModules(path).files()]
    assert found == ["my_parts/__init__.py", "my_parts/deeper.py", "my_parts/late.py",
                     "my_rates.py"]


@pytest.mark.parametrize(("statement", "imported"), [
    ("import one", ["one.py"]), ("import one as other, pack.sub.leaf", [
        "one.py", "pack/__init__.py", "pack/sub/leaf.py"]),
    ("from pack import inner", ["pack/__init__.py", "pack/inner.py"]),
    ("from pack.sub import leaf, nothing", ["pack/__init__.py", "pack/sub/leaf.py"]),
    ("if False:\n    import one", ["one.py"]),
    ("def f():\n    class A:\n        from one import x", ["one.py"]),
    ("import round_about", ["one.py", "round_about.py"]),
    ("import broken", ["broken.py"]), ("import missing, json, random", []),
    ("from pack import up", ["one.py", "pack/__init__.py", "pack/inner.py", "pack/up.py"]),
    ("text = 'import one'", []),
])
def test_every_form_of_import_is_seen(tmp_path, statement, imported):
    for name, text in {
            "one": "x = 1", "broken": "def (", "random": "", "pack/__init__": "",
            "pack/inner": "", "pack/sub/leaf": "", "round_about": "import one, plug, round_about",
            "pack/up": "from . import inner\nfrom .. import one\nimport one"}.items():
        file = tmp_path / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    plug = tmp_path / "plug.py"
    plug.write_text(statement + "\n")
    assert [str(f.relative_to(tmp_path)) for f in SiblingModules(plug).files()] == imported


def test_a_changed_helper_changes_the_hash_and_other_files_do_not(write):
    path = write()
    hashes = [registry.optimizer(str(path)).sha256]
    for name in ("other.py", "my_parts/unused.py"):
        (path.parent / name).write_text("changed = 1\n")
    assert registry.optimizer(str(path)).sha256 == hashes[0]
    for name in ("my_rates.py", "my_parts/__init__.py", "my_parts/deeper.py"):
        (path.parent / name).write_text((path.parent / name).read_text() + "\nchanged = 1\n")
        hashes.append(registry.optimizer(str(path)).sha256)
    assert len(set(hashes)) == 4


def test_nothing_of_a_folder_stays_importable(write):
    before = list(sys.meta_path), list(sys.path)
    registry.optimizer(str(write()))
    assert (sys.meta_path, sys.path) == before
    assert not [name for name in sys.modules if name.startswith(("my_rates", "my_parts"))]


def test_a_file_hides_no_module_of_others(tmp_path):
    for name in ("random", "torch", "json"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not this one')\n")
    code = ("import random, json.decoder\n"
            "from bench_apts.contract import Backend\n"
            "assert random.__file__ != __file__.replace('plug', 'random')\n"
            "def build(model, loss, values, world):\n"
            "    import torch\n    return torch.__version__\n"
            "backend = Backend('mine', '', {}, build)\n")
    path = tmp_path / "plug.py"
    path.write_text(code)
    check = ("import sys; from bench_apts.plugins import registry; "
             "print(registry.optimizer(sys.argv[1]).backend.build(1, 2, 3, 4))")
    done = subprocess.run([sys.executable, "-c", check, str(path)], capture_output=True,
                          text=True, check=False, cwd=tmp_path.parent)
    assert done.returncode == 0, done.stderr
    assert SiblingModules(path).files() == []


def test_equal_names_in_two_folders_do_not_meet(write):
    asked = ("batch_size=lambda batch, values, ranks: int(__import__('my_rates').factor), "
             "sampling=lambda values: __import__('bench_apts.contract').contract.Sampling("
             "growth=__import__('my_rates').factor),")
    first = registry.optimizer(str(write("a", "one", 3.0, asked))).backend
    second = registry.optimizer(str(write("b", "two", 5.0, asked))).backend
    for _ in range(2):
        assert [b.minibatch(64, {}, 1) for b in (first, second)] == [3, 5]
        assert [b.slicing({}).growth for b in (second, first)] == [5.0, 3.0]


@pytest.mark.parametrize(("text", "token"), [
    ("def (", "SyntaxError"), ("import no_such_module_anywhere", "no_such_module_anywhere"),
    ("raise SystemExit(3)", "SystemExit")])
def test_a_helper_that_cannot_be_imported_ends_in_a_line(write, text, token):
    path = write()
    (path.parent / "my_rates.py").write_text(text + "\n")
    with pytest.raises(UserError, match=token) as caught:
        registry.optimizer(str(path))
    line = path.read_text().splitlines().index("from my_rates import factor") + 1
    assert str(caught.value).startswith(f"{path}:{line} cannot be imported")


def test_helpers_are_found_in_the_ranks_each_plugin_its_own(write, command, tmp_path):
    one, two = write("a", "one", 1.0), write("b", "two", 0.0)
    records = run(command, tmp_path / "out", one, two, gpus="2")
    losses = {r.trial.label: [e.validation["loss"] for e in r.evals] for r in records}
    assert set(losses) == {"one", "two"}
    assert losses["one"][-1] < losses["one"][0]  # its factor is 1
    assert len(set(losses["two"])) == 1  # its factor is 0


@pytest.mark.slow
def test_a_changed_helper_is_another_trial_and_a_moved_folder_is_not(write, command, tmp_path):
    path, out = write("a"), tmp_path / "out"
    first = run(command, out, path, gpus="1")
    path = path.parent.rename(tmp_path / "moved") / path.name
    # From another folder, and by another spelling of the path.
    assert run(command, out, f"./{path.name}", gpus="1", cwd=path.parent) == first
    (path.parent / "my_parts" / "deeper.py").write_text("FACTOR = 0.5\n")
    records = run(command, out, path, gpus="1")
    assert len({r.header.run_id for r in records}) == len(records) == 2
    assert len({r.trial.plugin_sha256 for r in records}) == 2
    checked = command("check", out / "digits")
    assert checked.returncode == 0, checked.stdout


def test_a_file_that_was_changed_within_a_second_is_read_again(tmp_path, monkeypatch):
    """Python's bytecode is taken for a file's by its size and the second of its last change."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    package = tmp_path / "parts"
    package.mkdir()
    files = [tmp_path / "own.py", tmp_path / "helper.py", package / "__init__.py",
             package / "part.py"]
    texts = ["import helper, parts.part\nvalues = [{}, helper.value, parts.value,"
             " parts.part.value]",
             "value = {}", "value = {}", "value = {}"]
    for number in (1, 2):
        for file, text in zip(files, texts, strict=True):
            file.write_text(text.format(number))
            os.utime(file, (1, 1))
        module, _ = user_code.from_file(files[0], "optimizer")
        assert module.values == [number] * 4
