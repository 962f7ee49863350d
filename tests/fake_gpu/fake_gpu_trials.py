"""Runs trials on the stand-in GPU, in a process that sees it, and prints how they ended as JSON.

Arguments: a folder, and a JSON list of trials: selector, ranks, and GPUs by number or null.
"""

import json
import os
import sys
from pathlib import Path

import msgspec

from bench_apts.core import store
from bench_apts.core.configuration import parse_selector
from bench_apts.core.job import RankJob
from bench_apts.core.records import Header
from bench_apts.core.spec import Study
from bench_apts.launch.elastic import Launcher
from bench_apts.plugins import registry
from bench_apts.study.plan import Plan
from bench_apts.suites import data


def run(launcher, folder, prepared, plan, gpus):
    (trial,) = plan.reporting([])
    events = folder / f"{trial.run_id}.jsonl"
    store.append(events, Header(trial.run_id, store.now(), trial, {}))
    outcome = launcher.run(RankJob(
        trial, str(prepared.folder), str(events), program="fake_gpu_rank:main",
        gpus=tuple(gpus or ())), 300)
    notes = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{events.name}.rank*"))]
    return {"status": outcome.status, "reason": outcome.reason, "ranks": notes,
            "record": msgspec.to_builtins(store.read_trial(events))}


def main():
    folder, wanted = Path(sys.argv[1]), json.loads(sys.argv[2])
    prepared = data.prepare("digits", None, offline=True)
    suite = registry.suite("digits", (
        "suite.budget.samples=640", "suite.evaluation.every_samples=320"))
    plans = [(Plan(Study(
        suites=(suite,), entries=(parse_selector(selector),), ranks=(ranks,), trials=0, seeds=1,
        base_seed=0, device="cuda", twins=False), {"digits": prepared}), gpus)
        for selector, ranks, gpus in wanted]
    packages = sorted({name for plan, _ in plans for name in plan.packages()})
    notes = []
    with Launcher(packages, "cuda") as launcher:
        launcher.note = notes.append
        found = [run(launcher, folder, prepared, plan, gpus) for plan, gpus in plans]
    print(json.dumps({"trials": found, "notes": notes, "command": os.getpid()}))


if __name__ == "__main__":
    main()
