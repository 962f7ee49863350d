"""Packages of npm that tests fetch, at the versions of tests/npm/package-lock.json."""

import shutil
import subprocess
from pathlib import Path

LISTED = Path(__file__).parent / "npm"


def modules(folder, give_up):
    """Installs them in a folder and returns ``node_modules``; ``give_up`` gets the reason."""
    npm = shutil.which("npm")
    if npm is None:
        give_up("needs npm: apt-get install npm")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(LISTED / name, folder)
    done = subprocess.run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                          cwd=folder, capture_output=True, text=True, check=False, timeout=240)
    if done.returncode:
        give_up(f"npm could not fetch {LISTED.name}: {done.stderr.strip()[-200:]}")
    return folder / "node_modules"
