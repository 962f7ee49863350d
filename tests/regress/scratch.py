"""A scratch clone of this checkout, and an environment in which it is what is installed."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

from clones import clone


def install(folder, environment):
    """Installs a clone editable into a new environment, which links the packages here.

    Only the folder is linked: what is installed here as editable stays behind.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    link(python)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index",
         "--no-deps", "--no-build-isolation", "--editable", str(folder)],
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return python


def link(python):
    """Lets an environment see the packages that are installed here, after its own."""
    place = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True).stdout.strip()
    (Path(place) / "linked.pth").write_text(sysconfig.get_path("purelib") + "\n")


class Tracked:
    """A clone with its environment; asv's knowledge of the machine lies beside them."""

    def __init__(self, folder, cache):
        self.folder = clone(folder / "clone")
        self.python = install(self.folder, folder / "environment")
        home = folder / "home"
        home.mkdir()
        # asv keeps what it knows of the machine in the home folder.
        self.environment = os.environ | {"HOME": str(home), "BENCH_APTS_CACHE": str(cache)}

    def run(self, *arguments):
        """Runs a Python module in the clone."""
        return subprocess.run(
            [str(self.python), "-m", *arguments], cwd=self.folder, env=self.environment,
            capture_output=True, text=True, check=False)

    def track(self, *arguments):
        return self.run("bench_apts", "track", *arguments)

    def files(self):
        """Result files."""
        return sorted(p for p in self.folder.glob(".asv/results/*/*.json")
                      if p.name != "machine.json")


def edit(path, old, new):
    """Changes a file by hand; what is to be changed must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def shown_output(done):
    """What a command said, for a failing assertion."""
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)
