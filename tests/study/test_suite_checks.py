"""The checks of ``bench-apts test`` find what is wrong with broken suites, and nothing else."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench_apts.core.records import End, Eval, Header, Start, TrialRecord
from bench_apts.core.spec import Entry, Provenance, Seeds, Study, Trial
from bench_apts.plugins import registry
from bench_apts.study import suite_data_checks, suite_examination, suite_network_checks
from bench_apts.study.check_findings import worst_finding
from bench_apts.study.suite_data_checks import CheckedSplit, CheckedSplits
from bench_apts.suites.data import Dataset
from bench_apts.tasks import Metric, OutputTask, Task
from bench_apts.tasks.named_tasks import Autoencoding, Classification, LanguageModel, Regression

RNG = np.random.default_rng(0)


def parts(inputs, targets):
    """Divides 100 samples into 60, 20 and 20."""
    return CheckedSplits(*(CheckedSplit(inputs[place], targets[place])
                    for place in (slice(60), slice(60, 80), slice(80, 100))))


def problem(task, make=lambda: nn.Linear(4, 3)):
    return SimpleNamespace(task=task, network=lambda dataset: make())


def dataset(divided, mean=(0.0,), std=(1.0,), scale=1.0):
    return Dataset(*divided.train, *divided.test, mean, std, scale, 3, "", "")


def untrained(task, make, divided):
    return suite_network_checks.build_untrained(problem(task, make), dataset(divided), divided)


NUMBERS = RNG.normal(size=(100, 4)).astype(np.float32)
CLASSES = np.arange(100) % 3
SOUND = parts(NUMBERS, CLASSES)


def test_samples_in_two_splits_are_counted_by_their_inputs():
    assert suite_data_checks.check_overlap(problem(Classification()), SOUND).level == "ok"
    inputs = NUMBERS.copy()
    inputs[60:65] = inputs[:5]  # of another class, which changes nothing
    found = suite_data_checks.check_overlap(problem(Classification()), parts(inputs, CLASSES))
    assert found.level == "failed"
    assert "5 of 20 validation samples (25.00%)" in found.text
    assert "test" not in found.text
    text = suite_data_checks.check_overlap(problem(LanguageModel()), parts(inputs, CLASSES))
    assert text.level == "warning"
    many = CheckedSplits(SOUND.train, SOUND.validation, CheckedSplit(
        np.concatenate([NUMBERS[:1], RNG.normal(size=(199, 4)).astype(np.float32)]),
        np.zeros(200, dtype=np.int64)))
    assert suite_data_checks.check_overlap(problem(Classification()), many).level == "warning"


@pytest.mark.parametrize(("classes", "level", "says"), [
    (CLASSES, "ok", "3 classes of 20 to 20"),
    (np.where(CLASSES == 1, 0, CLASSES), "failed", "class 1 has no training sample"),
    (np.where(np.arange(100) % 30 == 1, 1, 0), "warning", "will hide"),
    (np.sort(CLASSES), "failed", "class 2 has no training sample"),
    (np.concatenate([CLASSES[:60], np.zeros(20, np.int64), CLASSES[80:]]), "warning",
     "class 1 has no validation sample"),
    (np.concatenate([CLASSES[:60], [0] * 16 + [1] * 2 + [2] * 2, CLASSES[80:]]), "warning",
     "differ in frequency, by 47%"),
    (np.concatenate([CLASSES[:60], [0] * 12 + [1] * 4 + [2] * 4, CLASSES[80:]]), "ok", ""),
])
def test_class_balance(classes, level, says):
    found = suite_data_checks.check_balance(problem(Classification()), parts(NUMBERS, classes))
    assert (found.level, says in found.text) == (level, True), found
    assert suite_data_checks.check_balance(problem(Regression()), SOUND).level == "skipped"


TOKENS = RNG.integers(0, 9, (100, 5)).astype(np.uint8)


@pytest.mark.parametrize(("task", "targets", "outputs", "level", "says"), [
    (Classification(), CLASSES, 3, "ok", "class 0 to 2"),
    (Classification(), CLASSES, 2, "failed", "class 2 occurs and the network has 2 outputs"),
    (Classification(), CLASSES, 5, "warning", "5 outputs"),
    (Classification(), CLASSES - 1, 3, "failed", "class -1 occurs"),
    (LanguageModel(), TOKENS, 9, "ok", "token 0 to 8"),
    (LanguageModel(), TOKENS, 8, "failed", "token 8 occurs"),
    (LanguageModel(), np.where(TOKENS > 5, -100, TOKENS.astype(np.int64)), 6, "ok", "token 0"),
    (Regression(), np.linspace(-1, 3, 100, dtype=np.float32), 1, "ok", "from -1 to 3"),
    (Regression(), np.full(100, 7.0), 1, "failed", "all training targets are 7"),
    (Task(), CLASSES, None, "skipped", "task of your own"),
])
def test_label_range(task, targets, outputs, level, says):
    found = suite_data_checks.check_labels(problem(task), parts(NUMBERS, targets), outputs)
    assert (found.level, says in found.text) == (level, True), found


@pytest.mark.parametrize(("inputs", "scaling", "level"), [
    (NUMBERS, {}, "ok"),
    (RNG.random((100, 4), np.float32), {}, "ok"),
    (NUMBERS + 12, {}, "warning"),
    (NUMBERS + 1000, {}, "failed"),
    (NUMBERS * 20, {}, "warning"),
    (NUMBERS * 1e-3, {}, "failed"),
    (NUMBERS + 1000, {"mean": (1000.0,)}, "ok"),
    (np.concatenate([np.tile(NUMBERS, 100), 1000 * NUMBERS[:, :1]], axis=1), {}, "failed"),
    (RNG.integers(0, 256, (100, 1, 4, 4), dtype=np.uint8), {"scale": 1 / 255}, "ok"),
    (RNG.integers(0, 256, (100, 1, 4, 4), dtype=np.uint8), {}, "failed"),
    (TOKENS.astype(np.int64), {}, "skipped"),
])
def test_normalisation(inputs, scaling, level):
    divided = parts(inputs, CLASSES)
    found = suite_data_checks.check_normalisation(dataset(divided, **scaling), divided)
    assert found.level == level, found


class Scaled(nn.Linear):
    """Logits that are sure of themselves."""

    def __init__(self, factor):
        super().__init__(4, 3)
        self.factor = factor

    def forward(self, inputs):
        return self.factor * super().forward(inputs)


class Knowing(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs):
        return self.weight * 9 * F.one_hot(inputs[:, 0].long(), 3)


@pytest.mark.parametrize(("make", "level"), [
    (lambda: Scaled(0.1), "ok"), (lambda: Scaled(20.0), "warning"),
    (lambda: Scaled(1000.0), "failed"),
])
def test_initial_loss_of_a_classification(make, level):
    found = suite_network_checks.check_initial_loss(
        untrained(Classification(), make, SOUND), SOUND
    )
    assert (found.level, "ln 3" in found.text) == (level, True), found


def test_an_untrained_network_that_knows_the_answers():
    knowing = parts(np.repeat(CLASSES[:, None], 4, axis=1).astype(np.float32), CLASSES)
    found = suite_network_checks.check_initial_loss(
        untrained(Classification(), Knowing, knowing), knowing
    )
    assert (found.level, "holds the target" in found.text) == ("warning", True)


@pytest.mark.parametrize(("factor", "level"), [(1.0, "ok"), (10.0, "warning"), (100.0, "failed")])
def test_initial_loss_of_a_regression(factor, level):
    targets = (NUMBERS[:, 0] + factor).astype(np.float32)  # of variance 1 around their mean
    divided = parts(NUMBERS, targets)
    guess = untrained(Regression(), lambda: nn.Linear(4, 1), divided)
    found = suite_network_checks.check_initial_loss(guess, divided)
    assert (found.level, "variance" in found.text) == (level, True), found
    alike = untrained(Autoencoding(), lambda: nn.Linear(4, 4), parts(NUMBERS, NUMBERS))
    assert suite_network_checks.check_initial_loss(alike, parts(NUMBERS, NUMBERS)).level == "ok"


class Sums(Classification):
    """Its mean is a sum."""

    def loss(self, output, targets, reduction="mean"):
        return super().loss(output, targets, "sum" if reduction == "mean" else reduction)


class Halved(Classification):
    """Its losses per sample are not what it adds up."""

    def loss(self, output, targets, reduction="mean"):
        found = super().loss(output, targets, reduction)
        return found / 2 if reduction == "none" else found


class Contrasts(Task):
    """A loss against the mean of the batch."""

    def losses(self, model, batch):
        output = model(batch.inputs)[:, 0]
        return (output - output.mean()).square()


class Squares(Task):
    metrics = {"error": Metric("min", final=math.sqrt)}

    def losses(self, model, batch):
        return model(batch.inputs)[:, 0].square()

    def measures(self, model, batch):
        losses = self.losses(model, batch)
        return {"error": (losses.sum(), len(losses))}


class Means(Squares):
    """A mean of means."""

    def measures(self, model, batch):
        return {"error": (self.losses(model, batch).mean(), 1)}


@pytest.mark.parametrize(("task", "level", "says"), [
    (Classification(), "ok", "mean of 60 losses"), (Squares(), "ok", ""),
    (Sums(), "failed", "reduction='mean'"), (Halved(), "failed", "reduction='sum'"),
    (Contrasts(), "failed", "must not depend on the other samples"),
])
def test_losses_per_sample(task, level, says):
    found = suite_network_checks.check_sample_losses(
        untrained(task, lambda: nn.Linear(4, 3), SOUND)
    )
    assert (found.level, says in found.text) == (level, True), found


def test_a_network_may_normalise_over_the_batch_in_training_only():
    batch_norm = untrained(Classification(), lambda: nn.Sequential(
        nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)), SOUND)
    assert suite_network_checks.check_sample_losses(batch_norm).level == "ok"


def test_metrics_that_cannot_be_added_up():
    def found(task):
        return list(
            suite_network_checks.check_additive_metrics(
                untrained(task, lambda: nn.Linear(4, 3), SOUND)
            )
        )

    assert found(Classification()) == found(Squares()) == []
    ((level, text),) = found(Means())
    assert level == "failed"
    assert text.startswith("error is")


class Stray(OutputTask):
    def loss(self, output, targets, reduction="mean"):
        return output


def test_outputs_are_counted_where_that_means_something():
    assert untrained(Classification(), lambda: nn.Linear(4, 3), SOUND).outputs() == 3
    assert untrained(Squares(), lambda: nn.Linear(4, 3), SOUND).outputs() is None


SUITE = registry.suite("digits")


def record(label="sgd", ranks=1, twin=False, status="hit", final="f", initial="i", value=0.1,
           validation=300, reason=None, chance=0.1):
    trial = Trial(label, label, {}, False, 64, SUITE, ranks, "report", 0, Seeds(1, 2), "cpu", "d",
                  "p", "s", twin=twin)
    evals = [Eval(0, 0, 0.0, 0.0, 0.0, 0.0, 0, 0, 1, None, {"accuracy": value}, {})]
    start = Start(1, initial, "o", 900, validation, "none", "gloo", chance=chance)
    end = End(status, "", 0.0, final_weights_sha256=final, reason=reason)
    return TrialRecord(Header("id", "", trial, {}), start, evals, end, "x.jsonl")


def study(*labels):
    return Study((SUITE,), tuple(Entry(label, label, {}) for label in labels), (1, 2), 0, 1, 0,
                 "cpu")


def test_training_fails_with_the_reason_of_a_trial():
    both = [record(ranks=1), record(ranks=2)]
    assert suite_examination.check_training(study("sgd"), both).level == "ok"
    failed = suite_examination.check_training(study("sgd"), [both[0], record(
        ranks=2, status="error", reason="rank 1: no such layer")])
    assert failed.level == "failed"
    assert "sgd at N = 2: rank 1: no such layer" in failed.text
    assert "not run" in suite_examination.check_training(study("sgd"), both[:1]).text


def test_one_optimizer_may_diverge_untuned_and_not_all():
    some = [record(status="diverged"), record(ranks=2), record("apts"), record("apts", 2)]
    assert suite_examination.check_training(study("sgd", "apts"), some).level == "warning"
    every = [record(label, ranks, status="diverged") for label in ("sgd", "apts")
             for ranks in (1, 2)]
    assert suite_examination.check_training(study("sgd", "apts"), every).level == "failed"


@pytest.mark.parametrize(("twin", "device", "level"), [
    ({}, "cpu", "ok"), ({"final": "g"}, "cpu", "failed"), ({"value": 0.2}, "cpu", "failed"),
    ({"final": "g"}, "cuda", "warning"), ({"initial": "j"}, "cpu", "failed"),
    ({"initial": None}, "cpu", "ok"), ({"ranks": 2}, "cpu", "skipped"),
])
def test_equal_trials_must_be_equal(twin, device, level):
    found = suite_examination.check_determinism(
        [record(), record(**{"twin": True, **twin})], device
    )
    assert found.level == level, found


def test_every_sample_counts_once_at_every_number_of_ranks():
    assert not list(suite_examination.check_evaluation_counts([record(), record(ranks=2)], 300))
    assert not list(
        suite_examination.check_evaluation_counts(
            [record(value=0.5), record(ranks=2, value=0.5001)], 300
        )
    )
    ((level, text),) = suite_examination.check_evaluation_counts(
        [record(), record(ranks=2, value=0.2)], 300
    )
    assert (level, "at N = 2" in text) == ("failed", True)
    assert [level for level, _ in suite_examination.check_evaluation_counts([], 300)] == [
        "skipped"
    ]
    ((level, text),) = suite_examination.check_evaluation_counts([record(validation=299)], 300)
    assert (level, "299" in text) == ("failed", True)


def provenance(trials=20, note=""):
    from msgspec.structs import replace

    return replace(SUITE, target=replace(
        SUITE.target, value=0.9, provenance=Provenance("sgd", trials, 5, note)))


@pytest.mark.parametrize(("suite", "missing", "records", "level", "says"), [
    (provenance(), (), [record()], "ok", "90 %, measured with sgd by 20 trials and 5 seeds"),
    (provenance(0), (), [], "warning", "chosen by hand"),
    (provenance(3, "provisional, 3 trials"), (), [], "warning", "provisional"),
    (provenance(), ("suite.target.value=1.0",), [], "failed", "target.value is missing; measure"),
    (provenance(), (), [record(value=0.91)], "failed", "untrained network reaches"),
    (provenance(), (), [record(chance=0.95)], "failed", "most frequent class"),
])
def test_targets(suite, missing, records, level, says):
    found = suite_examination.check_target(suite, missing, records, "my.toml")
    assert (found.level, says in found.text) == (level, True), found


def test_the_most_severe_level_counts():
    assert str(worst_finding("a", [("warning", "x"), ("failed", "y")], "z")) == "failed   a: x; y"
    assert str(worst_finding("a", [], "z")) == "ok       a: z"
