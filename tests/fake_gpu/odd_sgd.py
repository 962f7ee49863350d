"""SGD that draws a number on its GPU in each step, and whose rank 1 may fail in its 20th step."""

import os
import signal
import time

import torch

from bench_apts.contract import Backend, Hyperparameter
from bench_apts.optimizers import sgd


class OddStepper:
    def __init__(self, inner, world, fault):
        self._inner, self._world, self._fault, self._taken = inner, world, fault, 0

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def step(self, batch):
        self._taken += 1
        torch.rand(1, device=self._world.device)
        if self._world.rank == 1 and self._taken == 20:
            if self._fault == "raises":
                raise ValueError("the cat sat on it")
            if self._fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            while self._fault == "hangs":
                time.sleep(1)
        return self._inner.step(batch)


def build(model, loss, values, world):
    inner = sgd.build(model, loss, sgd.backend.configure({}), world)
    return OddStepper(inner, world, values["fault"])


backend = Backend(
    name="odd", summary="may fail in a step", build=build,
    hyperparameters={"fault": Hyperparameter(
        "none", "how it fails", options=("none", "raises", "killed", "hangs"))})
