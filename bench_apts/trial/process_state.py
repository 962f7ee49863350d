"""Global state of a process: what code that runs in it has changed, and what it left running."""

from __future__ import annotations

import builtins
import os
import random
import threading
import time
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from bench_apts.core import environment
from bench_apts.meters import procfs

_PATCHED = {
    "torch.nn.functional": torch.nn.functional, "torch": torch, "torch.Tensor": torch.Tensor,
    "torch.nn.Module": torch.nn.Module, "torch.autograd": torch.autograd,
    "torch.distributed": dist, "torch.optim.Optimizer": torch.optim.Optimizer,
    "time": time, "os": os, "builtins": builtins}
"""Modules and classes whose functions must not be replaced."""


class ProcessState:
    """Global state as it is when this object is made."""

    def __init__(self) -> None:
        self._settings = _settings()
        self._environment = dict(os.environ)
        self._functions = {
            owner: {name: value for name, value in vars(place).items() if callable(value)}
            for owner, place in _PATCHED.items()}
        self._threads = set(threading.enumerate())
        self._children = {child.pid for child in procfs.child_processes()}

    def changes(self) -> list[str]:
        """Return what is other than before, each in a few words with what to do about it."""
        found = [f"{name} was {before} and is {now}: set it back, or use a context manager"
                 for name, before in self._settings.items()
                 if (now := _settings()[name]) != before]
        for name in sorted(self._environment.keys() | os.environ.keys()):
            # OpenMP's are set by libraries when they are imported, scikit-learn for one.
            if not name.startswith("KMP_") and self._environment.get(name) != os.environ.get(name):
                found.append(f"environment variable {name} was changed: leave os.environ alone")
        for owner, functions in self._functions.items():
            now_there = vars(_PATCHED[owner])
            found += [f"{owner}.{name} was replaced: call another function instead"
                      for name, function in functions.items()
                      if now_there.get(name) is not function]
        return found

    def restore_settings(self) -> None:
        """Set back what would disturb what runs next in this process."""
        torch.set_grad_enabled(self._settings["autograd (torch.is_grad_enabled())"])
        torch.set_default_dtype(self._settings["the default dtype"])
        torch.set_num_threads(self._settings["the number of torch's threads"])
        torch.use_deterministic_algorithms(self._settings["deterministic_algorithms"])

    def left_running(self) -> list[str]:
        """Return the threads and child processes that were not there before."""
        threads = [f"thread {each.name}" for each in threading.enumerate()
                   if each not in self._threads and each.is_alive()]
        children = [f"process {child.pid} ({child.name()})" for child in procfs.child_processes()
                    if child.pid not in self._children and child.is_running()]
        return threads + children


def _settings() -> dict[str, Any]:
    return {
        "autograd (torch.is_grad_enabled())": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "the default dtype": torch.get_default_dtype(),
        "the number of torch's threads": torch.get_num_threads(),
        "the working directory": os.getcwd(),
        **environment.torch_numeric_settings(),
    }


def generator_states() -> dict[str, Any]:
    """Return the states of the global random number generators, by what seeds them."""
    kind, keys, *rest = np.random.get_state()
    return {
        "torch.manual_seed": torch.random.get_rng_state().numpy().tobytes(),
        "random.seed": random.getstate(),
        "np.random.seed": (kind, np.asarray(keys).tobytes(), *rest),
    }


def seed_generators(seed: int) -> None:
    """Seed the global random number generators."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
