"""What the tests of the baselines train: a backend's own stepper on endless random data."""

import torch
from torch import nn

from bench_apts.contract import Batch, World

BATCH = 32  # of all ranks together


def mlp():
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def cnn():
    """Kernels of a convolution, of four dimensions, besides matrices and biases."""
    return nn.Sequential(nn.Linear(5, 16), nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 4, 3),
                         nn.Tanh(), nn.Conv2d(4, 6, 2), nn.Flatten(), nn.Linear(6, 3))


class Course:
    """A rank's stepper of ``backend``; each call of ``step`` sees its next minibatch.

    All ranks together see the same samples whatever their number.
    """

    def __init__(self, backend, rank=0, size=1, steps=100, dtype=torch.float32, network=mlp,
                 **pinned):
        torch.manual_seed(0)
        self.model = network().to(dtype)
        self.n = sum(p.numel() for p in self.model.parameters())
        self.rank, self.size, self.dtype = rank, size, dtype
        self.generator = torch.Generator().manual_seed(100)
        self.truth = torch.randn(5, 3, generator=torch.Generator().manual_seed(7))
        world = World(rank, size, torch.device("cpu"), BATCH, steps * BATCH)
        self.stepper = backend.build(
            self.model, nn.functional.cross_entropy, backend.configure(pinned), world)

    def batch(self):
        inputs = torch.randn(BATCH, 5, generator=self.generator)
        targets = (inputs @ self.truth).argmax(dim=1)
        share = slice(self.rank * BATCH // self.size, (self.rank + 1) * BATCH // self.size)
        return Batch(inputs[share].to(self.dtype), targets[share])

    def step(self):
        return self.stepper.step(self.batch())

    def weights(self):
        """A flat copy of what the parameters hold at this moment, as an array."""
        return torch.cat([p.detach().flatten() for p in self.model.parameters()]).clone().numpy()

    def evaluated(self):
        """The weights that an evaluation would use."""
        self.stepper.evaluation_model()
        return self.weights()


class Gradients:
    """Loss and gradient of the task's network at given flat weights, in double precision.

    Each call is on the next minibatch of the course.
    """

    def __init__(self, backend):
        self.course = Course(backend, dtype=torch.float64)

    def both(self, weights):
        model, (inputs, targets) = self.course.model, self.course.batch()
        nn.utils.vector_to_parameters(torch.from_numpy(weights), model.parameters())
        model.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()]).numpy()

    def at(self, weights):
        return self.both(weights)[1]
