"""SGD whose rank 1 fails in its eighth step."""

from bench_apts.contract import Backend
from bench_apts.optimizers import sgd


class DyingStepper:
    def __init__(self, inner, rank):
        self._inner, self._rank, self._taken = inner, rank, 0

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def step(self, batch):
        self._taken += 1
        if self._rank == 1 and self._taken == 8:
            raise ValueError("the cat sat on it")
        return self._inner.step(batch)


def build(model, loss, values, world):
    inner = sgd.build(model, loss, sgd.backend.configure({}), world)
    return DyingStepper(inner, world.rank)


backend = Backend(name="dying", summary="fails in a step", hyperparameters={}, build=build)
