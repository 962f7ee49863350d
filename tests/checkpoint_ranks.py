"""One rank of a trial that stops or fails after so many steps."""

import os

import msgspec


class StopAfter:
    """Stands for ``launch.stopping.Stop`` where the step is known beforehand."""

    def __init__(self, steps, fail):
        self.steps, self.fail = steps, fail

    def go_on(self, agreed):
        if self.steps <= 0 and agreed:
            if self.fail:
                raise RuntimeError("as if it had been killed")
            return False
        self.steps -= 1
        return True


def train(connect, payload, steps, fail):
    """Runs this rank of a job; ``steps`` is None for all of them."""
    import torch
    import torch.distributed as dist

    from bench_apts.core.job import RankJob
    from bench_apts.meters.clock import Clock
    from bench_apts.meters.comm import CollectiveCounter
    from bench_apts.trial.trial_run import TrialRun

    clock, meter = Clock(), CollectiveCounter()
    meter.install()
    connect()
    os.environ.update(LOCAL_RANK=str(dist.get_rank()), DS_ACCELERATOR="cpu")  # DeepSpeed asks
    run = TrialRun(msgspec.json.decode(payload, type=RankJob), clock, meter, torch.device("cpu"))
    return run.execute(None if steps is None else StopAfter(steps, fail))
