"""docs/optimizers.md: its examples run as written, and it knows the whole contract."""

import dataclasses
import re
from pathlib import Path

import pytest

from bench_apts.core import store
from bench_apts.core.configuration import parse_selector
from bench_apts.plugins import backend, optimizer_contract, registry

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "optimizers.md").read_text(encoding="utf-8")
EXAMPLES = {name: DOCS / "examples" / f"{file}.py" for name, file in {
    "my-nadam": "my_optimizer", "my-signs": "my_stepper", "my-lion": "my_lion",
    "my-lbfgs": "my_lbfgs", "my-adopt": "my_adopt"}.items()}


def test_the_examples_run_from_the_command_line(command, tmp_path):
    found = {name: path for name, path in EXAMPLES.items()
             if registry.optimizer(str(path)).backend.unavailable() is None}
    done = command(
        "run", "--optimizers", ",".join(map(str, found.values())), "--gpus", "2", "--trials", "1",
        "--seeds", "1", "--no-twins", "--offline", "--set", "suite.budget.samples=2000",
        "--set", "suite.evaluation.every_samples=500", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Path(done.stdout.strip().splitlines()[-1].removeprefix("report: ")).is_file()
    records = store.read_trials(tmp_path / "digits")
    assert sorted((r.trial.optimizer, r.trial.stage) for r in records) == [
        (name, stage) for name in sorted(found) for stage in ("report", "tune")]
    for record in records:
        assert record.end is not None
        assert record.end.status in ("hit", "miss"), record.end.traceback
        sent, gradient = record.end.comm["train"]["all_reduce"], 4 * record.start.parameters
        if record.trial.optimizer == "my-lbfgs":  # a gradient and a loss in each closure
            assert sent.payload_bytes == sent.calls // 2 * (gradient + 4)
            assert sent.calls > 4 * record.evals[-1].step
        else:  # n parameters once a step
            assert sent.payload_bytes == record.evals[-1].step * gradient


def test_the_first_example_is_short_and_stands_in_the_text():
    source = EXAMPLES["my-nadam"].read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 40
    assert len(EXAMPLES["my-lion"].read_text(encoding="utf-8").splitlines()) <= 30
    assert f"```python\n{source}```" in TEXT


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_are_tuned(name):
    backend = registry.optimizer(str(EXAMPLES[name])).backend
    assert backend.name == name
    assert f"(examples/{EXAMPLES[name].name})" in TEXT
    assert "lr" in backend.searched()


@pytest.mark.parametrize("selector", sorted(set(re.findall(r"`(apts\[[^`]+\])`", TEXT))))
def test_selectors_of_ablations_are_valid(selector):
    entry = parse_selector(selector)
    values = registry.optimizer(entry.optimizer).backend.configure(entry.pinned)
    assert values != registry.optimizer(entry.optimizer).backend.configure({})


@pytest.mark.parametrize("declared", [
    backend.Backend, optimizer_contract.World, optimizer_contract.StepReport])
def test_every_field_of_the_contract_is_explained(declared):
    for field in dataclasses.fields(declared):
        assert f"`{field.name}`" in TEXT, field.name
    assert f"`{declared.__name__}`" in TEXT


def test_every_method_of_a_stepper_is_explained():
    for name in ("step", "state_dict", "load_state_dict", "evaluation_model"):
        assert hasattr(optimizer_contract.Stepper, name)
        assert f"`{name}(" in TEXT


def test_every_built_in_backend_is_in_the_table():
    for name in registry.optimizer_names():
        if registry.optimizer(name).origin == "built in":
            assert f"`{name}`" in TEXT
