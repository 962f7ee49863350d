"""Every broken plug-in is caught in a real trial by one line; honest ones are not."""

import pytest
from plugins import BROKEN, FINE, TOGETHER, source

from bench_apts.core import store
from bench_apts.meters import soundness

SHORT = ("--trials", "0", "--seeds", "1", "--no-twins", "--no-report", "--offline",
         "--set", "suite.budget.samples=2560", "--set", "suite.evaluation.every_samples=1280")


@pytest.fixture(scope="module")
def records(command, tmp_path_factory):
    """The record of each plug-in, in studies of many at one rank or at two."""
    folder = tmp_path_factory.mktemp("plugins")
    found = {}
    plugins = FINE | {name: broken for name, (broken, _) in BROKEN.items()}
    for ranks, chosen in ((1, plugins.keys() - TOGETHER), (2, TOGETHER)):
        files = [folder / f"{name}.py" for name in sorted(chosen)]
        for file in files:
            file.write_text(source(file.stem, plugins[file.stem]))
        command("run", "--gpus", ranks, "--optimizers", ",".join(map(str, files)), *SHORT,
                "--out", folder, "--study", ranks)
        found |= {record.trial.optimizer: record
                  for record in store.read_trials(folder / str(ranks))}
    return folder, found


@pytest.mark.slow
@pytest.mark.parametrize("name", FINE)
def test_honest_plugins_run_to_their_end(records, name):
    _, found = records
    assert found[name].end.status in ("hit", "miss"), found[name].end.reason


@pytest.mark.parametrize("name", BROKEN)
def test_broken_plugins_are_caught(records, name):
    _, found = records
    _, token = BROKEN[name]
    end = found[name].end
    assert end.status == "error"
    assert "ContractError" in end.reason
    assert token in end.reason
    assert len(end.reason) < 500


def test_what_was_caught_can_be_read(records):
    folder, found = records
    assert len(found) == len(FINE) + len(BROKEN)
    for ranks in "12":
        _, problems = soundness.check(folder / ranks)
        assert problems == []


def test_a_method_pays_for_what_it_does_to_be_evaluated(records):
    _, found = records
    declared, honest = found["declared"], found["honest"]
    evaluations = len(declared.evals)
    for record, extra in ((honest, 0), (declared, 1)):
        last = record.evals[-1]
        assert last.forwards == last.counted.forwards == last.step + extra * evaluations
        assert last.samples == last.step * 64 + extra * evaluations * 2 * record.trial.ranks
        assert last.backwards == last.counted.backwards == last.step


@pytest.mark.parametrize(("name", "passed"), [("prepares", 3), ("draws-to-prepare", 0)])
def test_a_method_pays_for_what_it_draws_to_prepare(records, name, passed):
    _, found = records
    record = found[name]
    last, evaluations = record.evals[-1], len(record.evals)
    drawn = evaluations * 64 * max(1, passed)
    assert last.forwards == last.counted.forwards == last.step + evaluations * passed
    assert last.backwards == last.step
    assert last.samples == last.counted.samples == last.step * 64 + drawn


def test_over_claiming_is_no_lie(records):
    _, found = records
    last = found["over-claims"].evals[-1]
    assert last.samples == 2 * last.counted.samples
    assert last.forwards == 7 * last.counted.forwards
