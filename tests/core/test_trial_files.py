"""One record for each run id: copies, conflict files and backups are named and left out."""

import shutil

import msgspec
import pytest

from bench_apts.core import store, trial_files
from bench_apts.core.errors import UserError
from bench_apts.meters import soundness


def whole(finished, folder):
    """A copy of the finished study, and the path of one of its records."""
    shutil.copytree(finished.folder, folder, ignore=shutil.ignore_patterns("report*", "tables"))
    return folder, min((folder / "trials").glob("*.jsonl"))


NAMES = ("{}.sync-conflict-20261129-101010-ABCDEF.jsonl", "{} (copy).jsonl", "{}-2.jsonl",
         "{}.jsonl~", "{}.jsonl.bak", "Copy of {}.jsonl", "another.jsonl")


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_counts_nowhere_and_is_named_everywhere(finished, cli, tmp_path, name):
    folder, path = whole(finished, tmp_path / "study")
    copy = path.with_name(name.format(path.stem))
    shutil.copyfile(path, copy)
    read = store.read_trial_files(folder)
    assert [r.path for r in read.records] == [str(p) for p in sorted(
        (finished.folder / "trials").glob("*.jsonl"))] or len(read.records) == 16
    assert [found.path for found in read.copies] == [copy]
    assert read.copies[0].kept == path
    trials, problems = soundness.check(folder)
    assert trials == 16
    assert [line for line in problems if copy.name in line] == problems != []
    for arguments in (("cost", folder, "--no-replay"), ("project", folder, "--ranks", "4"),
                      ("compare", folder, finished.folder), ("compare", folder, "sgd", "adam"),
                      ("merge", tmp_path / "joined", folder)):
        done = cli(*arguments)
        assert done.code in (0, 1), done.err
        assert copy.name in done.out, arguments
    assert len(list((tmp_path / "joined" / "trials").iterdir())) == 16


def test_the_report_names_copies_and_is_otherwise_the_same(finished, cli, tmp_path):
    folder, path = whole(finished, tmp_path / "study")
    copy = path.with_name(f"{path.stem} (copy).jsonl")
    shutil.copyfile(path, copy)
    assert cli("report", folder, "--out", "made", "--format", "csv,json").code == 0
    assert cli("report", finished.folder, "--out", "alone", "--format", "csv,json").code == 0
    for table in (tmp_path / "alone" / "tables").iterdir():
        made = (tmp_path / "made" / "tables" / table.name).read_text()
        assert made.replace(str(folder), str(finished.folder)) == table.read_text(), table.name
    assert copy.name in (tmp_path / "made" / "report.json").read_text()


def edited(path, name, keep=None, time="2026-01-01T00:00:00+00:00"):
    """A file of another name with the first ``keep`` lines, begun at another time."""
    lines = path.read_bytes().splitlines(keepends=True)
    header = msgspec.json.decode(lines[0])
    header["time"] = time
    copy = path.with_name(name)
    copy.write_bytes(msgspec.json.encode(header) + b"\n" + b"".join(lines[1:keep]))
    return copy


def test_without_its_own_file_the_most_complete_and_then_the_newest_counts(finished, tmp_path):
    folder, path = whole(finished, tmp_path / "study")
    run_id = path.stem
    short = edited(path, "a.b.jsonl", keep=-1, time="2027-01-01T00:00:00+00:00")
    old = edited(path, "b.b.jsonl")
    new = edited(path, "c.b.jsonl", time="2026-02-01T00:00:00+02:00")

    def counts():
        (found,) = [r.path for r in store.read_trials(folder) if r.header.run_id == run_id]
        return found

    assert counts() == str(path)
    path.unlink()
    assert counts() == str(new)
    new.unlink()
    assert counts() == str(old)
    old.unlink()
    assert counts() == str(short)
    backup = short.rename(path.with_name(f"{run_id}.jsonl~"))
    read = store.read_trial_files(folder)
    assert len(read.records) == 15
    assert read.copies == [trial_files.DuplicateTrialFile(backup, run_id, None)]
    assert "rename" in str(read.copies[0])


def test_its_own_file_counts_though_a_copy_got_further(finished, tmp_path):
    folder, path = whole(finished, tmp_path / "study")
    shutil.copyfile(path, path.with_name(f"{path.stem} (copy).jsonl"))
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    (found,) = [r for r in store.read_trials(folder) if r.header.run_id == path.stem]
    assert found.path == str(path)
    assert not found.finished
    path.write_bytes(b"")  # the writer was killed before the header
    (found,) = [r for r in store.read_trials(folder) if r.header.run_id == path.stem]
    assert found.finished


def test_what_is_no_copy_of_a_record_is_passed_over_or_refused(finished, tmp_path):
    folder, path = whole(finished, tmp_path / "study")
    for name in (f".{path.name}.swp", f"._{path.name}", "notes.jsonl.txt", f"{path.name}.bad"):
        path.with_name(name).write_bytes(b"\x00\x01 nothing of ours")
    (path.parent / "x.jsonl.d").mkdir()
    assert store.read_trial_files(folder).copies == []
    # A copy that is torn in its middle does no harm; a record that is does.
    torn = path.with_name(f"{path.stem}.sync-conflict.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    torn.write_bytes(lines[0] + b'{"event":"ev\n' + b"".join(lines[2:]))
    assert [copy.path for copy in store.read_trial_files(folder).copies] == [torn]
    path.unlink()
    with pytest.raises(UserError, match="corrupt"):
        store.read_trial_files(folder)
