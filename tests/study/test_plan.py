"""Which trials a study has: paired by their seeds, interleaved in time, frozen on validation."""

import msgspec
import pytest

from bench_apts.core import store
from bench_apts.core.errors import UserError
from bench_apts.core.records import End, Eval, Header, TrialRecord
from bench_apts.core.spec import Trial
from bench_apts.study.plan import Plan


@pytest.fixture
def make_plan(make_study, digits):
    return lambda *selectors, **changes: Plan(
        make_study(*selectors, **changes), {"digits": digits})


def record(trial, *accuracies, status="miss"):
    evals = [Eval(step, 64 * step, 0.0, 0.1, 0.1, 0.1, step, step, 0, None,
                  {"accuracy": value, "loss": 1 - value}, {})
             for step, value in enumerate(accuracies)]
    return TrialRecord(Header(trial.run_id, store.now(), trial, {}), None, evals,
                       End(status, store.now(), 1.0), "")


def test_counts(make_plan):
    plan = make_plan("sgd", "adam", "apts", ranks=(1, 2), trials=3, seeds=2)
    tuning = plan.tuning()
    assert len(tuning) == 2 * 2 * 3  # apts is tuning-free
    assert {t.label for t in tuning} == {"sgd", "adam"}
    reports = plan.reporting([record(t, 0.1, 0.5) for t in tuning])
    assert len(reports) == 3 * 2 * 2
    assert len({t.run_id for t in (*tuning, *reports)}) == 24


def test_seeds_are_shared_by_all_optimizers_and_world_sizes(make_plan):
    plan = make_plan("sgd", "adam", "apts", ranks=(1, 2), trials=3, seeds=4)
    tuning = plan.tuning()
    trials = [*tuning, *plan.reporting([record(t, 0.1, 0.5) for t in tuning])]
    seeds = {}
    for trial in trials:
        seeds.setdefault((trial.stage, trial.repetition), set()).add(
            (trial.seeds.data, trial.seeds.init))
    assert len(seeds) == 3 + 4
    assert all(len(found) == 1 for found in seeds.values())
    assert len(set.union(*seeds.values())) == 7


def test_no_seed_of_tuning_is_used_for_reporting(make_plan):
    plan = make_plan("sgd", trials=50, seeds=50)
    tuning = plan.tuning()
    reports = plan.reporting([record(t, 0.1, 0.5) for t in tuning])
    used = [{seed for t in trials for seed in (t.seeds.data, t.seeds.init)}
            for trials in (tuning, reports)]
    assert [len(seeds) for seeds in used] == [100, 100]
    assert not used[0] & used[1]


def test_another_base_seed_changes_every_seed_and_draw(make_plan):
    one, two = (make_plan("sgd", base_seed=s).tuning() for s in (0, 1))
    assert not {t.seeds.data for t in one} & {t.seeds.data for t in two}
    assert not ({t.hyperparameters["lr"] for t in one}
                & {t.hyperparameters["lr"] for t in two})


def test_the_same_configurations_are_tried_at_every_world_size(make_plan):
    tuning = make_plan("sgd", ranks=(1, 2, 4), trials=3).tuning()
    drawn = {n: [t.hyperparameters for t in tuning if t.ranks == n] for n in (1, 2, 4)}
    assert drawn[1] == drawn[2] == drawn[4]
    assert len({values["lr"] for values in drawn[1]}) == 3


def test_a_larger_study_contains_the_trials_of_a_smaller_one(make_plan):
    small = {t.run_id for t in make_plan("sgd", "adam", trials=2).tuning()}
    assert small < {t.run_id for t in make_plan("adam", "sgd", ranks=(2, 1), trials=4).tuning()}


def test_optimizers_take_turns_within_each_repetition(make_plan):
    plan = make_plan("sgd", "adam", "apts", ranks=(1, 2), trials=2, seeds=2)
    tuning = plan.tuning()
    assert [(t.repetition, t.ranks, t.label) for t in tuning] == [
        (k, n, label) for k in (0, 1) for n in (1, 2) for label in ("sgd", "adam")]
    reports = plan.reporting([record(t, 0.1, 0.5) for t in tuning])
    assert [(t.repetition, t.ranks, t.label) for t in reports] == [
        (k, n, label) for k in (0, 1) for n in (1, 2) for label in ("sgd", "adam", "apts")]


def test_the_best_on_validation_is_frozen_for_all_seeds(make_plan):
    plan = make_plan("sgd", trials=3, seeds=2)
    tuning = plan.tuning()
    records = [record(t, 0.1, best) for t, best in zip(tuning, (0.5, 0.7, 0.6), strict=True)]
    reports = plan.reporting(records)
    assert [t.hyperparameters for t in reports] == [tuning[1].hyperparameters] * 2
    assert {t.stage for t in reports} == {"report"}


def test_what_ends_best_is_reported_as_well_and_nothing_twice(make_plan):
    plan = make_plan("sgd", "adam", trials=3, seeds=2, twins=True)
    tuning = plan.tuning()
    goal = plan.study.suites[0].target.value
    curves = {0: (0.1, goal, goal, 0.5), 1: (0.1, 0.2, goal, goal), 2: (0.1, 0.2, 0.3, 0.4)}
    # adam's fastest draw is its best as well.
    records = [record(t, *(curves[t.repetition] if t.label == "sgd" or t.repetition
                           else (0.1, goal, goal, 0.999))) for t in tuning]
    sgd, adam = plan.cells
    assert plan.freeze(sgd, records) == tuning[0].hyperparameters
    assert plan.second(sgd, records) == tuning[2].hyperparameters
    assert plan.second(adam, records) is None
    reports = plan.reporting(records)
    assert [(t.label, t.hyperparameters == plan.freeze(sgd, records), t.twin)
            for t in reports if t.label == "sgd" and t.repetition == 0] == [
        ("sgd", True, False), ("sgd", False, False), ("sgd", True, True)]
    assert len({t.run_id for t in reports}) == len(reports) == 2 * (3 + 1)
    assert sum(map(plan.reports, plan.cells)) == 2 * (3 + 2)  # as many as there may be
    one = make_plan("sgd", trials=1, seeds=2, twins=True)
    assert one.reports(one.cells[0]) == 4


def test_records_of_others_do_not_choose(make_plan, digits):
    plan = make_plan("sgd", trials=2)
    tuning = plan.tuning()
    records = [record(t, 0.1, best) for t, best in zip(tuning, (0.5, 0.4), strict=True)]
    for change in ({"ranks": 2}, {"label": "adam"}, {"stage": "report"}, {"data_sha256": "x"},
                   {"plugin_sha256": "x"}, {"device": "cuda"},
                   {"suite": msgspec.structs.replace(tuning[0].suite, batch_size=32)}):
        stranger = msgspec.structs.replace(tuning[1], **change)
        records.append(record(stranger, 0.1, 0.9))
    assert plan.freeze(plan.cells[0], records) == tuning[0].hyperparameters


def test_without_a_tuning_trial_that_got_anywhere_there_is_nothing_to_report(make_plan):
    plan = make_plan("sgd", "apts", trials=2)
    failed = [record(t, status="error") for t in plan.tuning()]
    assert {t.label for t in plan.reporting(failed)} == {"apts"}


def test_without_trials_the_defaults_are_reported(make_plan):
    plan = make_plan("sgd[momentum=0.5]", "adam", trials=0)
    assert plan.tuning() == []
    sgd, adam = plan.reporting([])
    assert (sgd.hyperparameters["lr"], sgd.hyperparameters["momentum"]) == (0.05, 0.5)
    assert adam.hyperparameters["lr"] == 1e-3


def test_where_everything_searched_is_pinned_nothing_is_tuned(make_plan):
    plan = make_plan("sgd[lr=0.1]", trials=5)
    assert plan.tuning() == []
    assert plan.reporting([])[0].hyperparameters["lr"] == 0.1


def test_batches_must_be_shared_equally(make_plan):
    with pytest.raises(UserError) as caught:
        make_plan("sgd", ranks=(1, 3))
    message = str(caught.value)
    assert "the global batch of 64 cannot be shared by 3 ranks" in message
    remedy = message.split("--set ")[1]
    assert make_plan("sgd", ranks=(1, 3), overrides=(remedy,)).tuning()
    assert make_plan("sgd", ranks=(3,), overrides=("suite.scaling=weak",)).tuning()


@pytest.mark.parametrize(("batch", "fits"), [("2 * batch", True), ("batch + 1", False),
                                             ("0", False), ("-2", False)])
def test_a_backend_may_ask_for_another_batch(make_plan, plugin, batch, fits):
    path = plugin(options=f"batch_size=lambda batch, values, ranks: {batch},")
    if fits:
        assert {t.batch_size for t in make_plan(path, ranks=(2,)).tuning()} == {128}
    else:
        with pytest.raises(UserError, match="cannot be shared by 2 ranks"):
            make_plan(path, ranks=(2,))


def test_a_backend_that_needs_more_ranks_is_left_out_of_smaller_worlds(make_plan, plugin):
    plan = make_plan(plugin(options="min_ranks=2,"), "sgd", ranks=(1, 2), trials=1)
    assert [(t.optimizer, t.ranks) for t in plan.tuning()] == [
        ("sgd", 1), ("mine", 2), ("sgd", 2)]


def test_the_first_optimizer_of_each_world_size_is_reported_twice(make_plan):
    plan = make_plan("adam", "sgd", "apts", ranks=(1, 2), trials=0, seeds=3, twins=True)
    trials = plan.reporting([])
    twins = [t for t in trials if t.twin]
    assert [(t.label, t.ranks, t.repetition) for t in twins] == [
        ("adam", n, r) for r in range(3) for n in (1, 2)]
    assert len(trials) == sum(map(plan.reports, plan.cells)) == 3 * 2 * (3 + 1)
    for twin in twins:
        (first,) = [t for t in trials if t == msgspec.structs.replace(twin, twin=False)]
        assert first.run_id != twin.run_id
        assert first.configuration == twin.configuration
        apart = trials.index(twin) - trials.index(first)
        assert apart == (3 if twin.repetition % 2 == 0 else -1)


def test_a_twin_waits_for_its_configuration(make_plan):
    plan = make_plan("sgd", "apts", trials=2, seeds=1, twins=True)
    assert [(t.label, t.twin) for t in plan.reporting([])] == [("apts", False)]
    tuned = [record(t, 0.1, 0.5) for t in plan.tuning()]
    assert [(t.label, t.twin) for t in plan.reporting(tuned)] == [
        ("sgd", False), ("apts", False), ("sgd", True)]


def test_a_list_of_configurations_is_tried_in_its_order_and_no_further(make_plan, plugin):
    listed = plugin(options='ordered=({"lr": 0.5}, {"lr": 0.25}, {"lr": 0.5}),')
    plan = make_plan(listed, "sgd", ranks=(1, 2), trials=5)
    tuning = plan.tuning()
    for ranks in (1, 2):
        mine = [t for t in tuning if (t.optimizer, t.ranks) == ("mine", ranks)]
        assert [(t.repetition, t.hyperparameters["lr"]) for t in mine] == [
            (0, 0.5), (1, 0.25), (2, 0.5)]
        assert len({t.run_id for t in mine}) == 3  # of the same configuration two with two seeds
    assert len(tuning) == 2 * (3 + 5)
    assert all(plan.tuned(cell) for cell in plan.cells)
    records = [record(t, 0.1, 0.9 if t.hyperparameters["lr"] == 0.25 else 0.5) for t in tuning]
    frozen = {t.hyperparameters["lr"] for t in plan.reporting(records) if t.optimizer == "mine"}
    assert frozen == {0.25}
    assert [t.hyperparameters["lr"] for t in make_plan(listed, trials=2).tuning()] == [0.5, 0.25]


def test_what_was_searched_is_written_so_that_a_reader_gets_the_same_address(
        make_plan, make_study, plugin, digits):
    path = plugin(options="")
    path.write_text(path.read_text().replace('"lr": Hyperparameter(0.1', (
        '"steps": Hyperparameter(4, "", LogUniform(1, 64)), '
        '"on": Hyperparameter(True, "", Choice((True, False))), '
        '"lr": Hyperparameter(0.1')).replace("import Backend,", "import Backend, Choice,"))
    trials = [*make_plan(path).tuning(), *make_plan("sgd", "nadamw-list").tuning()]
    found = {}
    for trial in trials:
        again = msgspec.json.decode(msgspec.json.encode(trial), type=Trial)
        assert again == trial
        assert again.run_id == trial.run_id
        found[trial.optimizer] = trial.searched
    assert found["mine"].ranges == {"steps": (1.0, 64.0), "lr": (1e-2, 1.0)}
    assert found["mine"].choices == ("on",)
    assert found["nadamw-list"].choices == ("lr", "beta1", "beta2", "weight_decay", "warmup")
    assert "choices" not in msgspec.to_builtins(found["sgd"])


def test_a_trial_is_the_same_wherever_its_file_lies(make_plan, plugin, tmp_path):
    (trial,) = make_plan(plugin(), trials=0).reporting([])
    moved = msgspec.structs.replace(trial, plugin="/elsewhere/mine.py")
    assert moved.run_id == trial.run_id
    assert msgspec.structs.replace(trial, plugin="/elsewhere/other.py").run_id != trial.run_id
    (built_in,) = make_plan("sgd", trials=0).reporting([])
    assert built_in.portable == built_in
