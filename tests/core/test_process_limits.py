"""Quotas and memory limits of control groups, v1 and v2, nested and seen from inside."""

import os
import resource
import subprocess
import sys

import pytest

from bench_apts.core import environment, process_limits

V1 = "31 30 0:29 {root} {mount}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n" \
     "32 30 0:30 {root} {mount}/memory rw - cgroup cgroup rw,memory\n"
V2 = "41 30 0:38 {root} {mount} rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Makes /proc/self and a hierarchy of groups from file contents by path."""

    def make(version, group, files, root="/"):
        proc, mount = tmp_path / "proc", tmp_path / "a cgroup"
        proc.mkdir(exist_ok=True)
        written = str(mount).replace(" ", r"\040")
        (proc / "mountinfo").write_text(
            "23 1 0:1 / / rw - ext4 /dev/vda rw\n"
            + (V1 if version == 1 else V2).format(root=root, mount=written))
        (proc / "cgroup").write_text(
            f"7:cpu,cpuacct:{group}\n3:memory:{group}\n0::/elsewhere\n" if version == 1
            else f"0::{group}\n")
        for name, text in files.items():
            path = mount / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        monkeypatch.setattr(process_limits, "PROC", proc)

    return make


@pytest.mark.parametrize(("version", "files", "quota"), [
    (1, {"cpu/a/b/cpu.cfs_quota_us": 50_000, "cpu/a/b/cpu.cfs_period_us": 100_000}, 0.5),
    (1, {"cpu/a/b/cpu.cfs_quota_us": -1, "cpu/a/b/cpu.cfs_period_us": 100_000,
         "cpu/a/cpu.cfs_quota_us": 150_000, "cpu/a/cpu.cfs_period_us": 100_000}, 1.5),
    (1, {"cpu/a/b/cpu.cfs_quota_us": 400_000, "cpu/a/b/cpu.cfs_period_us": 100_000,
         "cpu/cpu.cfs_quota_us": 50_000, "cpu/cpu.cfs_period_us": 20_000}, 2.5),
    (1, {"cpu/a/b/cpu.cfs_quota_us": -1, "cpu/a/b/cpu.cfs_period_us": 100_000}, None),
    (2, {"a/b/cpu.max": "50000 100000"}, 0.5),
    (2, {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 200000"}, 1.5),
    (2, {"a/b/cpu.max": "200000 100000", "a/cpu.max": "25000 100000"}, 0.25),
    (2, {"a/b/cpu.max": "max 100000"}, None),
    (2, {"a/b/cpu.max": "nonsense"}, None),
    (2, {"a/c/cpu.max": "50000 100000"}, None),
])
def test_the_smallest_quota_up_the_hierarchy_counts(tree, version, files, quota):
    tree(version, "/a/b", files)
    assert process_limits.cpu_quota() == quota


@pytest.mark.parametrize(("version", "files", "limit"), [
    (1, {"memory/a/b/memory.limit_in_bytes": 2**30}, 2**30),
    (1, {"memory/a/b/memory.limit_in_bytes": 9223372036854771712,
         "memory/a/memory.limit_in_bytes": 2**31}, 2**31),
    (2, {"a/b/memory.max": 2**30, "a/memory.max": 2**29}, 2**29),
    (2, {"a/b/memory.max": "max"}, None),
])
def test_the_smallest_memory_limit_counts(tree, version, files, limit):
    tree(version, "/a/b", files)
    assert process_limits.memory_limit() == limit
    there = environment.memory_bytes()
    assert there <= limit if limit else there > 2**28


@pytest.mark.parametrize(("group", "root"), [
    ("/docker/f00", "/docker/f00"),  # the host's names, of which the inside is mounted
    ("/", "/"), ("/../..", "/"), ("/elsewhere", "/docker/f00")])
def test_a_container_finds_its_own_group_at_the_mount(tree, group, root):
    tree(2, group, {"cpu.max": "50000 100000"}, root)
    assert process_limits.cpu_quota() == 0.5


def test_no_control_groups_are_no_limit(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(process_limits, "PROC", tmp_path / "nowhere")
    assert process_limits.cpu_quota() is None
    assert process_limits.memory_limit() is None


def test_half_a_core_is_what_a_card_and_the_ranks_see(tree, monkeypatch):
    monkeypatch.setattr(process_limits, "allowed_cores", lambda: frozenset({0, 1}))
    for name in process_limits.BINDING_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for quota, usable, whole in (("50000", 0.5, 1), ("150000", 1.5, 1), ("900000", 2.0, 2)):
        tree(2, "/", {"cpu.max": f"{quota} 100000"})
        card = environment.environment_card()
        assert (card["cores"], card["effective_cores"]) == (2, usable)
        assert card["cpu_quota"] == int(quota) / 100_000
        assert environment.usable_cores() == usable
        assert environment.cores() == whole


def test_the_limit_of_the_address_space_is_recorded():
    code = ("import resource; resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33)); "
            "from bench_apts.core import environment; "
            "print(environment.environment_card()['address_space_bytes'])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 2**33
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    assert process_limits.address_space_limit() == (
        None if soft == resource.RLIM_INFINITY else soft
    )


@pytest.mark.parametrize(("variables", "places"), [
    ({}, 0), ({"OMP_NUM_THREADS": "4"}, 0), ({"KMP_AFFINITY": "compact"}, 0),
    ({"OMP_PROC_BIND": "true"}, 1), ({"OMP_PROC_BIND": "close,spread"}, 1),
    ({"OMP_PROC_BIND": "TRUE", "OMP_NUM_THREADS": "2"}, 2),
    ({"OMP_PROC_BIND": "true", "OMP_NUM_THREADS": "2,1"}, 2),
    ({"OMP_PROC_BIND": "master", "OMP_NUM_THREADS": "2"}, 1),
    ({"OMP_PROC_BIND": "false", "OMP_PLACES": "{FIRST}"}, 0),
    ({"OMP_PLACES": "{FIRST}"}, 1), ({"OMP_PLACES": "{FIRST},"}, 0), ({"OMP_PLACES": "junk"}, 0),
    ({"GOMP_CPU_AFFINITY": "FIRST", "OMP_NUM_THREADS": "4"}, 1),
    ({"OMP_NUM_THREADS": "nonsense", "OMP_PROC_BIND": "true"}, 1),
])
def test_ranks_share_the_places_that_openmp_binds_them_to(variables, places):
    cores = sorted(process_limits.allowed_cores())
    variables = {k: v.replace("FIRST", str(cores[0])) for k, v in variables.items()}
    bound = process_limits.openmp_bound_cores(cores, variables)
    assert bound == frozenset(cores[:places] if places else cores)


TORCH = "import torch"
LIBRARY = '''import ctypes, importlib.util
from pathlib import Path
ctypes.CDLL(str(Path(importlib.util.find_spec("torch").origin).parent / "lib" / "libtorch_cpu.so"))
'''
"""What binds is loaded sooner without torch's modules."""


@pytest.mark.parametrize(("variables", "load"), [
    ({"OMP_PROC_BIND": "true"}, TORCH), ({"OMP_PLACES": "threads"}, LIBRARY),
    ({"OMP_PLACES": "{0}"}, LIBRARY), ({"OMP_PROC_BIND": "false", "OMP_PLACES": "{0}"}, LIBRARY),
    ({"GOMP_CPU_AFFINITY": "0"}, LIBRARY), ({"OMP_PLACES": "junk"}, LIBRARY)])
def test_torch_is_bound_as_we_say(variables, load):
    code = ("from bench_apts.core.process_limits import allowed_cores, openmp_bound_cores\n"
            f"import os; bound = openmp_bound_cores(allowed_cores(), os.environ)\n{load}\n"
            "print(sorted(bound) == sorted(os.sched_getaffinity(0)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"} | variables)
    assert done.stdout.split()[-1] == "True"


def test_spans():
    assert process_limits.format_core_ranges([]) == ""
    assert process_limits.format_core_ranges([3, 0, 1, 2, 8, 10, 11]) == "0-3,8,10-11"
