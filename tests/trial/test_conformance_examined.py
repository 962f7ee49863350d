"""``bench-apts test OPTIMIZER``: what is built in passes, and what is broken fails."""

import os
from pathlib import Path

import pytest
from plugins import AVERAGE, BROKEN, NO_AVERAGE, at, source

from bench_apts.launch.elastic import Launcher
from bench_apts.plugins import registry
from bench_apts.study import optimizer_examination
from bench_apts.study.optimizer_examination import examine_optimizer, required_packages

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
NAMES = [name for name in registry.optimizer_names()
         if not registry.optimizer(name).backend.unavailable()]
HEAVY = ("apts-paper", "napts", "zero1", "zero2", "zero3", "zero-offload")
"""Each takes as long as five others."""
SINGLE = ("adafactor", "ademamix", "d-adapt", "dog", "lion", "momo", "muon", "prodigy", "soap")
"""Single-process optimizers under DistributedDataParallel; so are adam and sgd."""
RELATED = ("ddp-fp16", "des-loc", "diloco-one-worker", "muloco", "post-local-sgd",
           "streaming-diloco")
"""Options of a stepper that others here take too, or with a shorter period below."""
BUILDS = [registry.optimizer(name).backend.build for name in NAMES]
ALIKE = [name for at, name in enumerate(NAMES) if BUILDS[at] in BUILDS[:at]]
"""Another name's code at other numbers."""

ALIGNED = ("        return self.model\n",
           "        from bench_apts.plugins.replicas import align_buffers\n"
           "        align_buffers(self.model)\n        return self.model\n")
"""What the honest plug-in lacks where a network has BatchNorm."""

FLAT = "flat = torch.cat([gradient.flatten() for gradient in gradients])"
TRAIN = "loss = self.train(batch).detach()"
DECLARE = "tuning_free=True)"

WRONG = {
    # replacements, ranks, the check that fails, a word of what to mend
    "forgets-to-average": ([(AVERAGE, NO_AVERAGE)], 2, "replicas", "average gradients"),
    "unaligned-buffers": (
        [(ALIGNED[1], ALIGNED[0])], 2, "replicas", "align_buffers"),
    "ranks-skip-steps-alone": (
        [("        self.optimizer.step()\n", '''        if float(loss) < 6:
            self.optimizer.step()
''')], 2, "decisions", "all-reduced loss"),
    "ranks-wait-for-each-other": (
        [("            dist.all_reduce(flat)\n", '''            dist.all_reduce(flat)
            if float(loss) > 6:
                dist.barrier()
''')], 2, "decisions", "let all ranks decide alike"),
    "depends-on-an-earlier-stepper": (
        [("import copy\n", "import copy\nimport itertools\nCOUNT = itertools.count(1)\n"),
         ("self.optimizer = torch.optim.SGD(self.parameters, lr=values[\"lr\"]",
          "self.optimizer = torch.optim.SGD(self.parameters, lr=values[\"lr\"] / next(COUNT)")],
        1, "repetition", "earlier stepper"),
    "forgets-momentum": (BROKEN["forgets-momentum"][0], 1, "checkpoint", "state_dict()"),
    "forgets-its-step-count": (
        BROKEN["forgets-its-step-count"][0], 1, "warm-up", "state_dict()"),
    "momentum-in-grad": (
        [("parameter.grad = part.view_as(parameter).clone()",
          "parameter.grad = part.view_as(parameter) + "
          "(0 if parameter.grad is None else 0.5 * parameter.grad)")],
        1, "gradients", "zero_grad()"),
    "no-backward-passes": (BROKEN["no-backward-passes"][0], 1, "passes", "StepReport.backwards"),
    "half-the-samples": (BROKEN["half-the-samples"][0], 1, "passes", "sample counts"),
    "ranks-with-more-samples": (
        [at("STEP", "report.samples = n * (1 + rank); report.forwards = 1 + rank")],
        2, "passes", "total_samples"),
    "more-bytes-than-declared": (
        [(AVERAGE, AVERAGE.replace("dist.all_reduce(flat)",
                                   "dist.all_reduce(flat); dist.all_reduce(flat.clone())")),
         ("import Backend,", "import GRADIENT_SUM, Backend,"),
         (DECLARE, "tuning_free=True, traffic=GRADIENT_SUM)")], 2, "bytes", "Backend.traffic"),
    "sums-in-place-of-means": (
        [("        flat /= self.world.size\n", ""),
         (DECLARE, "tuning_free=True, rank_invariant=True)")], (1, 2), "world size",
        "global batch"),
    "decays-what-is-frozen": (
        [("        self.optimizer.step()\n", '''        self.optimizer.step()
        with torch.no_grad():
            for p in self.model.parameters(): p.mul_(1 - 1e-3)
''')], 1, "parameters", "requires_grad is False"),
    "matrices-only": (
        [at("INIT", '''for p in self.parameters:
            if p.dim() > 2: raise ValueError(f"a weight of {p.dim()} dimensions")''')],
        1, "parameters", "4 dimensions"),
    "climbs": ([('lr=values["lr"]', 'lr=values["lr"], maximize=True')], 1, "loss", "sign"),
    "seeds-others": (
        [at("BUILD", "np.random.seed(3)")], 1, "global state", "generator of your own"),
    "other-dtype": (
        [at("BUILD", "import torch; torch.set_default_dtype(torch.float64)")], 1, "global state",
        "default dtype"),
    "autograd-left-off": (
        [at("STEP", "torch.set_grad_enabled(self.steps != 1)")], 1, "global state", "autograd"),
    "environment": (
        [at("BUILD", "import os; os.environ['OMP_NUM_THREADS'] = '3'")], 1, "global state",
        "OMP_NUM_THREADS"),
    "patched-function": (
        [at("BUILD", '''import torch
    plain = torch.nn.functional.relu
    torch.nn.functional.relu = lambda *a, **k: plain(*a, **k)''')], 1, "global state",
        "torch.nn.functional.relu"),
    "thread-left": (
        [at("INIT", '''import threading, time
        threading.Thread(target=time.sleep, args=(9,), daemon=True, name="poll").start()''')],
        1, "leftovers", "thread poll"),
    "process-left": (
        [at("INIT", '''import subprocess
        if self.world.rank == 0: subprocess.Popen(["sleep", "9"])''')], 1, "leftovers", "sleep"),
    "own-files": (
        [at("STEP", '''from pathlib import Path
        Path(f"FOLDER/{rank}").write_bytes(bytes(3000))
        if self.steps > 2: Path(f"FOLDER/{1 - rank}").read_bytes()''')], 2, "channels",
        "through torch.distributed"),
}
"""What must be found."""


@pytest.fixture(scope="module")
def examine(tmp_path_factory):
    """``examine(selector, sizes)``: what is found, by check."""
    before = dict(os.environ)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with Launcher(required_packages(NAMES), "cpu") as launcher:
        folder = tmp_path_factory.mktemp("seen")

        def run(selector, sizes):
            return {found.check: found
                    for found in examine_optimizer(str(selector), launcher, folder, sizes)}

        yield run
    os.environ.clear()
    os.environ.update(before)


def failures(found):
    return [str(each) for each in found.values() if each.level == "failed"]


def plugin(folder, name, replacements):
    path = folder / f"{name}.py"
    path.write_text(source(name, [ALIGNED, *replacements]).replace("FOLDER", str(folder)))
    return path


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow)
    if name in (*HEAVY, *SINGLE, *RELATED, *ALIKE) else name for name in NAMES])
def test_what_is_built_in_passes(examine, name):
    assert failures(examine(name, (1, 2))) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_is_built_in_passes_at_three_ranks(examine, name):
    assert failures(examine(name, (3,))) == []


@pytest.mark.parametrize("selector", [
    EXAMPLES / "my_optimizer.py", EXAMPLES / "my_stepper.py", "diloco[period=4,bits=4]",
    "streaming-diloco[period=8]", "des-loc[period=4]",
    pytest.param("apts-paper[preset=reference]", marks=pytest.mark.slow)])
def test_examples_and_presets_pass(examine, selector):
    assert failures(examine(selector, (1, 2))) == []


def test_an_honest_plugin_passes_and_says_what_it_does_not_declare(examine, tmp_path):
    found = examine(plugin(tmp_path, "honest", []), (1, 2))
    assert failures(found) == []
    assert {name for name, each in found.items() if each.level == "skipped"} == {
        "bytes", "world size"}


HANGING = "ranks-wait-for-each-other"


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow) if name == HANGING else name for name in WRONG])
def test_what_is_broken_is_told_with_what_to_mend(examine, tmp_path, monkeypatch, name):
    if name == HANGING:
        monkeypatch.setattr(optimizer_examination, "_LIMIT_S", 15.0)
    replacements, sizes, check, token = WRONG[name]
    found = examine(plugin(tmp_path, name, replacements),
                    (sizes,) if isinstance(sizes, int) else sizes)
    assert found[check].level == "failed", found
    assert token in found[check].text
    assert "\n" not in found[check].text
