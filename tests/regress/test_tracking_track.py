"""`bench-apts track` from end to end in a scratch clone, and what is made of its results."""

import contextlib
import json
import os
import signal
import subprocess
import time

import clones
import psutil
import pytest
import scratch

from bench_apts.reports import asv_results

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MODULES = ("--bench", "track_modules_at_start")

BROKEN = '''
def track_missed():
    raise RuntimeError("the target was missed")


track_missed.version = "1"
'''


def test_numbers_are_stored_under_their_commit_and_compared(tracked):
    clone = tracked.folder
    first = clones.git(clone, "rev-parse", "HEAD")

    (clone / "notes.py").write_text("")
    done = tracked.track(*MODULES)
    assert done.returncode == 2
    assert done.stderr.startswith(f"bench-apts: notes.py in {clone} not committed")
    done = tracked.track(*MODULES, "--dirty")
    assert done.returncode == 0, scratch.shown_output(done)
    assert "nothing was stored: numbers of --dirty belong to no commit" in done.stdout
    (clone / "notes.py").unlink()
    done = tracked.track(*MODULES, "--dirty")
    assert done.returncode == 0, scratch.shown_output(done)
    assert not tracked.files()
    done = tracked.track(*MODULES, "--quick")
    assert done.returncode == 0, scratch.shown_output(done)
    assert "nothing was stored: a quick run" in done.stdout
    assert not tracked.files()

    done = tracked.track(*MODULES)
    assert done.returncode == 0, scratch.shown_output(done)
    (file,) = tracked.files()
    assert file.name.startswith(f"{first[:8]}-existing")
    assert json.loads(file.read_text())["commit_hash"] == first
    assert f"results: {file}" in done.stdout
    assert "nothing to compare with" in done.stdout

    # A module that nobody else imports: one number of each command rises by exactly one.
    scratch.edit(clone / "bench_apts" / "cli" / "__init__.py", "import signal\n",
                 "import signal\nimport this\n")
    second = clones.commit(clone, "an import too many")
    done = tracked.track(*MODULES)
    assert done.returncode == 0, scratch.shown_output(done)
    assert f"since {first[:8]}: of 4 numbers 4 worse, 0 better" in done.stdout
    lines = {line.parameters: [point.value for point in line.points]
             for line in asv_results.read_history(clone / ".asv" / "results").lines}
    assert sorted(lines) == ["--help", "list", "report --help", "run --help"]
    assert all(after == before + 1 for before, after in lines.values())

    done = tracked.track("--commit", "main~1")
    assert done.returncode == 2
    assert f"is at {second[:8]}, whose files differ" in done.stderr
    done = tracked.track("--bench", "no_such_benchmark")
    assert done.returncode == 2
    assert "asv ended with exit code 1" in done.stderr
    assert len(tracked.files()) == 2


def test_sigterm_ends_asv_and_its_benchmarks(tracked):
    mark = f"track-{os.getpid()}-{os.urandom(4).hex()}"
    command = [str(tracked.python), "-m", "bench_apts", "track", "--dirty", "--bench", "per_step"]

    def left():
        # asv's forkserver, the study's own and its ranks among them.
        return [process for process in psutil.process_iter()
                if mark in of(process).get("BENCH_APTS_TEST", "")]

    with subprocess.Popen(command, cwd=tracked.folder, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.STDOUT,
                          env=tracked.environment | {"BENCH_APTS_TEST": mark}) as process:
        try:
            until(lambda: any("bench_apts.launch.preload" in str(p.cmdline()) for p in left()))
            process.terminate()
            said, _ = process.communicate(timeout=120)
            assert process.returncode == 128 + signal.SIGTERM, said
            assert said.endswith("interrupted: the numbers are not complete\n")
            until(lambda: not left())
        finally:
            for other in left():
                with contextlib.suppress(psutil.NoSuchProcess):
                    other.kill()


def of(process):
    try:
        return process.environ()
    except psutil.Error:
        return {}


def until(true, seconds=240):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_publishing_and_the_history_survive_a_failed_benchmark(tracked):
    clone = tracked.folder
    (clone / "suites" / "regressions" / "broken.py").write_text(BROKEN)
    commit = clones.commit(clone, "a benchmark that fails")
    done = tracked.track(*MODULES, "--bench", "track_missed")
    assert done.returncode == 1, scratch.shown_output(done)
    assert "the target was missed" in done.stdout + done.stderr
    assert "benchmarks failed" in done.stdout
    assert any(file.name.startswith(commit[:8]) for file in tracked.files())

    done = tracked.run("asv", "publish")
    assert done.returncode == 0, scratch.shown_output(done)
    html = clone / ".asv" / "html"
    assert "broken.track_missed" in json.loads((html / "index.json").read_text())["benchmarks"]
    graphs = [json.loads(path.read_text())
              for path in html.glob("graphs/**/harness.track_modules_at_start.json")]
    assert graphs
    assert all(graphs)

    known = {
        line.benchmark: line for line in asv_results.read_history(clone / ".asv" / "results").lines
    }
    assert known["broken.track_missed"].fails
    assert not known["harness.track_modules_at_start"].fails
