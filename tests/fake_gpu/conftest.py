"""The stand-in GPU, and trials in a process that sees it or not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fake_gpu_build
import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory, environment):
    """The environment of a process that sees two GPUs."""
    folder = tmp_path_factory.mktemp("fake-gpu")
    try:
        variables = fake_gpu_build.build(folder)
    except fake_gpu_build.CannotBuild as error:
        pytest.skip(f"no stand-in GPU: {error}")
    kept = {name: value for name, value in environment.items() if name != "CUDA_VISIBLE_DEVICES"}
    modules = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    return kept | variables | {
        "FAKE_GPUS": "2", "PYTHONPATH": modules, "PATH": f"{folder}:{os.environ['PATH']}"}


class Trials:
    """Trials in a process of their own, one after another.

    Args:
        folder: A folder that is made for their files.
        device: What they run on.
        wanted: Keywords of each: ``name``, and ``ranks``, ``gpus`` and ``limit_s`` if need be.
        environ: The process's environment.
    """

    def __init__(self, folder, device, wanted, environ):
        folder.mkdir()
        self._found = folder / "found.json"
        self._wanted = [{"ranks": 1, "gpus": None, "limit_s": 300} | each for each in wanted]
        given = [[each[key] for key in ("name", "ranks", "gpus", "limit_s")]
                 for each in self._wanted]
        self._process = subprocess.Popen(
            [sys.executable, HERE / "fake_gpu_trials.py", folder, device, json.dumps(given)],
            env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def ended(self):
        """Returns how they ended, by name and ranks; of a file's backend its selector's stem."""
        _, errors = self._process.communicate(timeout=1700)
        assert self._process.returncode == 0, errors
        return {(Path(each["name"]).name, each["ranks"]): found for each, found in zip(
            self._wanted, json.loads(self._found.read_text()), strict=True)}


@pytest.fixture(scope="session")
def start_trials():
    """Starts trials; ``ended()`` of what it returns waits for them."""
    return Trials


@pytest.fixture(scope="session")
def run_command():
    """Runs ``bench-apts …`` in a given environment."""

    def run(environ, *arguments):
        return subprocess.run([sys.executable, "-m", "bench_apts", *arguments], env=environ,
                              capture_output=True, text=True, check=False, timeout=600)

    return run
