"""Joining results folders: nothing is lost, nothing is made up, contradictions are named."""

import shutil

import msgspec
import optuna
import pytest

from bench_apts.core import store
from bench_apts.core.errors import UserError
from bench_apts.core.files import write_json
from bench_apts.core.records import End, Eval, Header, Start
from bench_apts.core.spec import Entry
from bench_apts.core.trial_files import DuplicateTrialFile
from bench_apts.meters.soundness import check
from bench_apts.study import results_merge
from bench_apts.study.optuna_search import STORAGE, Search
from bench_apts.trial import pruning


def contents(folder, pattern):
    return {path.name: path.read_bytes() for path in sorted(folder.glob(pattern))}


def part(finished, folder, wanted):
    """A copy of the finished study with some of its trials."""
    shutil.copytree(finished.folder, folder, ignore=shutil.ignore_patterns("report*", "tables"))
    for number, path in enumerate(sorted((folder / "trials").iterdir())):
        if not wanted(number):
            path.unlink()
    return folder


@pytest.mark.parametrize(("key", "name"), [
    ("code", "sgd"), ("data", "digits"), ("untuned", "apts")])
def test_other_code_or_data_is_named(finished, tmp_path, key, name):
    first, second = (part(finished, tmp_path / folder, lambda _: True) for folder in "ab")
    file = store.read_study(second)
    assert getattr(file, key)[name]
    getattr(file, key)[name] = "0" * 12
    write_json(second / "study.json", file)
    with pytest.raises(UserError, match=rf"key '{key}\[{name}\]': .* {second} has 000000000000"):
        results_merge.merge_results(tmp_path / "joined", [first, second], [])
    for hashes in ({}, {"extra": "1"}):  # of an older version, and of another competitor
        setattr(file, key, hashes)
        write_json(second / "study.json", file)
        results_merge.merge_results(tmp_path / f"joined{len(hashes)}", [first, second], [])
        assert getattr(store.read_study(tmp_path / f"joined{len(hashes)}"), key) == (
            getattr(store.read_study(first), key) | hashes)


def event(path, kind, change):
    """Rewrites the last event of a kind in a trial's file."""
    lines = path.read_bytes().splitlines()
    index = max(k for k, line in enumerate(lines) if f'"event":"{kind}"'.encode() in line)
    content = msgspec.json.decode(lines[index])
    change(content)
    lines[index] = msgspec.json.encode(content)
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def test_parts_give_the_whole_study_and_its_report(finished, cli, undrawn, tmp_path):
    first = part(finished, tmp_path / "first", lambda number: number % 3 != 1)
    second = part(finished, tmp_path / "second", lambda number: number % 3 != 0)
    before = contents(first, "*.json*"), contents(first / "trials", "*")
    done = cli("merge", "joined", first, second)
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "merged: 16 trials of 2 folders, 5 of them in more than one", "results: joined"]
    joined = tmp_path / "joined"
    assert contents(joined / "trials", "*") == contents(finished.folder / "trials", "*")
    assert check(joined) == (16, [])
    assert cli("report", "joined").code == 0
    assert cli("report", finished.folder, "--out", "alone").code == 0
    tables = contents(joined / "tables", "*.csv")
    assert tables == contents(tmp_path / "alone" / "tables", "*.csv")
    assert len(tables) > 3
    written, one = store.read_study(joined), store.read_study(finished.folder)
    assert written.study == one.study
    assert written.command == ["bench-apts", "merge", "joined", str(first), str(second)]
    assert [origin.folder for origin in written.merged] == [str(first), str(second)]
    assert written.merged[0].environment == one.environment
    assert (contents(first, "*.json*"), contents(first / "trials", "*")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "alone", "first", "joined", "second"]


def test_a_merged_study_runs_nothing_again(finished, cli, undrawn, tmp_path):
    first = part(finished, tmp_path / "first", lambda number: number < 8)
    second = part(finished, tmp_path / "second", lambda number: number >= 8)
    results_merge.merge_results(tmp_path / "joined", [first, second], [])
    done = cli(*finished.arguments[:-1], tmp_path, "--study", "joined")
    assert done.code == 0, done.err
    assert done.out.count("kept from an earlier run") == 16


def test_studies_may_ask_for_different_things(finished, tmp_path):
    first, second = (part(finished, tmp_path / name, lambda _: True) for name in "ab")
    for folder, labels, ranks, seeds in ((first, ("sgd", "adam"), (1,), 1),
                                         (second, ("adam", "apts"), (2, 1), 4)):
        file = store.read_study(folder)
        file.study = msgspec.structs.replace(
            file.study, ranks=ranks, seeds=seeds,
            entries=tuple(e for e in file.study.entries if e.label in labels))
        write_json(folder / "study.json", file)
    results_merge.merge_results(tmp_path / "joined", [first, second], [])
    study = store.read_study(tmp_path / "joined").study
    assert [entry.label for entry in study.entries] == ["sgd", "adam", "apts"]
    assert study.ranks == (1, 2)
    assert study.seeds == 4


@pytest.mark.parametrize(("change", "words"), [
    ({"trials": 9}, r"key 'trials': \S+a has 2, \S+b has 9"),
    ({"base_seed": 1}, "key 'base_seed'"),
    ({"sampler": "halton"}, "key 'sampler'"),
    ("suite", r"key 'suites\[digits\]\.budget\.samples': \S+a has 2000, \S+b has 2001"),
    ("entry", r"key 'entries\[sgd\]\.pinned\.lr': \S+a has None, \S+b has 0.5"),
])
def test_contradicting_studies_are_named_by_key(finished, tmp_path, change, words):
    first, second = (part(finished, tmp_path / name, lambda _: True) for name in "ab")
    file = store.read_study(second)
    if change == "suite":
        suite = file.study.suites[0]
        change = {"suites": (msgspec.structs.replace(
            suite, budget=msgspec.structs.replace(suite.budget, samples=2001)),)}
    elif change == "entry":
        change = {"entries": (msgspec.structs.replace(
            file.study.entries[0], pinned={"lr": 0.5}), *file.study.entries[1:])}
    file.study = msgspec.structs.replace(file.study, **change)
    write_json(second / "study.json", file)
    with pytest.raises(UserError, match=words):
        results_merge.merge_results(tmp_path / "joined", [first, second], [])
    assert not (tmp_path / "joined").exists()


@pytest.mark.parametrize(("kind", "change", "words"), [
    ("end", lambda e: e.update(final_weights_sha256="0" * 64), "the hash of the final weights"),
    ("eval", lambda e: e["validation"].update(loss=0.125), "validation at the evaluation after"),
    ("start", lambda e: e.update(data_order_sha256="0" * 64), "initial weights or data order"),
    ("header", lambda e: e["trial"].update(repetition=7), "hold different trials"),
])
def test_conflicting_answers_are_named_and_nothing_is_written(
        finished, cli, tmp_path, kind, change, words):
    first, second = (part(finished, tmp_path / name, lambda _: True) for name in "ab")
    path = sorted((second / "trials").iterdir())[3]
    event(path, kind, change)
    done = cli("merge", "joined", first, second)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert f"{first / 'trials' / path.name} and {path} " in done.err
    assert words in done.err
    assert not (tmp_path / "joined").exists()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a", "b"]


def test_times_may_differ_and_the_earlier_answer_stays(finished, tmp_path):
    first, second = (part(finished, tmp_path / name, lambda _: True) for name in "ab")
    path = min((second / "trials").iterdir())
    event(path, "eval", lambda e: e.update(train_s=e["train_s"] * 1.5))
    event(path, "header", lambda e: e.update(time="2001-01-01T00:00:00+00:00"))
    for number, order in enumerate(([first, second], [second, first])):
        results_merge.merge_results(tmp_path / str(number), order, [])
        assert (tmp_path / str(number) / "trials" / path.name).read_bytes() == path.read_bytes()


def written(folder, trial, steps, status, torn=b""):
    (folder / "trials").mkdir(parents=True, exist_ok=True)
    path = folder / "trials" / f"{trial.run_id}.jsonl"
    store.append(path, Header(trial.run_id, store.now(), trial, {}))
    store.append(path, Start(1, "a", "b", 1, 1, "", "gloo"))
    for step in range(steps):
        store.append(path, Eval(step, 64 * step, 0.0, 0.1, 0.1, 0.1, step, step, 1, None,
                                {"accuracy": 0.5}, {}))
    if status:
        store.append(path, End(status, store.now(), 1.0))
    with path.open("ab") as file:
        file.write(torn)
    return path


@pytest.fixture
def folders(make_study, tmp_path):
    """Two results folders without trials."""
    study = make_study("sgd")
    for name in "ab":
        (tmp_path / name / "trials").mkdir(parents=True)
        write_json(tmp_path / name / "study.json",
                         store.StudyFile(study, [], store.now(), {}))
    return tmp_path / "a", tmp_path / "b"


@pytest.mark.parametrize(("one", "other", "winner"), [
    ((3, "interrupted"), (2, "miss"), 1),
    ((9, None), (2, "miss"), 1),
    ((2, "error"), (9, None), 0),
    ((3, None), (5, None), 1),
    ((5, "timeout"), (3, "timeout"), 0),
    ((3, "timeout"), (5, "miss"), 1),
])
def test_the_more_complete_attempt_stays(
        folders, make_trial, tmp_path, one, other, winner):
    trial = make_trial("sgd")
    paths = [written(folder, trial, *what, torn=b'{"event":"ev' if not what[1] else b"")
             for folder, what in zip(folders, (one, other), strict=True)]
    for number, order in enumerate((folders, folders[::-1])):
        results_merge.merge_results(tmp_path / str(number), order, [])
        (kept,) = (tmp_path / str(number) / "trials").iterdir()
        assert kept.read_bytes() == paths[winner].read_bytes()


def test_a_checkpoint_comes_along_with_an_unfinished_trial(folders, make_trial, tmp_path):
    trial = make_trial("sgd")
    written(folders[0], trial, 2, "interrupted")
    saved = folders[0] / "checkpoints" / trial.run_id / "64"
    saved.mkdir(parents=True)
    (saved / "checkpoint.json").write_text("{}")
    results_merge.merge_results(tmp_path / "joined", folders, [])
    assert (tmp_path / "joined" / saved.relative_to(folders[0]) / "checkpoint.json").exists()


def test_copies_of_a_file_are_one_trial(folders, make_trial, tmp_path):
    trial = make_trial("sgd")
    path = written(folders[0], trial, 2, "miss")
    copy = path.with_name("copy.jsonl")
    shutil.copyfile(path, copy)
    shutil.copyfile(path, folders[1] / "trials" / "another.jsonl")
    assert results_merge.merge_results(
        tmp_path / "joined", folders, []
    ) == results_merge.MergeSummary(1, 1, 0, (DuplicateTrialFile(copy, trial.run_id, path),))
    (kept,) = (tmp_path / "joined" / "trials").iterdir()
    assert kept.name == f"{trial.run_id}.jsonl"


def test_one_plugin_file_may_lie_in_another_folder(folders, make_trial, tmp_path):
    for folder, place in zip(folders, ("../mine.py", "/b/mine.py"), strict=True):
        file = store.read_study(folder)
        file.study = msgspec.structs.replace(file.study, entries=(Entry("mine", place),))
        write_json(folder / "study.json", file)
        written(folder, msgspec.structs.replace(
            make_trial("sgd"), label="mine", plugin=f"/{folder.name}/mine.py"), 2, "miss")
    assert results_merge.merge_results(
        tmp_path / "joined", folders, []
    ) == results_merge.MergeSummary(1, 1, 0)
    assert store.read_study(tmp_path / "joined").study.entries == (Entry("mine", "mine.py"),)


def test_a_file_without_a_whole_header_is_left_out_and_counted(folders, tmp_path):
    (folders[0] / "trials" / "0123456789ab.jsonl").write_bytes(b'{"event":"hea')
    assert results_merge.merge_results(
        tmp_path / "joined", folders, []
    ) == results_merge.MergeSummary(0, 0, 1)


def test_broken_inputs_and_a_folder_that_is_there_are_refused(folders, cli, tmp_path):
    done = cli("merge", "a", *folders)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "a exists already" in done.err
    assert cli("merge", "joined", folders[0], "nowhere").code == 2
    (folders[1] / "trials" / "0123456789ab.jsonl").write_bytes(b'{"event":"other"}\n')
    done = cli("merge", "joined", *folders)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "0123456789ab.jsonl, line 1" in done.err
    assert not (tmp_path / "joined").exists()


def asked(plan, folder, added, count):
    """A search that asked for ``count`` trials and has the results of some."""
    search, (cell,) = Search(plan, folder), plan.cells
    for number in range(count):
        trial, _ = search.trial(cell, number)
        if number in added:
            path = written(folder, trial, 2, "miss")
            search.add_result(cell, store.read_trial(path))
    return search, cell


def planned(make_study, digits, **changes):
    from bench_apts.study.plan import Plan

    return Plan(msgspec.structs.replace(make_study("sgd", trials=6), **changes),
                {"digits": digits})


def test_searches_go_on_from_what_all_were_told(folders, make_study, digits, tmp_path):
    plan = planned(make_study, digits)
    asked(plan, folders[0], {0, 2}, 4)
    asked(plan, folders[1], {1}, 6)
    results_merge.merge_results(tmp_path / "joined", folders, [])
    storage = pruning.storage(tmp_path / "joined" / STORAGE)
    (name,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3 + ["RUNNING"] * 3
    search, (cell,) = Search(plan, tmp_path / "joined"), plan.cells
    assert [search.trial(cell, k)[0] for k in range(6)] == plan.tuning()


def test_a_learning_search_that_went_two_ways_is_refused(folders, make_study, digits, tmp_path):
    plan = planned(make_study, digits, sampler="tpe")
    asked(plan, folders[0], set(range(3)), 3)
    shutil.copyfile(folders[0] / STORAGE, folders[1] / STORAGE)
    results_merge.merge_results(tmp_path / "same", folders, [])
    # Another draw under the same number, as a search on other results would ask for it.
    name = plan.search(plan.cells[0])
    for folder, rate in zip(folders, (0.01, 0.02), strict=True):
        study = pruning.study(pruning.storage(folder / STORAGE), name, "none", 2)
        study.enqueue_trial({"lr": rate})
        study.ask(plan.distributions(plan.cells[0]))
    with pytest.raises(UserError, match=f"'{name}' went two ways: trial 3"):
        results_merge.merge_results(tmp_path / "other", folders, [])
    assert not (tmp_path / "other").exists()
