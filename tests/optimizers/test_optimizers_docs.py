"""docs/optimizers.md: its examples run as written, and it knows the whole contract."""

import dataclasses
from pathlib import Path

import pytest

from bench_apts.core import store
from bench_apts.plugins import backend, optimizer_contract, registry

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "optimizers.md").read_text(encoding="utf-8")
EXAMPLES = [DOCS / "examples" / "my_optimizer.py", DOCS / "examples" / "my_stepper.py"]


def test_the_examples_run_from_the_command_line(command, tmp_path):
    done = command(
        "run", "--optimizers", ",".join(map(str, EXAMPLES)), "--gpus", "2", "--trials", "1",
        "--seeds", "1", "--no-twins", "--offline", "--set", "suite.budget.samples=2000",
        "--set", "suite.evaluation.every_samples=500", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Path(done.stdout.strip().splitlines()[-1].removeprefix("report: ")).is_file()
    records = store.read_trials(tmp_path / "digits")
    assert sorted((r.trial.optimizer, r.trial.stage) for r in records) == [
        (name, stage) for name in ("my-nadam", "my-signs") for stage in ("report", "tune")]
    for record in records:
        assert record.end is not None
        assert record.end.status in ("hit", "miss"), record.end.traceback
        # Both send their n parameters once a step.
        sent = record.end.comm["train"]["all_reduce"]
        assert sent.payload_bytes == record.evals[-1].step * 4 * record.start.parameters


def test_the_first_example_is_short_and_stands_in_the_text():
    source = EXAMPLES[0].read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 40
    assert f"```python\n{source}```" in TEXT


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_tuned(path):
    backend = registry.optimizer(str(path)).backend
    assert "lr" in backend.searched()


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
