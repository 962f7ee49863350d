"""SGD under FSDP2: parameters are sharded over the ranks and gathered for each pass."""

import copy

from bench_apts.contract import Backend, Hyperparameter, StepReport


class Stepper:
    """Shards the model as one unit, which PyTorch leaves gathered after a forward pass."""

    def __init__(self, model, loss, values, world):
        import torch
        from torch.distributed.fsdp import fully_shard

        fully_shard(model)
        self.model, self.loss = model, loss
        self.optimizer = torch.optim.SGD(model.parameters(), lr=values["lr"])

    def step(self, batch):
        """Takes a step."""
        self.optimizer.zero_grad()
        loss = self.loss(self.model(batch.inputs), batch.targets)
        loss.backward()
        self.optimizer.step()
        return StepReport(loss.detach(), len(batch.targets), 1, 1)

    def state_dict(self):
        """Returns copies."""
        return copy.deepcopy({"model": self.model.state_dict(),
                              "optimizer": self.optimizer.state_dict()})

    def load_state_dict(self, state):
        """Takes them back."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))

    def evaluation_model(self):
        """Returns the sharded module."""
        return self.model


def build(model, loss, values, world):
    """Builds the stepper."""
    return Stepper(model, loss, values, world)


backend = Backend(name="fsdp", summary="SGD under FSDP2",
                  hyperparameters={"lr": Hyperparameter(0.05, "learning rate")}, build=build,
                  tuning_free=True)
