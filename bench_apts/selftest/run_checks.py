"""Runs each check in a process of its own, and sums them up: a table, and a JSON file.

Nothing here needs more than Python, so that on a machine with little else the checks that lack a
package are skipped, and say which.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

CHECKS = {
    "clock-events": ("device_checks:check_clock_and_events", 20),
    "clock-profiler": ("device_checks:check_clock_and_profiler", 15),
    "meter": ("device_checks:check_meter", 20),
    "memory": ("device_checks:check_memory_peak", 12),
    "bf16": ("device_checks:check_bf16", 12),
    "channels-last": ("device_checks:check_channels_last", 12),
    "determinism": ("device_checks:check_determinism", 12),
    "bare-loop": ("harness_checks:check_harness_and_bare_loop", 40),
    "resnet18-sgd-apts": ("harness_checks:check_cifar10_resnet18", 90),
    "compile": ("device_checks:check_compile", 25),
    "conformance": ("harness_checks:check_conformance", 32),
}
"""The function of each check, and the seconds that are kept for it; they add up to ``TOTAL_S``."""

TOTAL_S = {"cuda": 290.0, "cpu": 900.0}
"""The most seconds that all checks take together, by device; on CPUs more than they need."""

LIMIT = "BENCH_APTS_SELFTEST_LIMIT_S"
"""Environment variable: the seconds that a check may take."""

_MARK = "finding: "


def main(arguments: list[str] | None = None) -> int:
    """Run the checks of the command line.

    Returns:
        0 where none failed, 1 where one did, 2 without the device.
    """
    parser = argparse.ArgumentParser(prog="selftest", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=Path("selftest.json"))
    parser.add_argument("--check", choices=CHECKS, action="append")
    parser.add_argument("--one", choices=CHECKS, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.one:
        print(_MARK + json.dumps(_one(asked.one, asked.device)))
        return 0
    return run_all(asked.device, asked.out, asked.check)


def run_all(device: str, out: Path, names: list[str] | None = None) -> int:
    """Run checks, print a line for each, write the JSON file; return as ``main`` does."""
    card = _describe(device)
    if card.get("missing"):
        print(f"selftest: {card['missing']}", file=sys.stderr)
        return 2
    began, rows = time.monotonic(), []
    # What is kept for checks that were not asked for, or left by those before, is a check's too.
    until = began + TOTAL_S[device] - sum(CHECKS[name][1] for name in names or CHECKS)
    for name in names or CHECKS:
        until += CHECKS[name][1]
        rows.append(_row(name, device, until - time.monotonic()))
        print(f"{rows[-1]['status']:8} {name:18} {rows[-1]['seconds']:6.1f} s  "
              f"{rows[-1]['text']}", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({**card, "checks": rows}, indent=1) + "\n", encoding="utf-8")
    counts = {status: sum(row["status"] == status for row in rows)
              for status in ("ok", "failed", "skipped")}
    print(f"{', '.join(f'{number} {status}' for status, number in counts.items())} on "
          f"{card['name']} in {time.monotonic() - began:.0f} s; {out}")
    return 1 if counts["failed"] else 0


def _row(name: str, device: str, limit_s: float) -> dict[str, Any]:
    """Run a check in a process of its own."""
    began = time.monotonic()
    command = [sys.executable, "-P", "-m", __name__ if __name__ != "__main__"
               else "bench_apts.selftest.run_checks", "--one", name, "--device", device]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s,
                              check=False, env=_environment(device, limit_s))
        found = _read(done)
    except subprocess.TimeoutExpired:
        found = {"status": "failed", "text": f"took more than {limit_s:.0f} s", "numbers": {}}
    return {"name": name, **found, "seconds": round(time.monotonic() - began, 2)}


def _environment(device: str, limit_s: float) -> dict[str, str]:
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return {**os.environ, LIMIT: str(limit_s), **hidden,
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


def _read(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            found: dict[str, Any] = json.loads(line.removeprefix(_MARK))
            return found
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return {"status": "failed", "text": f"exit code {done.returncode}: {last}", "numbers": {}}


def _one(name: str, device: str) -> dict[str, Any]:
    """Run a check in this process; return its status, words and numbers."""
    module, _, function = CHECKS[name][0].partition(":")
    try:
        check = getattr(importlib.import_module(f"bench_apts.selftest.{module}"), function)
        text, numbers = check(device)
    except ModuleNotFoundError as error:
        return {"status": "skipped", "text": f"needs the package {error.name}", "numbers": {}}
    except Exception as error:
        traceback.print_exc()
        status = "skipped" if type(error).__name__ == "CheckSkipped" else "failed"
        return {"status": status, "text": _line(error), "numbers": {}}
    return {"status": "ok", "text": text, "numbers": numbers}


def _line(error: Exception) -> str:
    words = " ".join(str(error).split())[:400]
    own = type(error).__name__ in ("CheckFailed", "CheckSkipped")
    return words if own else f"{type(error).__name__}: {words}"


def _describe(device: str) -> dict[str, Any]:
    """Return what the checks run on; ``missing`` says why they cannot."""
    try:
        import torch
    except ImportError:
        return {"missing": "torch is not installed; pip install torch"}
    if device == "cuda" and not torch.cuda.is_available():
        return {"missing": "there is no GPU here that torch can use; --device cpu tries the "
                           "checks on the CPU"}
    found: dict[str, Any] = {"device": device, "torch": torch.__version__,
                             "python": platform.python_version(),
                             "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    if device == "cuda":
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return found | {"name": names[0], "gpus": names, "cuda": torch.version.cuda}
    return found | {"name": platform.processor() or platform.machine()}


if __name__ == "__main__":
    sys.exit(main())
