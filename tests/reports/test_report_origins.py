"""Trials of unlike environments: all are listed, a caveat says so, and times are not judged."""

import json
import shutil

import pytest
import report_fixture as fixture

from bench_apts import reports
from bench_apts.core import store
from bench_apts.core.files import write_json
from bench_apts.meters import soundness
from bench_apts.reports.caveats import all_caveats
from bench_apts.reports.compared_studies import compare_optimizers, compare_studies
from bench_apts.reports.data_origin import provenance_cards
from bench_apts.reports.gather import gather
from bench_apts.reports.sections.cost_ratios import rank_optimizers
from bench_apts.reports.tuning_bill import study_bill
from bench_apts.reports.tuning_pools import CostView
from bench_apts.stats import trial_origins

CARD = {
    **fixture.ENVIRONMENT, "threads": {"OMP_NUM_THREADS": "1"}, "binding": {}, "switches": {},
    "versions": {"bench-apts": "0.1.0", "torch": "2.14.1"}, "container": None, "gpu_driver": "570",
    "affinity": "0-1", "cpu_quota": None, "effective_cores": 2, "memory_limit_bytes": None,
    "beside": 0, "slurm": {}}

OTHERS = {
    "threads": {"threads": {"OMP_NUM_THREADS": "2"}}, "threads unset": {"threads": {}},
    "binding": {"binding": {"OMP_PROC_BIND": "true"}}, "affinity": {"affinity": "0"},
    "versions": {"versions": {"bench-apts": "0.1.0", "torch": "2.15.0"}},
    "commit": {"commit": "4567def"}, "dirty": {"dirty": False}, "driver": {"gpu_driver": "580"},
    "container": {"container": "docker"}, "quota": {"cpu_quota": 0.5, "effective_cores": 0.5},
    "memory limit": {"memory_limit_bytes": 2**30}, "machine": {"hostname": "bench-2"},
    "kernel": {"os": "Linux 6.2"}, "later field": {"firmware": "B"},
    "switches": {"switches": {"NVIDIA_TF32_OVERRIDE": "1"}}}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = fixture.populate(tmp_path_factory.mktemp("origins") / "study")
    rewritten(folder, lambda _: {**CARD, "firmware": "A"})
    return folder


def rewritten(folder, card, wanted=lambda trial: True, numerics=None):
    """Gives the trials that are ``wanted`` another environment card."""
    for record in store.read_trials(folder):
        if wanted(record.trial):
            path = folder / "trials" / f"{record.trial.run_id}.jsonl"
            events = [json.loads(line) for line in path.read_text().splitlines()]
            events[0]["environment"] = card(events[0]["environment"])
            if numerics is not None and events[1]["event"] == "start":
                events[1]["numerics"] = numerics
            path.write_text("".join(json.dumps(event) + "\n" for event in events))


@pytest.fixture
def other(study, tmp_path):
    """Makes a copy in which some trials have another card."""

    def make(change, wanted=lambda trial: trial.label == "sgd", numerics=None):
        folder = shutil.copytree(study, tmp_path / "other", dirs_exist_ok=True)
        rewritten(folder, lambda card: {**card, **change}, wanted, numerics)
        return folder

    return make


def titles(gathered):
    return [caveat.title for caveat in all_caveats(gathered)]


def listed(gathered):
    return [card for card in provenance_cards(gathered) if card.title.startswith("Environments")]


def test_one_environment_is_judged(study):
    gathered = gather(study)
    assert "Trials of unlike environments" not in titles(gathered)
    assert listed(gathered) == []
    assert not any(group.unlike for group in gathered.groups)
    assert not [line for line in soundness.check(study)[1] if "unlike environments" in line]


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_whatever_differs_is_listed_and_times_are_not_judged(other, change):
    gathered = gather(other(change))
    assert titles(gathered).count("Trials of unlike environments") == 1
    (card,) = listed(gathered)
    numbers = [int(name.split()[0]) for name, _ in card.items]
    assert len(numbers) == 2
    assert sum(numbers) == len(gathered.trials)
    for group in gathered.groups:
        assert group.unlike
        ranking = rank_optimizers(group, CostView("core_seconds", 1.0, "cpu"))
        assert ranking.unlike
        assert ranking.best is None
        for rival in ranking.rivals:  # sgd alone ran elsewhere
            base = ranking.reference.label if ranking.reference else None
            assert bool(rival.unlike) == ((rival.pool.cell.label == "sgd") != (base == "sgd")
                                          and rival.comparison is not None)
            assert not (rival.unlike and (rival.decision.differs or rival.comparison.interval))
        # What is not a time still is.
        bytes_sent = rank_optimizers(group, CostView("samples", 1.0, "cpu"))
        assert not bytes_sent.unlike
        assert not any(rival.unlike for rival in bytes_sent.rivals)


@pytest.mark.parametrize("change", [
    {"beside": 3}, {"slurm": {"SLURM_JOB_ID": "7"}}, {"requires": {"schedulefree": "1.4"}},
    {"nodes": [{"hostname": "bench-1"}]}, {"commit_unknown": "no git"}],
    ids=lambda change: next(iter(change)))
def test_what_is_harmless_or_unknown_is_no_difference(other, change):
    gathered = gather(other(change))
    assert not any(group.unlike for group in gathered.groups)
    assert "Trials of unlike environments" not in titles(gathered)


def test_switches_of_torch_count_too(other):
    gathered = gather(other({}, numerics={**fixture.NUMERICS, "matmul_precision": "high"}))
    assert "matmul_precision (high, highest)" in gathered.groups[0].unlike


@pytest.mark.parametrize("change", [OTHERS["threads"], OTHERS["commit"], OTHERS["container"]])
def test_check_names_it_in_one_line_for_each_group(other, change):
    folder = other(change)
    found = [line for line in soundness.check(folder)[1] if "unlike environments" in line]
    assert len(found) == 2  # N = 1 and 2
    assert all(line.startswith(f"{folder}: ") for line in found)


def test_check_leaves_trials_out_that_are_not_compared(other):
    folder = other(OTHERS["threads"])
    file = store.read_study(folder)
    file.code = {"sgd": "0" * 64}  # they were run with older code
    write_json(folder / "study.json", file)
    assert not [line for line in soundness.check(folder)[1] if "unlike environments" in line]
    machine = other(OTHERS["machine"])  # the same machine is another matter
    assert not [line for line in soundness.check(machine)[1] if "unlike environments" in line]


def test_times_and_memory_are_not_judged_and_samples_and_bytes_still_are(other, undrawn):
    folder = other(OTHERS["threads"])
    reports.build(folder, ("html", "json", "md"))
    document = json.loads((folder / "report.json").read_bytes())
    for box in document["suites"][0]["decisions"]:
        assert box["verdict"] != "not judged"
        rest = [a for a in box["answers"] if "memory" in a["question"]
                or "modelled" in a["question"]]
        assert rest
        assert {a["verdict"] for a in rest} == {"not judged"}
        assert {a["optimizer"] for a in rest} == {None}
        assert "Not judged: trials differ in OMP_NUM_THREADS (1, 2)" not in box["headline"]
    (threads,) = [text for card in document["provenance"] for name, text in card["items"]
                  if name == "Threads"]
    assert "OMP_NUM_THREADS=1 (" in threads
    assert "OMP_NUM_THREADS=2 (" in threads
    found = study_bill(gather(folder), "core_seconds", replay=False)
    assert any("not judged" in line for line in found.warnings)
    samples = study_bill(gather(folder), replay=False)
    assert not any("not judged" in line for line in samples.warnings)


def test_twins_of_another_environment_are_no_measure_of_noise(other):
    folder = other({})
    for record in store.read_trials(folder):
        if record.trial.stage == "report" and record.trial.label == "sgd":
            twin = fixture.trial("sgd", record.trial.ranks, "report", record.trial.repetition,
                                 twin=True)
            fixture.write(folder, twin, record.evals, record.end.status)
    alike = gather(folder).groups[0].noise
    rewritten(folder, lambda _: {**CARD, "firmware": "A"}, lambda trial: trial.twin)
    assert gather(folder).groups[0].noise
    rewritten(folder, lambda _: {**CARD, **OTHERS["threads"]}, lambda trial: trial.twin)
    assert gather(folder).groups[0].noise is None
    assert alike is None or alike.pairs


@pytest.mark.parametrize(("change", "judged"), [
    (OTHERS["commit"], True), (OTHERS["dirty"], True), (OTHERS["threads"], False),
    (OTHERS["versions"], False), (OTHERS["machine"], False)])
def test_compare_judges_times_of_two_versions_in_one_environment(study, other, change, judged):
    changed = gather(other(change, lambda trial: True))
    found = compare_studies(gather(study), changed, ("a", "b"), 1.0)
    times = [row.verdict for row in found.rows if row.measure.name == "time to target"]
    assert ("not judged" not in times) == judged
    assert any("not judged" in note for note in found.notes) != judged
    assert "not judged" not in [row.verdict for row in found.rows if "bytes" in row.measure.name]


def test_compare_does_not_judge_times_of_two_versions_within_a_study(other):
    found = compare_optimizers(gather(other(OTHERS["commit"])), "sgd", "adam", 1.0)
    assert [row.verdict for row in found.rows if row.measure.name == "time to target"] == [
        "not judged"] * 2


def test_words_are_few():
    many = [trial_origins.origin_card({f"key{n}": value for n in range(9)}) for value in range(9)]
    text = trial_origins.describe_origins(trial_origins.origin_differences(many))
    assert text == ("key0 (0, 1, 2, 3, 5 more), key1 (0, 1, 2, 3, 5 more), "
                    "key2 (0, 1, 2, 3, 5 more), key3 (0, 1, 2, 3, 5 more) and 5 more")
