"""What lets no trial start: one line before the first, or after the second that fails alike."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench_apts.core import errors, process_limits, store
from bench_apts.core.errors import UserError
from bench_apts.core.records import End, Eval
from bench_apts.study.attempts import EnvironmentFailure, StartupFailures, ran_to_its_end

SMALL = ("--offline", "--no-twins", "--set", "suite.budget.samples=2000", "--set",
         "suite.evaluation.every_samples=500")
RUN = ("run", "--trials", "0", "--seeds", "1", "--no-report", *SMALL)

# As `nobody`, whose processes are limited, but able to read this environment.
NOBODY = ("setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=+dac_override",
          "--ambient-caps=+dac_override")
NAMESPACES = ("unshare", "--mount", "--net")
READ_ONLY = ("for d in /tmp /var/tmp; do mount --bind $d $d; mount -o remount,bind,ro $d; done; "
             "unset TMPDIR; cd /proc; ")
NO_NAMES = ("ip link set lo up 2>/dev/null || python3 -c \"import socket,fcntl,struct; "
            "fcntl.ioctl(socket.socket(),0x8914,struct.pack('16sh14x',b'lo',65))\"; "
            "mount --bind /dev/null /etc/hosts; ")


@pytest.fixture
def shell(environment):
    """Runs ``bench-apts run …`` from a shell that first does something to its environment."""

    def run(*arguments, before="", prefix=(), cwd=None, after="", safe=True, **variables):
        if prefix:
            try:
                probe = subprocess.run([*prefix, "true"], capture_output=True, check=False)
            except FileNotFoundError as error:
                pytest.skip(f"there is no {error.filename}")
            if probe.returncode:
                pytest.skip(f"{prefix[0]}: {probe.stderr.decode().strip()}")
        return subprocess.run(
            [*prefix, "bash", "-c", f'{before} exec "$@" {after}', "bash", sys.executable,
             *["-P"] * safe, "-m", "bench_apts", *map(str, arguments)],
            env=environment | variables, cwd=cwd, capture_output=True, text=True, check=False,
            timeout=300)

    return run


def assert_one_line(done, *said):
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("bench-apts: ")
    for word in said:
        assert word in lines[0]
    assert "Traceback" not in done.stdout
    assert "frame #" not in done.stdout


@pytest.mark.parametrize(("before", "prefix", "said"), [
    ("ulimit -n 40;", (), "ulimit -n"),
    ("ulimit -v 100000;", (), "ulimit -v"),
    ("ulimit -v 1200000;", (), "ulimit -v"),
    ("ulimit -u 12;", NOBODY, "ulimit -u"),
    (READ_ONLY, NAMESPACES, "TMPDIR"),
    ("export OMP_NUM_THREADS=0;", (), "OMP_NUM_THREADS='0'"),
    ("export OMP_NUM_THREADS=2,;", (), "OMP_NUM_THREADS='2,'"),
])
def test_a_limit_under_which_no_trial_starts(shell, short_path, before, prefix, said):
    short_path.chmod(0o777)
    place = Path("/dev/shm") / short_path.name if "remount" in before else short_path
    out = place / "out"
    try:
        done = shell(*RUN, "--gpus", "2", "--optimizers", "adam-default,apts", "--out", out,
                     before=before, prefix=prefix, HOME=str(place),
                     BENCH_APTS_CACHE=str(place / "cache"))
        assert_one_line(done, said)
        assert store.read_trials(out / "digits") == []
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.parametrize(("before", "prefix", "ranks"), [
    ("export OMP_NUM_THREADS=2,1;", (), 1),  # two threads of two ranks would wait for cores
    pytest.param(NO_NAMES, NAMESPACES, 2, marks=pytest.mark.slow),
])
def test_what_is_unusual_but_allowed(shell, tmp_path, before, prefix, ranks):
    done = shell(*RUN, "--gpus", ranks, "--optimizers", "adam-default", "--out", tmp_path,
                 before=before, prefix=prefix)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (record,) = store.read_trials(tmp_path / "digits")
    assert record.finished


@pytest.mark.parametrize("streams", [
    ">&-", *(pytest.param(streams, marks=pytest.mark.slow)
             for streams in ("<&-", "2>&-", "<&- >&- 2>&-"))])
def test_closed_standard_streams(shell, tmp_path, streams):
    done = shell(*RUN, "--report", "--gpus", "1", "--optimizers", "adam-default", "--out",
                 tmp_path, after=streams)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "digits" / "report.html").read_text(encoding="utf-8").startswith("<!")
    assert all(record.finished for record in store.read_trials(tmp_path / "digits"))


@pytest.mark.parametrize("safe", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_files_of_the_working_directory_stand_in_for_no_module(shell, tmp_path, plugin, safe):
    for name in ("random", "tempfile", "socket", "selectors", "torch", "numpy", "signal"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a file of mine')")
    plugin()
    done = shell(*RUN, "--gpus", "2", "--optimizers", "mine.py", "--out", "out", cwd=tmp_path,
                 safe=safe)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(record.finished for record in store.read_trials(tmp_path / "out" / "digits"))


def test_the_fork_servers_own_words_are_shown_and_the_study_stops(shell, tmp_path):
    # It alone imports what trials need beforehand.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "sitecustomize.py").write_text(textwrap.dedent("""
        import sys
        if "multiprocessing.forkserver" in " ".join(sys.orig_argv):
            raise SystemExit("no server today")
    """))
    done = shell(*RUN, "--gpus", "1", "--optimizers", "adam-default,apts,sgd", "--out", tmp_path,
                 PYTHONPATH=str(tmp_path / "mine"))
    assert_one_line(done, "fork server", "no server today", "sitecustomize.py:4")
    records = store.read_trials(tmp_path / "digits")
    assert sorted(record.trial.label for record in records) == ["adam-default", "apts"]


@pytest.mark.slow
def test_a_plugin_that_never_starts_is_given_up_and_the_others_go_on(command, plugin, tmp_path):
    path = plugin(on_step="raise ValueError(f'no luck on {self.world.size}')")
    line = path.read_text().splitlines().index(
        "        raise ValueError(f'no luck on {self.world.size}')") + 1
    done = command("run", "--trials", "4", "--seeds", "2", "--gpus", "1", "--optimizers",
                   f"{path},apts", *SMALL, "--out", tmp_path)
    assert done.returncode == 1, done.stderr
    why = f"ValueError: no luck on 1 (mine.py:{line})"
    records = store.read_trials(tmp_path / "digits")
    mine = [r for r in records if r.trial.optimizer == "mine"]
    assert [r.end.reason for r in mine] == [f"rank 0: {why}"] * 2
    assert all(r.finished for r in records if r.trial.label == "apts")
    assert [line for line in done.stdout.splitlines() if "given up" in line and why in line]
    (last,) = done.stderr.splitlines()
    assert "no trial of" in last
    assert "mine on digits at N = 1" in last
    assert why in last
    report = (tmp_path / "digits" / "report.html").read_text(encoding="utf-8")
    assert f"2 tuning trials of mine at N = 1: “rank 0: {why}”" in report


def test_all_trials_failed(command, plugin, tmp_path):
    path = plugin(on_step="if self.steps == 8: os._exit(0)")
    done = command(*RUN, "--gpus", "1,2", "--optimizers", path, "--out", tmp_path)
    assert done.returncode == 1
    # At N = 2 both may end at once, or the one that lost its peer first.
    ranks = re.findall(r"at N = ([12, ]+) ran to an end: ranks? [01]", done.stderr)
    assert ", ".join(ranks) == "1, 2"
    assert "rank 0 exited with code 0" in done.stderr
    for record in store.read_trials(tmp_path / "digits"):
        assert record.end.status == "error"
        assert record.evals, "it failed after its first step, so no trial was left out"


SHOWN = {
    "build": ("return Stepper(model, loss, values, world)", "return 1 / 0", "ZeroDivisionError"),
    "helper": ("return Stepper(", "import json; json.loads('{'); return Stepper(",
               "JSONDecodeError"),
    "torch": ("        self.optimizer.zero_grad()",
              "        self.model(batch.inputs[:, :3])", "RuntimeError"),
    "lacks": ("    def state_dict(self):", "    def other(self):", "state_dict"),
    "interrupt": ("        self.optimizer.zero_grad()", "        raise KeyboardInterrupt",
                  "KeyboardInterrupt"),
    "exit": ("        self.optimizer.zero_grad()", "        sys.exit(0)", "sys.exit(0)"),
}


def test_an_exception_names_the_plugins_own_line(command, plugin, tmp_path):
    paths, places = [], {}
    for name, (old, new, _) in SHOWN.items():
        path = plugin(f"{name}.py")
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new).replace('"mine"', f'"{name}"'))
        lines = path.read_text().splitlines()
        line = lines.index(next(text for text in lines if new.strip() in text)) + 1
        paths.append(str(path))
        # What the harness finds missing has no line.
        places[name] = f"({name}.py)" if name == "lacks" else f"({name}.py:{line})"
    done = command(*RUN, "--gpus", "1", "--optimizers", ",".join(paths), "--out", tmp_path)
    assert done.returncode == 1, done.stderr
    records = {r.trial.optimizer: r for r in store.read_trials(tmp_path / "digits")}
    assert records.keys() == SHOWN.keys(), "no two of them failed alike"
    for name, record in records.items():
        assert SHOWN[name][2] in record.end.reason
        assert record.end.reason.endswith(places[name])
        assert places[name] in done.stdout
        assert places[name] in done.stderr


def trial(label="mine", ranks=1, sha256="1", suite="digits"):
    return SimpleNamespace(label=label, ranks=ranks, plugin_sha256=sha256,
                           suite=SimpleNamespace(name=suite))


def ended(status="error", reason="boom", evals=(), ledger=None, **of):
    return SimpleNamespace(trial=trial(**of), evals=list(evals), end=End(
        status, "", 0.0, ledger=ledger or {}, reason=reason))


def first():
    return Eval(0, 0, 0.0, 0.0, 0.0, 0.0, 0, 0, 0, None, {}, {})


def test_two_failures_alike_give_an_optimizer_up():
    starts = StartupFailures()
    assert starts.add(ended(reason="rank 0: boom")) == ""
    assert starts.add(ended(reason="rank 1: boom")) == "rank 1: boom"
    assert starts.given_up("mine", "digits", 1)
    assert starts.given_up("mine", "digits", 2), "none of it has begun anywhere"
    assert not starts.given_up("other", "digits", 1)


@pytest.mark.parametrize("between", [
    ended(status="interrupted"), ended(reason="bang"), ended(evals=[first()])])
def test_what_is_not_alike_gives_nothing_up(between):
    starts = StartupFailures()
    starts.add(ended())
    assert starts.add(between) == ""
    assert not starts.given_up("mine", "digits", 1)


def test_an_optimizer_that_begins_elsewhere_is_given_up_where_it_does_not():
    starts = StartupFailures()
    starts.add_begun(ended(evals=[first()], ranks=1))
    starts.add(ended(ranks=2))
    assert starts.add(ended(ranks=2)) == "boom"
    assert starts.given_up("mine", "digits", 2)
    assert not starts.given_up("mine", "digits", 1)
    assert not starts.given_up("mine", "digits", 4)


def test_two_optimizers_that_fail_alike_in_a_row_stop_the_study():
    starts = StartupFailures()
    starts.add(ended())
    starts.add(ended(label="twin", sha256="1"))  # of the same source
    with pytest.raises(EnvironmentFailure, match="boom"):
        starts.add(ended(label="other", sha256="2"))
    starts = StartupFailures()
    starts.add(ended())
    starts.add(ended(label="third", sha256="3", evals=[first()]))
    assert starts.add(ended(label="other", sha256="2")) == "", "a trial began in between"


def test_an_optimizer_that_hangs_twice_is_given_up_but_ends_no_study():
    starts = StartupFailures()
    hung = {"status": "timeout", "reason": "killed after 360 s", "evals": [first()]}
    assert starts.add(ended(**hung)) == ""
    assert starts.add(ended(label="other", sha256="2", **hung)) == ""
    assert starts.add(ended(**hung)) == "killed after 360 s"
    assert starts.given_up("mine", "digits", 1)
    assert starts.add(ended(label="slow", **(hung | {"ledger": {"train_s": 120.0}}))) == ""
    assert starts.add(ended(label="slow", **(hung | {"ledger": {"train_s": 120.0}}))) == ""
    assert not starts.given_up("slow", "digits", 1)


@pytest.mark.parametrize(("record", "expected"), [
    (ended("hit"), True), (ended("diverged"), True), (ended("error"), False),
    (ended("oom"), False),
    (ended("timeout", ledger={"train_s": 1.0}), True), (ended("timeout"), False)])
def test_what_ran_to_an_end(record, expected):
    assert ran_to_its_end(record) is expected


@pytest.mark.parametrize(("text", "count"), [
    ("1", 1), ("4", 4), ("2,1", 2), (" 3 , 2 ", 3), ("+2", 2), ("007", 7), ("", 1), ("  ", 1)])
def test_numbers_of_threads(text, count):
    environ = {"OMP_NUM_THREADS": text}
    assert process_limits.openmp_threads(environ) == count
    assert process_limits.openmp_threads(environ) == count
    assert environ["OMP_NUM_THREADS"].strip()


@pytest.mark.parametrize("text", ["0", "-1", "1,0", "2,", ",2", "1.5", "two", "2;1", "1 2", "²",
                                  "99999999"])
def test_what_is_no_number_of_threads(text):
    with pytest.raises(UserError, match="OMP_NUM_THREADS"):
        process_limits.openmp_threads({"OMP_NUM_THREADS": text})


def test_an_unset_number_of_threads_is_one():
    environ = {}
    assert process_limits.openmp_threads(environ) == 1
    assert environ == {"OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(("error", "said"), [
    (OSError(24, os.strerror(24)), "ulimit -n"),
    (BlockingIOError(11, os.strerror(11)), "ulimit -u"),
    (RuntimeError("can't start new thread"), "ulimit -u"),
    (MemoryError(), "ulimit -v"),
    (OSError(12, os.strerror(12)), "ulimit -v"),
    (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "ulimit -v"),
    (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), "TMPDIR"),
])
def test_what_ran_out_is_said(error, said):
    assert said in errors.explain_shortage(error)


@pytest.mark.parametrize("error", [OSError(2, "x"), RuntimeError("x"), ImportError("no x"),
                                   FileNotFoundError(2, "x")])
def test_other_errors_are_no_shortage(error):
    assert errors.explain_shortage(error) is None
