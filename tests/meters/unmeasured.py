"""A plug-in whose collectives the meter cannot account for, in the way that ``kind`` names.

It stands in for a torch that describes its operations in another way.
"""

from types import SimpleNamespace

import torch
import torch.distributed as dist

from bench_apts.contract import Backend, Hyperparameter, StepReport
from bench_apts.core import wire
from bench_apts.meters import collective_hooks, procfs

ARGUMENTS = {
    "raising": lambda args: Raising(),
    "nothing": lambda args: SimpleNamespace(),
    "single tensors": lambda args: reported(args, args.input_tensors[0], None),
    "nested tensors": lambda args: reported(args, [args.input_tensors], []),
    "sizes that cannot be hashed": lambda args: reported(args, [Unhashable()], []),
}
"""What the pre-hook of another torch might be given."""

GAPS = ("no gap", *ARGUMENTS, "no hook", "unknown operation", "too many tensors", "no root",
        "sparse tensor", "pricing", "reading calls", "reading sockets of one rank",
        "closing a group")


class Raising:
    """Arguments of a hook of which nothing can be read."""

    def __getattr__(self, name):
        raise RuntimeError(f"no {name} here")


class Unhashable:
    dtype, nbytes = torch.float32, [4]


def reported(args, inputs, outputs):
    return SimpleNamespace(name=args.name, root=args.root, op_id=args.op_id,
                           input_tensors=inputs, output_tensors=outputs)


def raises(*arguments, **named):
    raise RuntimeError("a stand-in")


def changed_fields(**changes):
    """Has each call that is read from now on say something else."""
    fields = collective_hooks._fields

    def other(*arguments):
        return tuple(wire.Call(*fields(*arguments))._replace(**changes))[:-1]

    collective_hooks._fields = other


def open_a_gap(kind):
    """Puts the stand-in for what another torch, or another kernel, does in its place."""
    register = getattr(dist.ProcessGroup, "register_pre_hook", None)
    if kind in ARGUMENTS:
        dist.ProcessGroup.register_pre_hook = lambda group, number, hook: register(
            group, number, lambda args: hook(ARGUMENTS[kind](args)))
    match kind:
        case "no hook":
            dist.ProcessGroup.register_pre_hook = raises
        case "unknown operation":
            del wire.COLLECTIVES["BROADCAST"]
        case "too many tensors":
            changed_fields(operation="ALLTOALL", inputs=(4, 4, 4))
        case "no root":
            changed_fields(operation="REDUCE", root=None)
        case "pricing":
            wire._broadcast = raises
        case "reading calls":
            collective_hooks._fields = raises
        case "reading sockets of one rank":
            if dist.get_rank() == 1:
                procfs.own_sockets = raises
        case "closing a group":
            procfs.own_sockets = raises
            group = dist.new_group()
            dist.barrier()  # the other rank is connected too
            dist.destroy_process_group(group)


class Stepper:
    def __init__(self, model, loss, values, world):
        self.model, self.loss, self.world, self.kind = model, loss, world, values["kind"]
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        open_a_gap(self.kind)
        self.group = dist.new_group()

    def step(self, batch):
        self.optimizer.zero_grad()
        loss = self.loss(self.model(batch.inputs), batch.targets)
        loss.backward()
        for parameter in self.model.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= self.world.size
        self.optimizer.step()
        dist.broadcast(torch.ones(12), 0, group=self.group)
        if self.kind == "sparse tensor":
            dist.all_reduce(torch.sparse_coo_tensor([[0, 2]], [1.0, 2.0], (4,)))
        return StepReport(loss.detach(), len(batch.targets), 1, 1)

    def state_dict(self):
        return [{name: value.clone() for name, value in self.model.state_dict().items()}]

    def load_state_dict(self, state):
        self.model.load_state_dict(state[0])

    def evaluation_model(self):
        return self.model


backend = Backend(
    name="unmeasured",
    summary="gradient descent whose bytes cannot be measured",
    hyperparameters={"kind": Hyperparameter("no gap", "what is unaccounted for", options=GAPS)},
    build=Stepper,
)
