"""A trial that was stopped goes on as if nothing had happened, to the last bit."""

import pytest
from alike import assert_alike
from checkpoint_study import Folder, Ranks

from bench_apts.core import store
from bench_apts.core.files import write_json
from bench_apts.meters import soundness

OVERRIDES = ("suite.budget.samples=4000", "suite.evaluation.every_samples=1000",
             "suite.batch_size=32")
SPENT = ("setup_s", "warmup_s", "train_s", "eval_s", "checkpoint_s")


@pytest.fixture
def folder(tmp_path, digits):
    return lambda name: Folder(tmp_path / name, digits)


def check(folder, trial, steps):
    """Runs a trial at once, and with a stop in between."""
    plain = folder("plain").run(trial)
    assert plain.finished, plain.end.reason
    stopped = folder("stopped")
    first = stopped.run(trial, Ranks(steps))
    assert first.end.status == "interrupted"
    (written,) = first.checkpoints
    assert not written.skipped
    assert stopped.checkpoint(trial, written.samples).is_dir()
    resumed = stopped.run(trial)
    assert resumed.resumed == [written.samples]
    assert resumed.attempts == 2
    assert_alike(plain, resumed)
    # Set up and warmed up twice, and billed for it.
    for phase in ("setup", "warmup"):
        for collective, traffic in plain.end.comm.get(phase, {}).items():
            assert resumed.end.comm[phase][collective].calls == 2 * traffic.calls
    assert all(resumed.end.ledger[part] > 0 for part in SPENT)
    assert not (stopped.path / "checkpoints").exists()


@pytest.mark.parametrize(("selector", "ranks", "steps"), [
    ("sgd", 1, 77), ("adam", 2, 63), ("apts", 2, 20),
    ("apts-paper[solver=l-sr1,global_solver=tr-adam,window=3,growth=1.3,overlap=0.2]", 2, 5),
])
def test_a_stopped_trial_goes_on_bit_for_bit(folder, make_trial, selector, ranks, steps):
    check(folder, make_trial(selector, ranks, OVERRIDES), steps)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [63, 96], ids=["at an evaluation", "between two"])
@pytest.mark.parametrize("selector", [
    "adam-default", "nadamw", "schedule-free", "prodigy", "zero1", "zero2", "zero3"])
def test_every_backend_goes_on_bit_for_bit(folder, make_trial, selector, steps):
    check(folder, make_trial(selector, 2, OVERRIDES), steps)


@pytest.mark.slow
@pytest.mark.parametrize(("selector", "steps"), [
    ("local-adam", 20), ("napts[overlap=1]", 5), ("tr[global_solver=l-sr1,growth=1.5]", 22)])
def test_every_method_of_its_own_goes_on_bit_for_bit(folder, make_trial, selector, steps):
    check(folder, make_trial(selector, 2, OVERRIDES), steps)


def test_random_numbers_go_on_where_they_were(folder, make_trial, plugin):
    path = plugin(on_step=(
        "import random, numpy, torch; "
        "self.steps == 1 and (random.seed(0), numpy.random.seed(0)); "
        "batch = batch._replace(inputs=batch.inputs * (torch.rand(()) + random.random() "
        "+ numpy.random.rand()))"))
    noisy = 'suite.model={source="mechanics_models:Noisy"}'
    check(folder, make_trial(str(path), 1, (*OVERRIDES, noisy)), 77)


def test_what_a_killed_trial_did_after_its_checkpoint_is_not_on_record(folder, make_trial):
    trial = make_trial("adam", 2, OVERRIDES)
    plain = folder("plain").run(trial)
    killed = folder("killed")
    first = killed.run(trial, Ranks(110, fail=True), every=900)
    assert first.end.status == "error"
    assert [c.samples for c in first.checkpoints] == [1024, 2016, 3008]
    assert [e.samples for e in first.evals] == [0, 1024, 2016, 3008]
    names = [path.name for path in killed.checkpoint(trial, 0).parent.iterdir()]
    assert names == ["3008"], "older ones are removed"
    # A second one that was killed while the next was being written: the one before counts.
    with killed.events(trial).open("rb") as file:
        lines = file.read().splitlines(keepends=True)
    later = next(n for n, line in enumerate(lines) if b'"samples":3008' in line)
    assert b'"event":"eval"' in lines[later]
    part = killed.checkpoint(trial, 3008).parent / ".part-3104"
    part.mkdir()
    resumed = killed.run(trial, every=900)
    assert resumed.resumed == [3008]
    assert not part.exists()
    assert_alike(plain, resumed)


def test_planted_lies_about_a_resumed_trial_are_found(folder, make_trial, make_study):
    trial = make_trial("sgd", 1, OVERRIDES)
    stopped = folder("stopped")
    stopped.run(trial, Ranks(77))
    stopped.run(trial)
    write_json(stopped.path / "study.json",
                     store.StudyFile(make_study("sgd"), [], store.now(), {}))
    assert soundness.check(stopped.path) == (1, [])
    path = stopped.events(trial)
    sound = path.read_text()

    def found(old, new, where=0):
        head, *tail = sound.split(old)
        assert tail
        path.write_text(old.join([head, *tail[:where]]) + new + old.join(tail[where:]))
        (line, *_) = soundness.check(stopped.path)[1]
        return line

    assert "goes on from 2400 samples, where no checkpoint was written" in found(
        '"resumed":2464', '"resumed":2400')
    assert "differ in their start" in found('"train_samples":1197', '"train_samples":1198', 1)
    assert "the checkpoint at 2464 samples has step 7" in found(
        '"event":"checkpoint","step":77', '"event":"checkpoint","step":7')
    assert "runs backwards" in found('"step":63,', '"step":1,')
