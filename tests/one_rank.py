"""A trial of one rank, run in the process that tests it."""

import contextlib
import tempfile
import warnings

import torch
import torch.distributed as dist

from bench_apts.core.job import RankJob
from bench_apts.meters.clock import Clock
from bench_apts.meters.comm import CollectiveCounter
from bench_apts.trial.trial_run import TrialRun


@contextlib.contextmanager
def group():
    """A process group of this process alone."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        dist.init_process_group("gloo", f"file://{folder}/store", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def train(trial, prepared, folder, warm=True):
    """Runs a trial to its end, without its undone warm-up if so wanted; returns the run."""
    events = folder / f"{trial.run_id}-{warm}.jsonl"
    with group():
        run = TrialRun(RankJob(trial, str(prepared.folder), str(events)), Clock(),
                       CollectiveCounter(), torch.device("cpu"))
        if not warm:
            run._warm_up = run.observer.begin
        run.execute()
    return run
