"""Variants of suites: tables of a suite's file that override its keys, chosen by SUITE@VARIANT."""

import pytest
import torch
from torch import nn

from bench_apts.contract import Batch
from bench_apts.core import store
from bench_apts.core.errors import UserError
from bench_apts.plugins import registry, suite_file
from bench_apts.suites import data
from bench_apts.suites.suite_problem import SuiteProblem
from bench_apts.tasks import Task
from bench_apts.tasks.loss_module import measured, trained
from bench_apts.tasks.named_tasks import Classification

PLAIN = """
name = "mine"
summary = "a small one"
batch_size = 8
[data]
source = "bench_apts.suites.generated.friedman:friedman"
options = { rows = 100, test = 20 }
validation = 10
[model]
source = "bench_apts.suites.networks.tabular:mlp"
options = { features = 10, outputs = 1, hidden = [8] }
[task]
name = "regression"
[budget]
samples = 100
seconds = 60
[evaluation]
every_samples = 50
[target]
metric = "rmse"
direction = "min"
value = 0.5
[target.provenance]
optimizer = "sgd"
trials = 3
seeds = 1
"""

VARIANTS = """
[variant.tanh.model.options]
activation = "tanh"
[variant.scaled]
summary = "a scaled one"
loss_scale = 10
model.init_scale = 3
target.value = 0.6
[variant.noisy]
data.options.noise = 1.0
data.validation = 20
"""


@pytest.fixture
def write(tmp_path):
    def write(*tables):
        path = tmp_path / "a@b.toml"
        path.write_text("\n".join((PLAIN, *tables)), encoding="utf-8")
        return path

    return write


def refused(path, *, overrides=(), variant=""):
    with pytest.raises(UserError) as caught:
        suite_file.load(path, overrides, variant)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_variant_overrides_what_it_names_and_nothing_else(write):
    path = write(VARIANTS)
    plain = registry.suite(str(path))
    tanh, scaled, noisy = (registry.suite(f"{path}@{name}")
                           for name in ("tanh", "scaled", "noisy"))
    assert plain == suite_file.load(write())
    assert (tanh.name, tanh.base, plain.base) == ("mine@tanh", "mine", "mine")
    assert tanh.model.options == {**plain.model.options, "activation": "tanh"}
    assert tanh.summary == "a small one, with model.options.activation = tanh"
    assert (tanh.budget, tanh.data, tanh.target.value) == (plain.budget, plain.data, 0.5)
    assert (scaled.loss_scale, scaled.model.init_scale, scaled.target.value) == (10, 3, 0.6)
    assert scaled.summary == "a scaled one"
    assert (noisy.data.options, noisy.data.validation) == (
        {"rows": 100, "test": 20, "noise": 1.0}, 20)
    # Other data has another name, so that a study can hold both.
    assert (plain.data.name, tanh.data.name, noisy.data.name) == ("mine", "mine", "mine@noisy")
    # What was measured of the suite was not measured of a variant.
    assert plain.target.provenance.trials == 3
    assert tanh.target.provenance.trials == 0
    assert "mine" in tanh.target.provenance.note


def test_set_changes_the_variant(write):
    suite = registry.suite(f"{write(VARIANTS)}@scaled", (
        "suite.loss_scale=2", "suite.model.options.hidden=[4]"))
    assert (suite.name, suite.loss_scale) == ("mine@scaled", 2)
    assert suite.model.options["hidden"] == [4]


def test_an_unknown_variant_names_the_known_ones(write):
    assert "'tahn'; did you mean tanh?" in refused(write(VARIANTS), variant="tahn")
    assert "Known: none" in refused(write(), variant="tanh")
    with pytest.raises(UserError, match="unknown suite 'digit'"):
        registry.suite("digit@tanh")


def test_what_is_measured_of_a_suite_is_no_key_of_its_file(write):
    message = refused(write(), overrides=("suite.code_sha256=abc",))
    assert "unknown key 'code_sha256'" in message
    assert "code_sha256" not in message.partition("Known: ")[2]


@pytest.mark.parametrize("variant", ["", "a"])
@pytest.mark.parametrize(("table", "tokens"), [
    ("[variant.a]\nbatch_sise = 3", ["[variant.a] 'batch_sise'", "batch_size"]),
    ("[variant.a.budget]\nsamples = 0\nsecs = 1",
     ["'variant.a.budget.samples'", "[variant.a.budget] 'secs'"]),
    ("[variant.a]\nmodel.init_scale = 0", ["'variant.a.model.init_scale'"]),
    ("[variant.a]\nloss_scale = -1.0", ["'variant.a.loss_scale'"]),
    ("[variant.a]\nloss_scale = nan", ["'variant.a.loss_scale'", "finite"]),
    ("[variant.a]\ndata = 3", ["'variant.a.data'"]),
    ("[variant.a]\nname = 'b'", ["'variant.a.name'"]),
    ("[variant]\na = 3", ["'variant.a'", "table"]),
    ("[variant.'@']\nbatch_size = 2", ["'variant.@'"]),
    ("[variant.a]\n[variant.b]\nbatch_size = 'x'", ["'variant.b.batch_size'"]),
])
def test_wrong_keys_of_variants_are_named_with_their_path(write, table, tokens, variant):
    message = refused(write(table), variant=variant)
    for token in tokens:
        assert token in message


def test_an_at_sign_belongs_to_variants(write, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text(PLAIN.replace('"mine"', '"mine@tanh"'), encoding="utf-8")
    assert "'name'" in refused(path)
    assert "'name'" in refused(write(VARIANTS), overrides=("suite.name=x@y",), variant="tanh")
    assert "'variant'" in refused(write(), overrides=("suite.variant=3",))


def test_a_variant_that_contradicts_itself_is_refused(write):
    assert "one of name and source" in refused(
        write("[variant.a]\nmodel.name = 'mlp'"), variant="a")


def test_floor_and_target_fit_together(write):
    path = write("[variant.a]\ntarget.floor = 0.2", "[variant.b]\ntarget.floor = 0.6")
    assert registry.suite(f"{path}@a").target.floor == 0.2
    assert "target.floor" in refused(path, variant="b")


def test_installed_variants_are_listed_under_their_names(cli):
    names = registry.variant_names("digits")
    assert "digits@tanh" in names
    printed = cli("list", "suites").out
    assert all(name in printed for name in names)
    assert registry.suite_origin("digits@tanh") == "built in"


def test_initial_weights_are_scaled_and_biases_are_not(digits):
    dataset = data.load(digits.folder)
    found = []
    for overrides in ((), ("suite.model.init_scale=3",)):
        torch.manual_seed(1)
        found.append(SuiteProblem(registry.suite("digits@layernorm", overrides)).network(dataset))
    for (name, one), (_, three) in zip(*(net.named_parameters() for net in found), strict=True):
        torch.testing.assert_close(three, one * (3 if one.dim() > 1 else 1), msg=name)
        assert three.requires_grad


class Squares(Task):
    def losses(self, model, batch):
        return model(batch.inputs).square().sum(1)


@pytest.mark.parametrize("task", [Classification(), Squares()])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_scaled_loss_trains_alike_and_is_measured_as_before(task, reduction):
    torch.manual_seed(0)
    network = nn.Linear(6, 3)
    batch = Batch(torch.randn(5, 6), torch.arange(5) % 3)
    values, sums = [], []
    for scale in (1.0, 10.0):
        model, loss = trained(network, task, scale)
        given = batch if isinstance(task, Classification) else Batch(batch, batch.targets)
        values.append(loss(model(given.inputs), given.targets, reduction=reduction))
        sums.append(measured(model, task, batch))
    torch.testing.assert_close(values[1], 10 * values[0])
    assert torch.equal(*sums)


ON_STEP = ("few = (batch.targets < 5).double().mean().item(); "
           "assert few > 0.9 if rank == 0 else few < 0.1, few")


def test_ranks_train_on_their_own_labels_in_a_variant_of_a_users_suite(
        cli, plugin, undrawn, tmp_path):
    """Two real ranks whose optimizer refuses the other rank's digits."""
    written = registry.suite_path("digits-noniid").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(
        written + "\n[variant.tanh]\nmodel.options.activation = 'tanh'\n", encoding="utf-8")
    plugin(on_step=ON_STEP)
    done = cli("run", "--suite", "mine.toml@tanh", "--optimizers", "mine.py", "--gpus", "2",
               "--trials", "0", "--seeds", "1", "--no-twins", "--offline", "--out", "out",
               "--set", "suite.budget.samples=1280", "--set", "suite.evaluation.every_samples=640")
    assert done.code == 0, done.err
    folder = tmp_path / "out" / "digits-noniid@tanh"
    (record,) = store.read_trials(folder)
    assert record.end.status in ("hit", "miss")
    assert record.trial.suite.name == "digits-noniid@tanh"
    assert record.trial.suite.model.options["activation"] == "tanh"
    assert record.start.train_samples == 1_197
    assert "digits-noniid@tanh" in (folder / "report.html").read_text(encoding="utf-8")


def test_slices_that_overlap_are_refused_where_ranks_have_samples_of_their_own(cli):
    done = cli("run", "--suite", "digits-noniid", "--optimizers", "apts-paper[overlap=0.5]",
               "--gpus", "2", "--dry-run", "--offline")
    assert done.code == 2
    assert "overlap" in done.err
    assert "data.partition" in done.err
