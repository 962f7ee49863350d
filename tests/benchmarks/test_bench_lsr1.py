"""What L-SR1 costs beside the pass whose gradients it learns from: `make bench`.

With ``--benchmark-disable`` an iteration runs once and only has to work.
"""

import itertools
import statistics
import time

import pytest
import torch

from bench_apts.optimizers.apts.lsr1_hessian import LSR1Hessian
from bench_apts.suites import models

MEMORY = 10
REPETITIONS = 9

LIMIT = 0.15
"""Update and subproblem at more than this share of a pass of 5,000 samples are a regression. The
aim is 0.10; 0.08 to 0.10 was measured, the more the busier the memory, on which L-SR1 depends and
the pass does not."""


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("samples", [5000, 1666])
def test_l_sr1_beside_a_pass(benchmark, samples):
    """A minibatch of 10,000 over two ranks and over six."""
    torch.manual_seed(0)
    model = models.build("mlp", {"hidden": [800, 400, 100]}, (784,), 10)
    size = models.count(model)
    assert size == pytest.approx(1e6, rel=0.02)
    inputs, targets = torch.randn(samples, 784), torch.randint(10, (samples,))
    gradients = itertools.pairwise(itertools.cycle(torch.randn(4, size)))
    solver, radius = LSR1Hessian(torch.zeros(size), MEMORY), torch.tensor(0.1)
    seconds = {"update and subproblem": [], "model reduction": [], "pass": []}

    def iteration():
        before, after = next(gradients)
        # Of this process alone: others may use the machine.
        clock = [time.process_time()]
        move = solver.step(before, radius, "l2")
        clock.append(time.process_time())
        reduction = solver.reduction(before, move)
        clock.append(time.process_time())
        solver.learn(move, after, before)
        clock.append(time.process_time())
        step, reduce, learn = (end - start for start, end in itertools.pairwise(clock))
        seconds["update and subproblem"].append(step + learn)
        seconds["model reduction"].append(reduce)
        return reduction

    def forward_and_backward():
        start = time.process_time()
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        seconds["pass"].append(time.process_time() - start)

    benchmark.group = f"L-SR1 iteration, n = 1e6, memory {MEMORY}"
    if benchmark.enabled:
        for _ in range(MEMORY):
            iteration()
        forward_and_backward()
        for times in seconds.values():
            times.clear()
        for _ in range(REPETITIONS):
            iteration()
            forward_and_backward()
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        whole = medians.pop("pass")
        shares = {f"{name}, share of a pass": median / whole
                  for name, median in medians.items()}
        benchmark.extra_info |= {"samples per pass": samples} | shares
        assert samples < 5000 or shares["update and subproblem, share of a pass"] < LIMIT
    assert benchmark(iteration) > 0
