"""SGD that notes which GPU a trial sees and when; the first one waits until another runs too."""

import dataclasses
import json
import os
import time
from pathlib import Path

from bench_apts.optimizers import sgd


class NotingStepper:
    def __init__(self, inner, note):
        self._inner, self._note, self._began = inner, note, time.monotonic()
        self._write()

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def _write(self):
        self._note.write_text(json.dumps(
            [os.environ["CUDA_VISIBLE_DEVICES"], self._began, time.monotonic()]))

    def evaluation_model(self):
        self._write()
        return self._inner.evaluation_model()


def build(model, loss, values, world):
    import fake_gpu_rank  # noqa: F401 - takes away what depends on numbers

    folder = Path(os.environ["NOTES"])
    stepper = NotingStepper(sgd.build(model, loss, values, world), folder / str(os.getpid()))
    patience = time.monotonic() + 200
    while len(list(folder.iterdir())) < 2 and time.monotonic() < patience:
        time.sleep(0.1)
    return stepper


backend = dataclasses.replace(sgd.backend, name="noting", build=build)
