"""An honest plug-in, and how to break it: replacements of lines of its source."""

HONEST = '''
import copy
import random

import numpy as np

from bench_apts.contract import Backend, Hyperparameter, StepReport


class Stepper:
    def __init__(self, model, loss, values, world):
        import torch

        self.model, self.loss, self.world = model, loss, world
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        # BEFORE
        self.optimizer = torch.optim.SGD(self.parameters, lr=values["lr"], momentum=0.9)
        self.steps = 0
        # INIT

    def train(self, batch):
        import torch
        import torch.distributed as dist

        loss = self.loss(self.model(batch.inputs), batch.targets)
        gradients = torch.autograd.grad(loss, self.parameters)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        if self.world.size > 1:
            dist.all_reduce(flat)
        flat /= self.world.size
        parts = flat.split([p.numel() for p in self.parameters])
        for parameter, part in zip(self.parameters, parts):
            parameter.grad = part.view_as(parameter).clone()
        self.optimizer.step()
        return loss

    def step(self, batch):
        import torch

        self.steps += 1
        n, rank = len(batch.targets), self.world.rank
        loss = self.train(batch).detach()
        report = StepReport(loss, samples=n, forwards=1, backwards=1)
        # STEP
        return report

    def state_dict(self):
        return copy.deepcopy({"model": self.model.state_dict(), "steps": self.steps,
                              "optimizer": self.optimizer.state_dict()})

    def load_state_dict(self, state):
        state = copy.deepcopy(state)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]
        # LOAD

    # PREPARE

    def evaluation_model(self):
        # EVALUATE
        return self.model


def build(model, loss, values, world):
    # BUILD
    return Stepper(model, loss, values, world)


backend = Backend(name="NAME", summary="honest",
                  hyperparameters={"lr": Hyperparameter(0.05, "learning rate")},
                  build=build, tuning_free=True)
'''

AVERAGE = "            dist.all_reduce(flat)\n        flat /= self.world.size\n"
NO_AVERAGE = "            pass\n"
STATE = '''        return copy.deepcopy({"model": self.model.state_dict(), "steps": self.steps,
                              "optimizer": self.optimizer.state_dict()})'''
REGISTER = "for p in model.parameters(): p.register_hook"
AVERAGE_WEIGHTS = '''import torch.distributed as dist
        for p in self.parameters:
            dist.all_reduce(p.data); p.data /= self.world.size'''
PREPARE = """def prepare_for_eval(self, batches):
        import itertools
        import torch
        """


def at(mark, line):
    """Replaces a mark by a line of code."""
    return (f"# {mark}", line)


def of_class(name):
    """Returns an expression for the only object of a class of the harness in the process."""
    return f"[o for o in gc.get_objects() if type(o).__name__ == '{name}'][0]"


FINE = {
    "honest": [],
    "numpy-counts": [at("STEP", "report.samples = np.int64(n); report.forwards = np.int32(1)")],
    "total": [at("STEP", "report.total_samples = n * self.world.size")],
    "diagnostics": [at("STEP", "report.diagnostics = {'a': 1, 'b': True, 'c': torch.ones(1), "
                               "'d': float('nan'), 'e': np.float32(2)}")],
    "over-claims": [at("STEP", "report.forwards = 7; report.samples = 2 * n")],
    "declared": [
        at("EVALUATE", '''import torch
        with torch.no_grad():
            for p in self.parameters: p.mul_(1 + 1e-3)
        self.model(torch.zeros(2, 64))'''),
        ("tuning_free=True", "tuning_free=True, moves_weights=True")],
    "prepares": [at("PREPARE", PREPARE + """
        with torch.no_grad():
            for batch in itertools.islice(batches, 3): self.model(batch.inputs)""")],
    "draws-to-prepare": [at("PREPARE", PREPARE + "next(batches)")],
    "local-steps": [
        (AVERAGE, NO_AVERAGE),
        at("STEP", '''report.agreed = self.steps % 4 == 0
        if report.agreed and self.world.size > 1:
            ''' + AVERAGE_WEIGHTS.replace("\n        ", "\n            ") + '''
            for s in self.optimizer.state.values():
                dist.all_reduce(s["momentum_buffer"])
                s["momentum_buffer"] /= self.world.size''')],
    "python-random": [
        at("STEP", "report.diagnostics = {'r': random.random() + np.random.rand()}")],
}
"""What must run to its end."""

TOGETHER = {
    "honest", "total", "declared", "local-steps", "forgets-to-average", "other-initial-weights",
    "one-gradient-missing", "unequal-buffers", "drifts-in-the-last-bit",
    "averages-to-be-evaluated", "samples-by-rank", "agreed-by-rank", "never-agrees",
    "sets-the-phase"}
"""What shows at two ranks only; the others run at one, where trials take half the time."""

BROKEN = {
    # Replicas that are not.
    "forgets-to-average": ([(AVERAGE, NO_AVERAGE)], "weights differ"),
    "other-initial-weights": ([at("BUILD", '''import torch
    torch.manual_seed(world.rank)
    with torch.no_grad():
        for p in model.parameters(): p.add_(torch.randn_like(p) * 1e-3)''')], "weights differ"),
    "one-gradient-missing": (
        [("parameter.grad = part.view_as(parameter).clone()",
          "parameter.grad = part.view_as(parameter).clone() * (parameter.dim() > 1 or "
          "self.world.rank == 0)")], "weights differ"),
    "unequal-buffers": ([at("BUILD", '''import torch
    model.register_buffer("calls", torch.full((1,), float(world.rank)))''')], "buffers differ"),
    "drifts-in-the-last-bit": ([at("STEP", '''
        if rank and self.steps > 20:
            self.parameters[0].data.flatten()[0] += 1e-7''')], "weights differ"),
    # What happens in evaluation_model() and in state_dict().
    "averages-to-be-evaluated": (
        [(AVERAGE, NO_AVERAGE), at("EVALUATE", AVERAGE_WEIGHTS)], "evaluation_model"),
    "trains-to-be-evaluated": (
        [("loss = self.train(batch).detach()",
          "import torch; self.kept = batch; loss = torch.ones(())"),
         at("EVALUATE", "hasattr(self, 'kept') and self.train(self.kept)")], "evaluation_model"),
    "trains-in-state-dict": (
        [at("STEP", "self.kept = batch"),
         (STATE, STATE.replace("return", "state =") + """
        hasattr(self, 'kept') and self.train(self.kept)
        return state""")], "state_dict"),
    "draws-endlessly": ([at("PREPARE", PREPARE + "list(batches)")], "minibatches"),
    "trains-to-prepare": (
        [at("PREPARE", PREPARE + "self.train(next(batches))")], "prepare_for_eval"),
    "keeps-the-batches": (
        [at("PREPARE", PREPARE + "self.kept = batches"),
         at("STEP", "hasattr(self, 'kept') and self.train(next(self.kept))")],
        "prepare_for_eval"),
    "evaluates-no-module": ([at("EVALUATE", "return lambda inputs: inputs")], "Module"),
    # Passes and samples.
    "half-the-samples": ([at("STEP", "report.samples = n // 2")], "samples"),
    "a-tenth-in-total": ([at("STEP", "report.total_samples = max(1, n // 5)")], "samples"),
    "trains-four-times": (
        [at("STEP", "for _ in range(3): self.train(batch)")], "forward passes"),
    "passes-by-forward": (
        [at("STEP", "self.model.forward(batch.inputs)")], "forward passes"),
    "no-backward-passes": ([at("STEP", "report.backwards = 0")], "backward passes"),
    "replays-batches": (
        [at("INIT", "self.kept = []"), at("LOAD", "self.kept = []"),
         at("STEP", '''self.kept.append(batch)
        for old in self.kept[:-1]: self.train(old)
        report.forwards = report.backwards = len(self.kept)''')], "samples"),
    # Reports that no record could hold, or that end no trial.
    "none": ([at("STEP", "return None")], "StepReport"),
    "a-dictionary": ([at("STEP", "return {'loss': loss}")], "StepReport"),
    "float-samples": ([at("STEP", "report.samples = float(n)")], "samples"),
    "float-total": ([at("STEP", "report.total_samples = torch.tensor(2.0 * n).item()")],
                    "total_samples"),
    "tensor-samples": ([at("STEP", "report.samples = torch.tensor(n)")], "samples"),
    "text-forwards": ([at("STEP", "report.forwards = 'one'")], "forwards"),
    "negative-samples": ([at("STEP", "report.samples = -n")], "samples"),
    "huge-samples": ([at("STEP", "report.samples = 10**30")], "samples"),
    "no-samples": ([at("STEP", "report.samples = 0")], "0 samples"),
    "samples-by-rank": ([at("STEP", "report.samples = n * (1 + rank)")], "differ"),
    "agreed-by-rank": ([at("STEP", "report.agreed = rank == 0")], "differ"),
    "never-agrees": ([at("STEP", "report.agreed = False")], "agreed"),
    "agreed-number": ([at("STEP", "report.agreed = 1")], "agreed"),
    "loss-with-graph": ([("loss = self.train(batch).detach()", "loss = self.train(batch)")],
                        "detach"),
    "vector-loss": ([at("STEP", "report.loss = torch.ones(3)")], "loss"),
    "text-loss": ([at("STEP", "report.loss = 'low'")], "loss"),
    "listed-diagnostics": ([at("STEP", "report.diagnostics = [1]")], "diagnostics"),
    "vector-diagnostic": ([at("STEP", "report.diagnostics = {'v': torch.ones(2)}")], "'v'"),
    "text-diagnostic": ([at("STEP", "report.diagnostics = {'t': 'much'}")], "'t'"),
    "numbered-diagnostics": ([at("STEP", "report.diagnostics = {1: 1.0}")], "diagnostics"),
    "endless-diagnostics": ([at("STEP", '''report.diagnostics = {
            f"{self.steps}-{i}": 1.0 for i in range(40)}''')], "diagnostics"),
    "no-text-diagnostic": ([at("STEP", "report.diagnostics = {'\\ud800': 1.0}")], "diagnostics"),
    # A warm-up that is not undone.
    "no-state-dict": ([("def state_dict(self):", "def other(self):")], "state_dict"),
    "empty-state": ([(STATE, "        return {'model': {}, 'steps': 0, 'optimizer': {}}"),
                     ("        state = copy.deepcopy(state)\n", "        return\n")],
                    "load_state_dict"),
    "references": ([(STATE, STATE.replace("copy.deepcopy", ""))], "copies"),
    "forgets-momentum": ([('        self.optimizer.load_state_dict(state["optimizer"])\n', "")],
                         "state_dict"),
    "forgets-its-step-count": (
        [('        self.steps = state["steps"]\n', ""),
         ("self.steps += 1", "self.steps += 1; self.optimizer.param_groups[0]['lr'] = "
          "0.05 / self.steps")], "state_dict"),
    "own-generator": (
        [at("INIT", "self.generator = np.random.default_rng(0)"),
         ("loss = self.train(batch).detach()", '''loss = self.train(batch).detach()
        with torch.no_grad():
            self.parameters[0].mul_(1 - 1e-3 * self.generator.random())''')], "state_dict"),
    "loading-trains": (
        [at("STEP", "self.kept = batch"),
         at("LOAD", "hasattr(self, 'kept') and self.train(self.kept)")], "load_state_dict"),
    # Clock and meter, found in the interpreter.
    "sets-the-clock": ([at("STEP", '''import gc
        with ''' + of_class("Clock") + '''.during("log"): self.model.forward(batch.inputs)
        report.forwards, report.samples = 2, 2 * n''')], "clock"),
    "sets-the-phase": (
        [("            dist.all_reduce(flat)\n", '''            import gc
            meter = ''' + of_class("CollectiveCounter") + '''
            before, meter.phase = meter.phase, "warmup"
            dist.all_reduce(flat)
            meter.phase = before
''')], "meter"),
}
"""What must be caught: replacements, and a word that the line about it holds."""


def source(name, replacements):
    """Returns the source of a plug-in of that name.

    Raises:
        ValueError: A replacement has nothing to replace.
    """
    text = HONEST.replace("NAME", name)
    for old, new in replacements:
        if old not in text:
            raise ValueError(f"{name}: nothing to replace by {new!r}")
        text = text.replace(old, new, 1)
    return text
