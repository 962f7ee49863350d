"""A short run of the coverage-guided fuzzer over each kind of input, where it is installed."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import report_fixture as fixture

from bench_apts.plugins import registry

HERE = Path(__file__).parent
RUNS = 20_000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("atheris") is None,
                       reason="atheris is not installed: pip install atheris"),
]


def fuzz(kind, scratch, seed, harness=HERE / "harness_atheris.py"):
    (scratch / "seed").write_bytes(seed)
    return subprocess.run(
        [sys.executable, harness, kind, scratch, f"-runs={RUNS}", "-seed=1",
         f"-artifact_prefix={scratch}/"],
        capture_output=True, text=True, check=False, timeout=280, cwd=scratch)


@pytest.mark.parametrize("kind", ["suite", "words", "record"])
def test_no_input_leads_to_anything_but_a_user_error(tmp_path, kind):
    seed = registry.suite_path("digits").read_bytes()
    if kind == "record":
        trial = fixture.trial("sgd")
        seed = fixture.write(tmp_path, trial, fixture.evals(
            trial, pace=1.0, step_s=0.01, backwards=1, every=1, until=4), "miss").read_bytes()
    done = fuzz(kind, tmp_path, seed)
    assert done.returncode == 0, done.stderr[-3_000:]
    assert re.search(rf"Done {RUNS} runs", done.stderr), done.stderr[-3_000:]
    assert not list(tmp_path.glob("crash-*"))


def test_a_crash_would_be_found(tmp_path):
    """The harness with a planted mistake: a reader that stumbles over one word."""
    harness = tmp_path / "planted_mistake.py"
    source = (HERE / "harness_atheris.py").read_text(encoding="utf-8")
    assert "    suite_file.load(path)\n" in source
    harness.write_text(source.replace(
        "    suite_file.load(path)\n",
        "    if b'batch' not in path.read_bytes():\n        raise KeyError('batch')\n").replace(
        "from answers", f"sys.path.append({str(HERE)!r})\nfrom answers"), encoding="utf-8")
    done = fuzz("suite", tmp_path, b"batch_size = 64\n", harness)
    assert done.returncode != 0
    assert "KeyError: 'batch'" in done.stdout + done.stderr
    assert list(tmp_path.glob("crash-*"))
