"""A scratch repository that holds the code as it stands."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("bench_apts", "optimizers", "reports", "suites", "LICENSE", "README.md", ".gitignore",
         "asv.conf.json", "pyproject.toml")
"""What a wheel is built from, and what asv reads."""


def clone(folder):
    """Makes a repository of one commit with what lies here now, committed or not."""
    folder.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part,
                            ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder / part)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    commit(folder, "first")
    return folder


def git(folder, *arguments):
    done = subprocess.run(
        ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c",
         "commit.gpgsign=false", "-C", str(folder), *arguments],
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(folder, message):
    """Commits everything; returns the hash."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--no-verify", "-m", message)
    return git(folder, "rev-parse", "HEAD")
