"""SGD whose rank 1 fails in its 20th step, by an exception or as if it were killed."""

import os
import signal

from bench_apts.contract import Backend, Hyperparameter
from bench_apts.optimizers import sgd


class DyingStepper:
    def __init__(self, inner, rank, killed):
        self._inner, self._rank, self._killed, self._taken = inner, rank, killed, 0

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def step(self, batch):
        self._taken += 1
        if self._rank == 1 and self._taken == 20:
            if self._killed:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("the cat sat on it")
        return self._inner.step(batch)


def build(model, loss, values, world):
    inner = sgd.build(model, loss, sgd.backend.configure({}), world)
    return DyingStepper(inner, world.rank, values["killed"])


backend = Backend(
    name="dying", summary="fails in a step", build=build,
    hyperparameters={"killed": Hyperparameter(False, "whether it is killed")})
