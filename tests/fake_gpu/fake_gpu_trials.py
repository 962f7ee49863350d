"""Runs trials in a process of its own, which may see the stand-in GPU; writes how they ended.

Arguments: a folder, the device, and a JSON list of trials: selector, ranks, GPUs or null, and the
time limit in seconds.
"""

import json
import sys
import time
from pathlib import Path

import msgspec

from bench_apts.core import store
from bench_apts.core.configuration import parse_selector
from bench_apts.core.job import TRAINING, RankJob
from bench_apts.core.records import Header
from bench_apts.core.spec import Study
from bench_apts.launch.elastic import Launcher
from bench_apts.plugins import registry
from bench_apts.study.plan import Plan
from bench_apts.suites import data

PROGRAMS = {"cuda": "fake_gpu_rank:main", "cpu": TRAINING}


def run(launcher, folder, prepared, plan, gpus, limit_s):
    (trial,) = plan.reporting([])
    events = folder / f"{trial.run_id}.jsonl"
    store.append(events, Header(trial.run_id, store.now(), trial, {}))
    began = time.monotonic()
    outcome = launcher.run(RankJob(
        trial, str(prepared.folder), str(events), program=PROGRAMS[trial.device],
        gpus=tuple(gpus or ())), limit_s)
    seconds = time.monotonic() - began
    notes = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{events.name}.rank*"))]
    return {"status": outcome.status, "reason": outcome.reason, "ranks": notes,
            "seconds": seconds, "record": msgspec.to_builtins(store.read_trial(events))}


def main():
    folder, device, wanted = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    prepared = data.prepare("digits", None, offline=True)
    suite = registry.suite("digits", (
        "suite.budget.samples=640", "suite.evaluation.every_samples=320"))
    plans = [(Plan(Study(
        suites=(suite,), entries=(parse_selector(selector),), ranks=(ranks,), trials=0, seeds=1,
        base_seed=0, device=device, twins=False), {"digits": prepared}), gpus, limit_s)
        for selector, ranks, gpus, limit_s in wanted]
    packages = sorted({name for plan, *_ in plans for name in plan.packages()})
    with Launcher(packages, device) as launcher:
        found = [run(launcher, folder, prepared, *planned) for planned in plans]
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
