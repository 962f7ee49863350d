"""What the tests train whose model is handled by others: APTS, and for comparison Adam and SGD."""

import torch
from torch import nn

from bench_apts.optimizers.apts import APTS

MAKE = {
    "stochastic": lambda model: APTS(model.named_parameters(), variant="stochastic",
                                     samples=32 * 300, buffers=model.buffers),
    "paper": lambda model: APTS(model.named_parameters(), local_iterations=2,
                                buffers=model.buffers),
    "adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
}
APTS_VARIANTS = ("stochastic", "paper")


class Training:
    """A network with a convolution and BatchNorm, and the optimizer ``name``."""

    def __init__(self, name, change=lambda model: None):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.Flatten(),
                                   nn.Linear(72, 3))
        change(self.model)
        self.inputs = torch.randn(32, 2, 5, 5, generator=torch.Generator().manual_seed(1))
        self.targets = self.inputs[:, 0, 0, :3].argmax(1)
        self.optimizer = MAKE[name](self.model)

    def closure(self, backward=True):
        losses = nn.functional.cross_entropy(
            self.model(self.inputs), self.targets, reduction="none")
        if backward:
            losses.mean().backward()
        return losses.detach()

    def step(self):
        if isinstance(self.optimizer, APTS):
            return self.optimizer.step(self.closure).item()
        self.optimizer.zero_grad()
        loss = self.closure().mean().item()
        self.optimizer.step()
        return loss

    def steps(self, number):
        return [self.step() for _ in range(number)]

    def weights(self):
        return torch.cat([p.detach().flatten() for p in self.model.parameters()]).clone()

    def assert_shown(self):
        """What the model shows is what the optimizer moves, and in its buffer."""
        before = self.weights()
        self.step()
        assert not torch.equal(before, self.weights())
        flat = self.optimizer._flat
        for place in flat._views._places:
            storage = place.parameter.untyped_storage()
            assert storage.data_ptr() == flat.values.untyped_storage().data_ptr()
            assert torch.equal(place.parameter, place.value)
