"""Suites that name data, networks and tasks of the user's: they run, or are refused in a line."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from bench_apts.core import store
from bench_apts.core.errors import UserError
from bench_apts.meters import soundness
from bench_apts.plugins import registry, suite_file
from bench_apts.study.suite_network_checks import rehearse_batch
from bench_apts.suites import data, user_data
from bench_apts.suites.suite_problem import SuiteProblem, resolved
from bench_apts.tasks.named_tasks import READY

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "suites"
SUITES = sorted(EXAMPLES.glob("*.toml"))

SOURCE = """
import numpy as np, torch
from torch import nn
from bench_apts.tasks import Metric, Task

calls = 0
X, Y = np.random.default_rng(0).random((40, 3)), np.arange(40) % 2

def splits(kind="plain"):
    global calls
    calls += 1
    x, y = X.copy(), Y.copy()
    rows = [(a, b) for a, b in zip(x, y)]
    return {
        "plain": lambda: ((x[:30], y[:30]), (x[30:], y[30:])),
        "tensors": lambda: tuple((torch.tensor(x[part]), torch.tensor(y[part]))
                                 for part in (slice(30), slice(30, None))),
        "rows": lambda: (rows[:30], rows[30:]),
        "mapping": lambda: {"train": (x[:20], y[:20]), "validation": (x[20:30], y[20:30]),
                            "test": (x[30:], y[30:])},
        "three": lambda: ((x[:20], y[:20]), (x[20:30], y[20:30]), (x[30:], y[30:])),
        "nan": lambda: ((np.where(x > 0.9, np.nan, x), y), (x, y)),
        "infinite targets": lambda: ((x, y / 0.0), (x, y / 1.0)),
        "empty": lambda: ((x, y), (x[:0], y[:0])),
        "no rows": lambda: (rows, []),
        "lengths": lambda: ((x, y[:-1]), (x, y)),
        "features": lambda: ((x, y), (x[:, :2], y)),
        "dtypes": lambda: ((x, y), (x, y / 1.0)),
        "negative": lambda: ((x, y - 1), (x, y)),
        "float labels": lambda: ((x, y / 1.0), (x, y / 1.0)),
        "too many classes": lambda: ((x, y * 7), (x, y)),
        **{f"label beyond the outputs: {part}": lambda part=part: {
            name: (x[:20], np.where(np.arange(20) == 13, 2, y[:20]) if name == part else y[:20])
            for name in ("train", "validation", "test")}
           for part in ("train", "validation", "test")},
        **{f"token beyond the embedding: {part}": lambda part=part: {
            name: (np.arange(20)[:, None] % (9 if name == part else 8), y[:20])
            for name in ("train", "validation", "test")}
           for part in ("train", "validation", "test")},
        "text": lambda: ((x.astype(str), y), (x.astype(str), y)),
        "ragged": lambda: ([(x[0], 0), (x[1][:2], 1), (x[2], 0)], rows),
        "iterable": lambda: (iter(rows), rows),
        "one": lambda: x,
        "strange split": lambda: {"train": (x, y), "dev": (x, y), "test": (x, y)},
        "random": lambda: ((x + calls, y), (x, y)),
        "raises": lambda: 1 / 0,
    }[kind]()

def net(outputs=2):
    return nn.Linear(3, outputs)

def embedding():
    return nn.Sequential(nn.Embedding(8, 2), nn.Flatten())

class Mean(Task):
    def losses(self, model, batch):
        return model(batch.inputs).mean()

class Nothing(Task):
    def losses(self, model, batch):
        return batch.inputs.mean(1)

class Undefined(Task):
    metrics = {"gone": Metric("max")}
    def losses(self, model, batch):
        return model(batch.inputs).sum(1)

class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Linear(3, 2), nn.Linear(3, 2)
    def forward(self, x):
        return self.used(x)

class Wrong:
    pass

number = 3
"""

SUITE = {
    "name": "mine", "summary": "", "batch_size": 8,
    "data": {"source": "mine.py:splits", "validation": 10}, "model": {"source": "mine.py:net"},
    "budget": {"samples": 100, "seconds": 60}, "evaluation": {"every_samples": 50},
    "target": {"metric": "accuracy", "direction": "max", "value": 0.9,
               "provenance": {"optimizer": "none", "trials": 0, "seeds": 0}}}


@pytest.fixture
def tried(tmp_path, cache):
    """Reads, prepares and rehearses a suite; changes are merged into its tables."""
    (tmp_path / "mine.py").write_text(SOURCE, encoding="utf-8")

    def run(**changes):
        raw = {**SUITE}
        for key, value in changes.items():
            raw[key] = {**raw[key], **value} if key in raw and isinstance(value, dict) else value
        kinds = raw["data"].get("options", {}).get("kind")
        if kinds in ("mapping", "three") or "beyond" in (kinds or ""):
            raw["data"] = {k: v for k, v in raw["data"].items() if k != "validation"}
        path = tmp_path / "mine.toml"
        path.write_text(_toml(raw), encoding="utf-8")
        suite = resolved(suite_file.load(path), str(tmp_path))
        problem = SuiteProblem(suite, str(tmp_path))
        problem.metric()
        prepared = user_data.prepare(suite, problem, None, cache)
        dataset = data.load(prepared.folder)
        rehearse_batch(problem, dataset)
        return suite, prepared, dataset

    return run


def _toml(table):
    """Write a nested table as one inline table a key."""
    def value(item):
        if isinstance(item, dict):
            return "{ " + ", ".join(f"{k} = {value(v)}" for k, v in item.items()) + " }"
        return f'"{item}"' if isinstance(item, str) else str(item)

    return "\n".join(f"{key} = {value(item)}" for key, item in table.items())


def test_arrays_tensors_rows_and_named_splits_hold_the_same_samples(tried):
    found = {kind: tried(data={"options": {"kind": kind}})[2]
             for kind in ("plain", "tensors", "rows", "mapping", "three")}
    for dataset in found.values():
        assert np.array_equal(dataset.test_inputs, found["plain"].test_inputs)
        assert np.array_equal(dataset.test_targets, found["plain"].test_targets)
        assert dataset.train_inputs.dtype == np.float32
        assert dataset.classes == 2
        np.testing.assert_allclose(dataset.mean, dataset.train_inputs.mean(0), rtol=1e-5)
        np.testing.assert_allclose(dataset.std, dataset.train_inputs.std(0), rtol=1e-5)
    assert len(found["three"].validation_targets) == 10
    assert found["plain"].sha256 == found["rows"].sha256 == found["tensors"].sha256
    assert found["mapping"].sha256 == found["three"].sha256 != found["plain"].sha256


def test_given_moments_are_taken_and_equal_data_is_cached_once(tried):
    assert tried(data={"mean": 0.0, "std": 1.0})[2].mean == (0.0,)
    assert tried()[1].folder == tried()[1].folder


def test_the_code_is_part_of_the_suite(tried, tmp_path):
    before = tried()[0]
    path = tmp_path / "mine.py"
    path.write_text(SOURCE + "\n# changed\n", encoding="utf-8")
    after = resolved(suite_file.load(tmp_path / "mine.toml"), str(tmp_path))
    assert before.code_sha256 != after.code_sha256
    assert msgspec.structs.replace(after, code_sha256=before.code_sha256) == before


KINDS = [("nan", "NaN"), ("infinite targets", "infinity"), ("empty", "empty"),
         ("no rows", "empty"), ("lengths", "39"), ("features", "(2,)"), ("dtypes", "float32"),
         ("negative", "-1"), ("float labels", "integers"), ("too many classes", "batch"),
         ("text", "numbers"), ("ragged", "shape"), ("iterable", "iterable"), ("one", "ndarray"),
         ("strange split", "dev"), ("random", "two calls"), ("raises", "ZeroDivisionError")]


@pytest.mark.parametrize(("kind", "token"), KINDS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_data_that_cannot_be_used_is_refused_in_one_line(tried, kind, token):
    with pytest.raises(UserError) as caught:
        tried(data={"options": {"kind": kind}})
    assert token in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("changes", "token"), [
    ({"data": {"source": "gone.py:splits"}}, "gone.py"),
    ({"data": {"source": "mine.py:splitz"}}, "splits"),
    ({"data": {"source": "no_such_module:x"}}, "ModuleNotFoundError"),
    ({"data": {"source": "mine.py:number"}}, "int"),
    ({"data": {"source": "mine.py"}}, "data.source"),
    ({"data": {"options": {"knd": "plain"}}}, "knd"),
    ({"data": {"validation": 0}}, "validation"),
    ({"data": {"validation": 30}}, "validation"),
    ({"data": {"mean": 0.0, "std": 0.0}}, "std"),
    ({"model": {"source": "mine.py:Wrong"}}, "Module"),
    ({"model": {"source": "mine.py:Unused"}}, "idle.weight"),
    ({"model": {"options": {"outputs": 1}}}, "batch"),
    ({"task": {"name": "regresion"}}, "regression"),
    ({"task": {"name": "regression", "options": {"unti": "K"}}}, "unti"),
    ({"task": {"name": "regression"}}, "rmse"),
    ({"task": {"source": "mine.py:Wrong"}}, "Task"),
    ({"task": {"source": "mine.py:Mean"}, "target": {"metric": "loss", "direction": "min"}},
     "per sample"),
    ({"task": {"source": "mine.py:Nothing"}, "target": {"metric": "loss", "direction": "min"}},
     "parameters"),
    ({"task": {"source": "mine.py:Undefined"}, "target": {"metric": "gone"}}, "gone"),
    ({"target": {"direction": "min"}}, "direction"),
    ({"target": {"metric": "acuracy"}}, "accuracy"),
])
def test_a_suite_that_cannot_be_run_is_refused_in_one_line(tried, changes, token):
    with pytest.raises(UserError) as caught:
        tried(**changes)
    assert token in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_all_wrong_keys_are_named_at_once(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(_toml({**SUITE, "batch_size": 0, "colour": "red", "loss": "task",
                           "data": {"name": "digits", "source": "a:b"}, "budget": {"samples": 1},
                           "task": {"name": "sorting"}}), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        suite_file.load(path)
    for token in ("batch_size", "colour", "'data'", "budget.seconds", "sorting", "loss"):
        assert token in str(caught.value)


def test_sources_are_not_imported_before_a_command_names_the_suite(tmp_path):
    (tmp_path / "mine.toml").write_text(_toml(SUITE), encoding="utf-8")
    (tmp_path / "mine.py").write_text("raise RuntimeError", encoding="utf-8")
    assert registry.suite(str(tmp_path / "mine.toml")).sources["data"] == "mine.py:splits"


def test_a_mistake_ends_the_command_before_the_first_trial(cli, tmp_path):
    (tmp_path / "mine.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "mine.toml").write_text(
        _toml({**SUITE, "data": {**SUITE["data"], "options": {"kind": "nan"}}}), encoding="utf-8")
    done = cli("run", "--suite", "mine.toml", "--gpus", "1", "--out", tmp_path / "out")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert "NaN" in done.err
    assert not list(tmp_path.glob("out/**/*.jsonl"))


def test_an_absurd_network_is_refused_before_it_takes_memory(cli, tmp_path):
    (tmp_path / "mine.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "mine.toml").write_text(_toml({**SUITE, "model": {
        "name": "mlp", "options": {"hidden": [1_000_000, 1_000_000]}}}), encoding="utf-8")
    done = cli("run", "--suite", "mine.toml", "--gpus", "1", "--optimizers", "sgd")
    assert done.code == 2
    assert "GiB" in done.err


def test_the_docs_show_the_examples_as_they_are():
    text = (EXAMPLES.parents[1] / "suites.md").read_text(encoding="utf-8")
    code = (EXAMPLES / "my_problems.py").read_text(encoding="utf-8")
    task = code[code.index("class Poisson"):code.index("def _solution")].rstrip()
    assert f"```python\n{task}\n```" in text
    toml = (EXAMPLES / "breast-cancer.toml").read_text(encoding="utf-8")
    assert f"```toml\n{toml}```" in text
    for name, task in READY.items():
        assert f"`{name}`" in text
        assert all(f"`{metric}`" in text for metric in task().metrics)


@pytest.mark.slow
def test_the_examples_of_the_docs_run_from_another_folder(command, tmp_path):
    done = command(
        "run", *(word for path in SUITES for word in ("--suite", path)), "--optimizers",
        "apts,adam,zero2", "--gpus", "2", "--trials", "0", "--seeds", "1", "--no-twins",
        "--set", "suite.budget.samples=1200", "--out", tmp_path, "--study", "own", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    records = store.read_trials(tmp_path / "own")
    assert len(records) == 3 * len(SUITES)
    assert soundness.check(tmp_path / "own") == (len(records), [])
    for record in records:
        assert record.finished, record.end
        suite = record.trial.suite
        assert suite.code_sha256
        first, last = record.evals[0].validation, record.evals[-1].validation
        assert {suite.target.metric, "loss"} <= set(last)
        assert last["loss"] < first["loss"]
        assert suite.target.metric in record.end.test
        assert record.start.forward_flops > 0
    for name in {r.trial.suite.name for r in records}:
        starts = {r.start.initial_weights_sha256 for r in records if r.trial.suite.name == name}
        assert len(starts) == 1


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize(("kind", "network"), [
    ("label beyond the outputs", "net"), ("token beyond the embedding", "embedding")])
def test_a_label_or_token_that_the_network_lacks_is_found_in_any_split(tried, part, kind, network):
    with pytest.raises(UserError, match=f"data: {part}: .*lack"):
        tried(data={"options": {"kind": f"{kind}: {part}"}},
              model={"source": f"mine.py:{network}"})
