"""A rank on the stand-in GPU, whose kernels compute nothing: what depends on numbers is left out.

What each step launches, copies and waits for is counted beside the trial's events.
"""

import ctypes
import json
import os
import zlib
from pathlib import Path

import msgspec
import torch
import torch.distributed as dist

from bench_apts.core.job import RankJob
from bench_apts.optimizers.apts.radius_search import StepQuality
from bench_apts.plugins import replicas
from bench_apts.tasks.named_tasks import Classification
from bench_apts.trial import trial_run, warmup
from bench_apts.trial.evaluation import SplitResult


def counted():
    """Returns what the stand-in has counted in this process so far."""
    library = ctypes.CDLL(None)
    library.fake_count.restype, library.fake_kind.restype = ctypes.c_long, ctypes.c_char_p
    found = {}
    while name := library.fake_kind(len(found)):
        found[name.decode()] = library.fake_count(len(found))
    return found


def _evaluate(model, split, task, world, sums=(), peaks=(), around=None):
    try:
        real(model, split, task, world, sums, peaks, around)
    except RuntimeError as error:
        if "evaluated" not in str(error):
            raise
    return SplitResult(1.0, {"accuracy": 0.5, "loss": 1.0}, len(split), tuple(sums), tuple(peaks))


def _gather_objects(objects, own, *arguments, **options):
    """From torch 2.15 on a kernel finds the largest size of what all ranks send."""
    objects[:] = [own] * len(objects)


def _fingerprint(tensors):
    total = 0
    for tensor in tensors:
        part = replicas.local_part(tensor).contiguous().cpu()
        total = zlib.crc32(part.flatten().view(torch.uint8).numpy(), total)
    return total


real, trial_run.evaluate = trial_run.evaluate, _evaluate
dist.all_gather_object = _gather_objects
replicas.fingerprint = _fingerprint  # the bits are real, the hash of a device's kernels is not
Classification.chance = lambda self, targets: None
measured = StepQuality.from_sums
StepQuality.from_sums = lambda sums: measured([1.0] * len(sums))  # counts are positive
warmup._close = lambda begin, one, other: True
warmup._require_same = lambda numbers, world: None


def main(payload):
    """Runs a trial as ``trial_run.main`` does."""
    job = msgspec.json.decode(payload, type=RankJob)
    steps, note = [], {"server": os.getppid(), "order": os.environ.get("CUDA_DEVICE_ORDER"),
                       "visible": os.environ.get("CUDA_VISIBLE_DEVICES")}

    def step(self, batch):
        before = counted()
        report = take_step(self, batch)
        steps.append({name: number - before[name] for name, number in counted().items()})
        return report

    def prove(stepper, model, batches, world, report_check):
        generator = torch.cuda.get_rng_state(world.device)
        prove_undone(stepper, model, batches, world, report_check)
        group = dist.distributed_c10d._get_default_group()._get_backend(world.device)
        note.update(
            warmup_steps=len(batches), timeout_s=group.options._timeout.total_seconds(),
            generator_kept=torch.equal(generator, torch.cuda.get_rng_state(world.device)),
            fused=[group.get("fused") for group in getattr(
                getattr(stepper, "optimizer", None), "param_groups", [])])

    take_step, trial_run.Observer.step = trial_run.Observer.step, step
    prove_undone, warmup.prove_undone = warmup.prove_undone, prove
    status = trial_run.main(payload)
    Path(f"{job.events}.rank{os.environ['RANK']}").write_text(json.dumps(note | {"steps": steps}))
    return status
