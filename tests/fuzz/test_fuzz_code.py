"""What our own code must not do with input: run it. Read off the source of every module."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path for folder in ("bench_apts", "optimizers", "suites", "reports")
                 for path in (ROOT / folder).rglob("*.py"))

FORBIDDEN_MODULES = frozenset({"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib",
                               "shelve", "marshal", "jsonpickle", "code", "codeop"})
FORBIDDEN_CALLS = frozenset({"eval", "exec", "compile", "__import__", "input", "breakpoint"})
LOADERS = frozenset({"torch.load", "numpy.load", "yaml.load", "pandas.read_pickle", "os.system",
                     "os.popen", "torch.hub.load", "torch.jit.load", "torch.package"})

EXECUTES_CONSTANTS = {
    "reports/notebook.py": {"calls exec", "calls eval", "calls compile"},
}
"""Modules that run strings which are their own constants; each is held to that by a test."""


def dangers(source):
    """Yields the line and the kind of everything in a module that could run what it reads."""
    tree = ast.parse(source)
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0])
                if alias.name.split(".")[0] in FORBIDDEN_MODULES:
                    yield node.lineno, f"imports {alias.name}"
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if not node.level and module.split(".")[0] in FORBIDDEN_MODULES:
                yield node.lineno, f"imports {module}"
            for alias in node.names:
                names[alias.asname or alias.name] = f"{module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from calls(node, names)


def calls(node, names):
    called = full_name(node.func, names)
    options = {option.arg: option.value for option in node.keywords}
    written_here = called == "exec" and [*map(type, node.args)] == [ast.Constant]
    if (called in FORBIDDEN_CALLS and not written_here) or called.startswith("builtins."):
        yield node.lineno, f"calls {called}"
    if called.startswith("pickle."):
        yield node.lineno, f"calls {called}"
    if called == "torch.load":
        if not is_true(options.get("weights_only")):
            yield node.lineno, "torch.load without weights_only=True"
    elif called == "numpy.load":
        if "allow_pickle" in options and not is_false(options["allow_pickle"]):
            yield node.lineno, "numpy.load with allow_pickle"
    elif called in LOADERS:
        yield node.lineno, f"calls {called}"
    if "shell" in options and not is_false(options["shell"]):
        yield node.lineno, "starts a shell"


def full_name(node, names):
    """Returns the dotted name of what is called, as far as it is one, with aliases resolved."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([names.get(node.id, node.id), *reversed(parts)])


def is_true(node):
    return isinstance(node, ast.Constant) and node.value is True


def is_false(node):
    return isinstance(node, ast.Constant) and node.value is False


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_runs_what_it_reads(path):
    found = {danger for _, danger in dangers(path.read_text(encoding="utf-8"))}
    assert found == EXECUTES_CONSTANTS.get(str(path.relative_to(ROOT)), set())


def test_cells_of_the_notebook_are_constants():
    """Whatever the study: what ``reports/notebook.py`` runs is written in it."""
    tree = ast.parse((ROOT / "reports/notebook.py").read_text(encoding="utf-8"))
    (cells,) = (node.value for node in tree.body if isinstance(node, ast.Assign)
                and full_name(node.targets[0], {}) == "_CELLS")
    assert all(kind in ("code", "markdown") and source for kind, source in ast.literal_eval(cells))
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Name)
                and node.id == "_CELLS" and isinstance(node.ctx, ast.Store)]
    (executed,) = (node for node in ast.walk(tree) if isinstance(node, ast.Call)
                   and full_name(node.func, {}) == "_execute")
    (loop,) = (node for node in ast.walk(tree) if isinstance(node, ast.For)
               and any(inner is executed for inner in ast.walk(node)))
    assert len(assigned) == 1
    assert ast.unparse(loop.iter) == "enumerate(_CELLS)"
    assert ast.unparse(executed.args[0]) in ast.unparse(loop.target)


def test_all_modules_are_looked_at():
    assert len(SHIPPED) > 100
    assert {"store.py", "data_files.py", "torchvision_data.py", "elastic.py"} <= {
        path.name for path in SHIPPED}


@pytest.mark.parametrize("source", [
    "import pickle", "import pickle as p", "from pickle import loads", "import dill.source",
    "from cloudpickle import load", "eval(text)", "exec(text)", "__import__(name)",
    "import torch\ntorch.load(path)", "import torch as t\nt.load(path, weights_only=False)",
    "from torch import load\nload(path)", "import torch\ntorch.load(path, weights_only=flag)",
    "import numpy as np\nnp.load(path, allow_pickle=True)",
    "import numpy as np\nnp.load(path, allow_pickle=flag)",
    "import yaml\nyaml.load(text)", "import pandas as pd\npd.read_pickle(path)",
    "import os\nos.system(word)", "from os import popen\npopen(word)",
    "import subprocess\nsubprocess.run(word, shell=True)", "compile(text, name, 'exec')",
    "def f():\n    import pickle", "import builtins\nbuiltins.eval(text)",
    "import torch\ntorch.hub.load(a, b)",
])
def test_what_is_dangerous_is_found(source):
    assert list(dangers(source))


@pytest.mark.parametrize("source", [
    "import pickletools", "model.eval()", "import torch\ntorch.load(path, weights_only=True)",
    "import numpy as np\nnp.load(path, mmap_mode='r')", "from . import pickle_free",
    "import re\nre.compile(text)", "model.compile()",
])
def test_what_is_harmless_is_not(source):
    assert list(dangers(source)) == []
