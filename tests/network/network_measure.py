"""Measured collectives and trainings on emulated networks, beside what the model says of them.

    python tests/network/network_measure.py > docs/evidence/projection-network.csv

measures all of it as root, for twenty minutes on two cores, and prints a CSV table.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import msgspec
from network_emulator import Link, emulated, obstacle
from network_ranks import timed, trained

sys.path.append(str(Path(__file__).parents[1]))
from harness_ranks import run_ranks
from nodes_run import free_port

from bench_apts.core import store
from bench_apts.core.job import RankJob
from bench_apts.core.records import Header
from bench_apts.stats.modelled_training import BatchScaling, project, recorded_work
from bench_apts.stats.network_model import Algorithm, Fabric, Interconnect, collective_seconds
from bench_apts.suites import data

NETWORKS = {
    "10 ms, 100 Mb/s": Link(12.5e6, 0.010),
    "30 ms, 100 Mb/s": Link(12.5e6, 0.030),
    "1 ms, 1 Gb/s": Link(125e6, 0.001),
    "0.2 ms, 200 Mb/s": Link(25e6, 0.0002),
}

PAYLOADS = (4, 10_000, 424_800, 5_000_000)
"""Bytes: a scalar, a small model, the MLP of the suite mnist, and more than gloo's segment."""

STEPS = 100
"""Steps of 64 samples in the trainings."""


@dataclass(frozen=True)
class Row:
    """One measurement beside the modelled communication.

    Attributes:
        network: A key of ``NETWORKS``.
        ranks: World size.
        latency_s: α between two ranks, measured with plain TCP.
        bytes_per_s: β, likewise.
        what: A collective, or the optimizer of a training on the suite digits.
        payload_bytes: Of the collective, or of all of the training.
        calls: Collectives in it.
        measured_s: Seconds of communication; the median of ``repetitions``.
        least_s: The shortest of these.
        most_s: The longest.
        loopback_s: Median seconds of the same on loopback, which no model knows; of a training
            it is the training clock, and already deducted from the others.
        repetitions: How many there are.
        gloo_s: Modelled with ``--algorithm gloo``.
        best_s: Modelled with ``--algorithm best``.
    """

    network: str
    ranks: int
    latency_s: float
    bytes_per_s: float
    what: str
    payload_bytes: int
    calls: int
    measured_s: float
    least_s: float
    most_s: float
    loopback_s: float
    repetitions: int
    gloo_s: float
    best_s: float

    @property
    def error(self) -> float:
        """By which share the model of gloo is off: −0.25 where it says 25 % too little."""
        return self.gloo_s / self.measured_s - 1


def collectives(network, ranks, payloads=PAYLOADS, repetitions=5):
    """Measures single collectives, all ranks beginning at once.

    Returns:
        A row of each, and the link as plain TCP finds it, which the model is given.
    """
    link = NETWORKS[network]
    pause_s = 0.2 + 12 * link.delay_s
    with emulated(link, ranks) as path:
        by_rank = run_ranks(timed, ranks, path, ranks, payloads, repetitions, pause_s,
                            patience_s=250)
    base = run_ranks(timed, ranks, None, ranks, payloads, repetitions, 0.2)
    measured = next(link for _, link in by_rank if link)
    rows = []
    for name, payload in by_rank[0][0]:
        times = _times(by_rank, name, payload)
        gloo, best = (collective_seconds(name, payload, ranks, _network(measured), algorithm)
                      for algorithm in (Algorithm.gloo, Algorithm.best))
        rows.append(Row(network, ranks, measured.delay_s, measured.bytes_per_s, name, payload, 1,
                        statistics.median(times), min(times), max(times),
                        statistics.median(_times(base, name, payload)), repetitions, gloo, best))
    return rows, measured


def _times(by_rank, name, payload):
    """Seconds of each repetition until the last rank has ended."""
    return [max(ends) for ends in zip(*(found[name, payload] for found, _ in by_rank),
                                      strict=True)]


def on_loopback(optimizers, ranks, folder, cache):
    """Runs trainings as a user would, on this machine alone; returns their records."""
    done = subprocess.run(
        [sys.executable, "-m", "bench_apts", "run", "--suite", "digits", "--gpus", str(ranks),
         "--optimizers", ",".join(optimizers), "--trials", "0", "--seeds", "1", "--offline",
         "--set", f"suite.budget.samples={64 * STEPS}", "--out", str(folder)],
        env=os.environ | {"BENCH_APTS_CACHE": str(cache), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    records = {record.trial.label: record for record in store.read_trials(folder / "digits")
               if not record.trial.twin}
    return [records[label] for label in optimizers]


def training(network, measured, record, folder, cache):
    """Repeats a recorded training on a network and on loopback, as ``timed`` treats collectives.

    Communication is what the training clock shows beyond that of the loopback, at the step up to
    which ``bench-apts project`` takes the work from the record.

    Returns:
        A row, and the record of the training on the network.
    """
    trial, done = record.trial, recorded_work(record)
    prepared = data.prepare("digits", None, offline=True, cache=cache)
    found = {}
    for link in (None, NETWORKS[network]):
        events = Path(folder) / f"{trial.run_id}-{link is None}.jsonl"
        store.append(events, Header(trial.run_id, store.now(), trial, {}))
        job = msgspec.json.encode(RankJob(trial, str(prepared.folder), str(events)))
        with emulated(link, trial.ranks) if link else nullcontext() as path:
            run_ranks(trained, trial.ranks, path, trial.ranks, free_port(), job, patience_s=280)
        found[link] = store.read_trial(events)
    base, took = (next(event.train_s for event in repeated.evals if event.step == done.steps)
                  for repeated in found.values())
    took -= base
    gloo, best = (
        done.steps * project(done, trial.ranks, BatchScaling.strong, _network(measured),
                             algorithm).communication_s
        for algorithm in (Algorithm.gloo, Algorithm.best))
    return Row(network, trial.ranks, measured.delay_s, measured.bytes_per_s, trial.label,
               sum(traffic.payload_bytes for traffic in done.traffic.values()),
               sum(traffic.calls for traffic in done.traffic.values()),
               took, took, took, base, 1, gloo, best), found[NETWORKS[network]]


def _network(link):
    return Interconnect(Fabric(link.bytes_per_s, link.delay_s, "emulated"))


def main():
    """Measures and prints a row at a time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--optimizers", nargs="+", default=["adam", "apts", "zero1"])
    chosen = parser.parse_args()
    if why := obstacle():
        sys.exit(why)
    table = csv.writer(sys.stdout, lineterminator="\n")
    columns = [*Row.__annotations__, "error"]
    table.writerow(columns)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = folder / "cache"
        for ranks in chosen.ranks:
            records = on_loopback(chosen.optimizers, ranks, folder / str(ranks), cache)
            for number, network in enumerate(chosen.networks):
                there = folder / f"{ranks}-{number}"
                there.mkdir()
                rows, link = collectives(network, ranks)
                rows += (training(network, link, record, there, cache)[0] for record in records)
                table.writerows([f"{value:.6g}" if isinstance(value, float) else value
                                 for value in (getattr(row, column) for column in columns)]
                                for row in rows)
                sys.stdout.flush()


if __name__ == "__main__":
    main()
