"""Disks that are full or read-only: one line, exit code 2, and finished trials are kept."""

import itertools
import os
import subprocess
import sys

import pytest
import report_fixture as fixture
from fault_commands import finished, union

from bench_apts import reports
from bench_apts.core import store
from bench_apts.core.errors import UserError

SMALL = ("--gpus", "2", "--trials", "0", "--seeds", "1", "--no-twins", "--offline", "--set",
         "suite.budget.samples=2000", "--set", "suite.evaluation.every_samples=500")


@pytest.fixture
def mounted(tmp_path):
    """Mounts small file systems in memory at ``tmp_path / name``."""
    made = []

    def mount(name, options):
        place = tmp_path / name
        place.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"may not mount a file system: {done.stderr.strip()}")
        made.append(place)
        return place

    yield mount
    for place in made:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(path):
    """Writes zeros into a file until the disk is full."""
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(2**16))
            except OSError:
                return


def assert_one_line(code, err, *expected):
    assert code == 2, err
    (line,) = err.splitlines()
    assert line.startswith("bench-apts: ")
    for part in expected:
        assert part in line


def test_an_event_that_does_not_fit_is_an_error_and_tears_only_itself(tmp_path, mounted):
    place = mounted("disk", "size=64k")
    spec = fixture.trial("sgd")
    curve = fixture.evals(spec, pace=1.0, step_s=0.01, backwards=1, every=1)
    path = fixture.write(place, spec, curve[:3], None)
    fill(place / "filler")
    with pytest.raises(OSError, match="No space left on device"):
        list(map(store.append, itertools.repeat(path), curve[3:] * 99))
    left = store.read_trial(path)
    assert left.evals[:3] == curve[:3]
    (place / "filler").unlink()
    store.append(path, store.read_trial(path).header)
    store.append(path, curve[0])
    record = store.read_trial(path)
    assert record.attempts == 2
    assert record.evals == curve[:1]


def test_records_that_are_not_regular_files_are_refused_and_not_read_for_ever(tmp_path):
    (tmp_path / "trials").mkdir()
    path = tmp_path / "trials" / "x.jsonl"
    spec = fixture.trial("sgd")
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        store.append(path, fixture.evals(
            spec, pace=1.0, step_s=0.01, backwards=1, every=1, until=1)[0])
    with pytest.raises(UserError, match=r"x\.jsonl is not a regular file"):
        store.read_trials(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"x\.jsonl is not a regular file"):
        store.read_trials(tmp_path)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")],
                         ids=["pipe", "device"])
def test_a_study_file_that_is_not_a_regular_file_is_refused(tmp_path, make):
    make(tmp_path / "study.json")
    with pytest.raises(UserError, match=r"study\.json is not a regular file"):
        store.read_study(tmp_path)


def test_a_suite_that_is_a_pipe_is_refused(cli, tmp_path):
    os.mkfifo(tmp_path / "mine.toml")
    done = cli("run", "--suite", "mine.toml", "--dry-run")
    assert_one_line(done.code, done.err, "mine.toml is not a regular file")


@pytest.mark.parametrize("what", ["plug-in", "data"])
def test_a_path_that_is_no_text_is_refused(cli, plugin, tmp_path, monkeypatch, what):
    place = tmp_path / os.fsdecode(b"\xff")
    place.mkdir()
    if what == "data":
        monkeypatch.setenv("BENCH_APTS_CACHE", str(place))
    else:
        plugin(f"{place.name}/mine.py")
        monkeypatch.chdir(place)
    name = "sgd" if what == "data" else "mine.py"
    done = cli("run", *SMALL, "--optimizers", name, "--out", tmp_path)
    assert_one_line(done.code, done.err, "is not valid UTF-8; rename it, or choose another")


@pytest.mark.slow
def test_a_report_that_does_not_fit_leaves_the_old_one(command, mounted):
    place = mounted("disk", "size=40M")
    folder = fixture.populate(place / "digits")
    reports.build(folder)
    before = (folder / "report.html").read_bytes()
    fill(place / "filler")
    done = command("report", folder)
    assert_one_line(done.returncode, done.stderr, "cannot write the report",
                    "No space left on device")
    assert (folder / "report.html").read_bytes() == before
    assert not list(folder.rglob(".*html*"))


@pytest.mark.slow
def test_a_read_only_folder_can_be_read_and_the_rest_says_so(command, mounted):
    place = mounted("disk", "size=40M")
    folder = fixture.populate(place / "digits")
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    for arguments in (("report", folder), ("cost", folder, "--no-replay")):
        done = command(*arguments)
        assert_one_line(done.returncode, done.stderr, "Read-only file system")
    done = command("run", "--optimizers", "sgd", *SMALL, "--out", place)
    assert_one_line(done.returncode, done.stderr, f"cannot write to {folder}", "--out")
    done = command("check", folder)
    assert done.returncode in (0, 1)
    assert done.stdout.splitlines()[-1].startswith("trials: ")


@pytest.mark.parametrize("arguments", [("list", "optimizers"), ("info",), ("--help",)])
def test_output_that_does_not_fit_is_one_line_too(environment, arguments):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "bench_apts", *arguments], stdout=full,
                              stderr=subprocess.PIPE, env=environment, text=True, check=False)
    assert_one_line(done.returncode, done.stderr, "No space left on device")


FILL = ("__import__('pathlib').Path({flag!r}).exists() and rank == 0 and self.steps == 20 and "
        "__import__('subprocess').run(['dd', 'if=/dev/zero', 'of={filler}', 'bs=64k'])")


@pytest.mark.slow
def test_a_disk_that_fills_up_in_a_trial(launch, plugin, tmp_path, mounted):
    place = mounted("disk", "size=100M")
    flag, filler = tmp_path / "flag", place / "filler"
    path = plugin(on_step=FILL.format(flag=str(flag), filler=filler))
    study = ("run", "--optimizers", f"sgd,{path},adam", *SMALL)
    undisturbed = launch(*study, "--out", tmp_path / "elsewhere")
    assert undisturbed.finish()[0] == 0
    flag.touch()
    command = launch(*study, "--out", place)
    code, out, err = command.finish()
    assert_one_line(code, err, "No space left on device", "finished trials are kept")
    assert filler.stat().st_size > 2**25
    command.assert_gone()
    kept = finished(place / "digits")
    assert len(kept) == sum(line.startswith("[") for line in out.splitlines()) == 1
    filler.unlink()
    flag.unlink()
    command = launch(*study, "--out", place)
    code, out, err = command.finish()
    assert code == 0, err
    assert out.count("kept from an earlier run") == 1
    assert union(place / "digits") == union(tmp_path / "elsewhere" / "digits")
    assert finished(place / "digits").items() >= kept.items()


@pytest.mark.slow
@pytest.mark.parametrize("inodes", [3, 6, 9, 12])
def test_a_file_system_without_room_for_another_file(launch, tmp_path, mounted, inodes):
    place = mounted("disk", f"size=200M,nr_inodes={inodes}")
    study = ("run", "--optimizers", "sgd,adam", *SMALL, "--out", place)
    command = launch(*study)
    code, _, err = command.finish()
    assert_one_line(code, err, "No space left on device")
    command.assert_gone()
    kept = finished(place / "digits")
    subprocess.run(["mount", "-o", "remount,nr_inodes=1000", place], check=True)
    command = launch(*study)
    code, out, err = command.finish()
    assert code == 0, err
    assert out.count("kept from an earlier run") == len(kept)
    assert len(finished(place / "digits")) == 2
