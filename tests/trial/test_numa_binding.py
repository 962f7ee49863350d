"""Ranks on the cores of their GPU's NUMA node, on a machine described by files."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from bench_apts.core import process_limits
from bench_apts.trial import numa_binding

DEVICE = torch.device("cuda", 0)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with a GPU at 0000:3b:00.0; returns how to say at which node and cores."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(
        pci_domain_id=0, pci_bus_id=0x3B, pci_device_id=0))
    monkeypatch.setattr(numa_binding, "SYSTEM", tmp_path)
    for name in process_limits.BINDING_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    bound = {}
    monkeypatch.setattr(os, "sched_setaffinity", bound.__setitem__)

    def describe(node, cores, allowed=frozenset(range(8))):
        monkeypatch.setattr(process_limits, "allowed_cores", lambda: frozenset(allowed))
        for path, text in (("bus/pci/devices/0000:3b:00.0/numa_node", node),
                           ("devices/system/node/node1/cpulist", cores)):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(f"{text}\n")
        return bound

    return describe


def test_all_threads_are_bound_to_the_allowed_cores_of_the_node(machine):
    bound = machine("1", "4-6,9")
    assert numa_binding.bind_near_gpu(DEVICE) == "4-6"
    assert set(map(int, os.listdir("/proc/self/task"))) <= set(bound)
    assert set(bound.values()) == {frozenset({4, 5, 6})}


@pytest.mark.parametrize(("node", "cores", "allowed"), [
    ("-1", "4-6", range(8)), ("", "4-6", range(8)), ("1", "", range(8)), ("1", "8-15", range(8)),
    ("1", "0-63", range(8))])
def test_nothing_changes_where_the_node_is_unknown_or_makes_no_difference(
        machine, node, cores, allowed):
    bound = machine(node, cores, allowed)
    assert numa_binding.bind_near_gpu(DEVICE) == ""
    assert not bound


def test_openmp_s_binding_goes_before(machine, monkeypatch):
    bound = machine("1", "4-6")
    monkeypatch.setenv("OMP_PROC_BIND", "true")
    assert numa_binding.bind_near_gpu(DEVICE) == ""
    assert not bound


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_a_real_process_is_bound(tmp_path):
    core = min(process_limits.allowed_cores())
    if len(process_limits.allowed_cores()) == 1:
        pytest.skip("there is only one core")
    code = f"""
import os
from bench_apts.trial import numa_binding
numa_binding._pci_address = lambda device: "x"
numa_binding._cores_near = lambda address: frozenset([{core}])
assert numa_binding.bind_near_gpu(None) == "{core}"
assert os.sched_getaffinity(0) == {{{core}}}
"""
    kept = {k: v for k, v in os.environ.items() if k not in process_limits.BINDING_VARIABLES}
    assert subprocess.run([sys.executable, "-c", code], env=kept, check=False).returncode == 0
