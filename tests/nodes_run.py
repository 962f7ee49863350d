"""Starts one study as two commands, as two machines would."""

import random
import socket
import subprocess
import sys
from contextlib import closing, contextmanager, suppress

from alike import assert_alike
from msgspec.structs import replace
from warm_processes import WarmPopen

STUDY = ("--optimizers", "adam-default,apts", "--trials", "0", "--seeds", "1", "--no-twins",
         "--offline", "--set", "suite.budget.samples=1280",
         "--set", "suite.evaluation.every_samples=640")


def free_port():
    """Returns a port that nobody uses.

    It is below those that systems hand out: no connection of others gets it before it is used,
    and whoever knocks at it too early does not meet himself there.
    """
    for port in random.SystemRandom().sample(range(10_000, 20_000), 1_000):
        with suppress(OSError), closing(socket.create_server(("127.0.0.1", port))):
            return port
    raise OSError("no port is free")


def node(rank, address, out, *arguments, before=(), nodes=2):
    """Returns the command of one of several nodes; ``before`` is put in front of it."""
    return [*before, sys.executable, "-m", "bench_apts", "run", "--nodes", str(nodes),
            "--node-rank", str(rank), "--rendezvous", address, "--rendezvous-timeout", "200",
            *map(str, arguments), "--out", str(out)]


def start(command, environment):
    """Starts a command in a session of its own."""
    popen = WarmPopen if command[0] == sys.executable else subprocess.Popen
    return popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                 text=True, start_new_session=True)


@contextmanager
def leaving_nothing(processes):
    """Yields a list, and ends whatever is left of the commands that are put on it."""
    running = []
    yield running
    for process in running:
        processes.end_session(process.pid)
        process.communicate()


def same(one, other):
    """Asserts that two records of undisturbed trials are equal in everything that is no time."""
    assert one.header.run_id == other.header.run_id
    assert replace(one.start, build_s=0) == replace(other.start, build_s=0)
    assert_alike(one, other)
    assert one.end.comm == other.end.comm
    assert one.end.calls == other.end.calls
    assert one.end.audit.parts == other.end.audit.parts
