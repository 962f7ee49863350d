"""torchrun, srun and SLURM: which node this command is, node 0's port, and commands as jobs."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bench_apts.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping, Sequence
    from types import FrameType

    from submitit.core.utils import DelayedSubmission
    from torch.distributed import Store  # type: ignore[attr-defined]

_TORCHRUN = re.compile(r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|"
                       r"TORCHELASTIC_.*")
"""Variables of torchrun's that must not reach the trials' own processes."""

_ENDPOINT = re.compile(r"(?:(?P<host>[\w.-]+)|\[(?P<six>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\])"
                       r":(?P<port>[0-9]{1,5})", re.ASCII)

_PORTS = range(20000, 30000)
"""Where the commands of a SLURM job meet; below the ports that Linux gives to connections."""


@dataclass(frozen=True)
class Placement:
    """The machines that run a study's trials together, and which of them this one is.

    Attributes:
        nodes: How many there are.
        rank: This one's number; node 0 leads and holds the results.
        host: Name or address of node 0.
        port: Where node 0 waits for the others; 0 where it publishes it in torchrun's store.
        outer: torchrun's variables, where it started this command.
    """

    nodes: int = 1
    rank: int = 0
    host: str = ""
    port: int = 0
    outer: Mapping[str, str] | None = None

    @property
    def endpoint(self) -> str:
        """Host and port, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host


def find_placement(nodes: int | None, node_rank: int | None, rendezvous: str | None,
                   environ: MutableMapping[str, str]) -> Placement:
    """Find which node this is, from options or else from torchrun's or srun's variables.

    Args:
        nodes: ``--nodes``; 1 works on this machine alone, whatever the environment says.
        node_rank: ``--node-rank``.
        rendezvous: ``--rendezvous``, as HOST:PORT.
        environ: The environment; torchrun's variables are removed from it.

    Raises:
        UserError: Something is missing or malformed, or contradicts the environment.
    """
    names = list(environ) if "TORCHELASTIC_RUN_ID" in environ else []
    outer = {name: environ.pop(name) for name in names if _TORCHRUN.fullmatch(name)}
    if nodes == 1 or not (outer or _step_nodes(environ) > 1):
        return _by_options(nodes, node_rank, rendezvous)
    starter = "torchrun" if outer else "srun"
    if outer:
        tasks = _number(outer, "WORLD_SIZE")
        found = Placement(tasks // max(1, _number(outer, "LOCAL_WORLD_SIZE")),
                          _number(outer, "RANK"), outer.get("MASTER_ADDR", ""), 0, outer)
        one = "--nproc-per-node 1"
    else:
        tasks = _number(environ, "SLURM_STEP_NUM_TASKS")
        found = Placement(_step_nodes(environ), _number(environ, "SLURM_NODEID"),
                          first_host(environ.get("SLURM_STEP_NODELIST", "")), _port(environ))
        one = "--ntasks-per-node 1"
    if tasks > found.nodes:
        raise UserError(f"{starter} started {tasks} commands on {found.nodes} "
                        f"node{'s' * (found.nodes > 1)}; one starts the ranks of a node: say {one}"
                        f" to {starter}, or --nodes 1 for commands of their own")
    if found.rank >= found.nodes:
        raise UserError(f"{starter} says that this is node {found.rank} of {found.nodes}, counted "
                        "from 0; --nodes 1 uses this machine alone")
    for option, given, seen in (("--nodes", nodes, found.nodes),
                                ("--node-rank", node_rank, found.rank)):
        if given not in (None, seen):
            raise UserError(f"{option} {given} contradicts {starter}, which says {seen}; leave "
                            "the option out")
    if found.nodes == 1:
        return Placement()
    if rendezvous is None:
        return found
    return Placement(found.nodes, found.rank, *_endpoint(rendezvous))


def unused_nodes_hint(environ: Mapping[str, str]) -> str:
    """Say how to use a SLURM job's other nodes; empty where there are none."""
    nodes = environ.get("SLURM_JOB_NUM_NODES", "1")
    if "SLURM_STEP_ID" in environ or nodes in ("", "1"):
        return ""
    return (f"this job has {nodes} nodes and this command uses one of them; "
            "`srun --ntasks-per-node 1 bench-apts …` uses all")


def first_host(nodelist: str) -> str:
    """Return the first host of a SLURM hostlist expression, such as ``node[01-03,7],login``.

    Raises:
        UserError: It is malformed.
    """
    found = re.match(r"(?:[^\[\],\s]|\[\d[\d,-]*\])+(?=,|$)", nodelist)
    if not found:
        raise UserError(f"SLURM_STEP_NODELIST='{nodelist}' is no list of hosts; name node 0 with "
                        "--rendezvous HOST:PORT")
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", found[0])


def _by_options(nodes: int | None, node_rank: int | None, rendezvous: str | None) -> Placement:
    if nodes is None or nodes == 1:
        if node_rank or rendezvous is not None:
            raise UserError("--node-rank and --rendezvous are for several machines: say how many "
                            "with --nodes")
        return Placement()
    if node_rank is None or rendezvous is None:
        raise UserError(f"--nodes {nodes} needs --node-rank (0 to {nodes - 1}, 0 leads and holds "
                        "the results) and --rendezvous HOST:PORT of node 0, or torchrun or srun "
                        "to start the commands")
    if node_rank >= nodes:
        raise UserError(f"--node-rank {node_rank}: with --nodes {nodes} it goes from 0 to "
                        f"{nodes - 1}")
    return Placement(nodes, node_rank, *_endpoint(rendezvous))


def _endpoint(text: str) -> tuple[str, int]:
    found = _ENDPOINT.fullmatch(text)
    if not found or not 0 < int(found["port"]) < 2**16:
        raise UserError(f"--rendezvous {text}: write HOST:PORT, the name or address of node 0 "
                        "and a free port there, for instance node01:29400")
    return found["host"] or found["six"], int(found["port"])


def _step_nodes(environ: Mapping[str, str]) -> int:
    """Return on how many nodes srun started this command; 1 in the batch script, outside srun."""
    if "SLURM_STEP_ID" not in environ or "SLURM_STEP_NUM_NODES" not in environ:
        return 1
    return _number(environ, "SLURM_STEP_NUM_NODES")


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    if not text.isascii() or not text.isdigit():
        raise UserError(f"the environment has {name}='{text}', which is no number; --nodes 1 "
                        "uses this machine alone")
    return int(text)


def _port(environ: Mapping[str, str]) -> int:
    """Return a port that all nodes of a step know and that other steps hardly use."""
    job, step = _number(environ, "SLURM_JOB_ID"), environ["SLURM_STEP_ID"]
    return _PORTS[(job * 31 + (int(step) if step.isdecimal() else 0)) % len(_PORTS)]


_PORT_KEY = "port"


def publish_port(outer: Mapping[str, str], port: int, patience_s: float) -> Store:
    """Write node 0's port into the store of the torchrun that started this command.

    Args:
        outer: torchrun's variables.
        port: The port, on the host that torchrun names.
        patience_s: For how long the others may look it up, in seconds.

    Returns:
        The store, which may live in this process and must stay until the others have looked.
    """
    with _store(outer, patience_s) as store:
        store.set(_PORT_KEY, str(port))
    return store


def look_up_port(outer: Mapping[str, str], patience_s: float) -> int:
    """Wait until node 0 has published its port, and return it.

    Raises:
        UserError: It has not within ``patience_s`` seconds.
    """
    with _store(outer, patience_s) as store:
        return int(store.get(_PORT_KEY))


@contextmanager
def _store(outer: Mapping[str, str], patience_s: float) -> Iterator[Store]:
    from torch.distributed import (  # type: ignore[attr-defined]
        DistError,
        PrefixStore,
        rendezvous,
    )

    before = dict(os.environ)
    os.environ.update(outer)
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=patience_s)))
        attempt = outer.get("TORCHELASTIC_RESTART_COUNT", "0")
        yield PrefixStore(f"bench-apts/{attempt}", store)
    except (DistError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"torchrun's other nodes did not answer within {patience_s:.0f} s "
                        f"({reason}); name node 0 with --rendezvous HOST:PORT") from error
    finally:
        os.environ.clear()
        os.environ.update(before)


_LOOK_S = 0.2


class BatchCommand:
    """A command line that submitit runs on each node.

    submitit keeps it as a pickle in its folder, and so it holds strings and numbers alone. Before
    the job's time is up submitit calls ``checkpoint`` and requeues the job.

    Args:
        arguments: The command line, program first.
        grace_s: How long the command may take to end in order, in seconds.
    """

    def __init__(self, arguments: Sequence[str], grace_s: float) -> None:
        self.arguments, self.grace_s = list(arguments), grace_s
        self._process: subprocess.Popen[bytes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"arguments": self.arguments, "grace_s": self.grace_s, "_process": None}

    def __call__(self) -> int:
        """Run the command to its end.

        Returns:
            Its exit code: 0, or 143 if it was asked to stop and can be resumed.

        Raises:
            RuntimeError: It failed; the output of the job says why.
        """
        signal.signal(signal.SIGTERM, self._forward)  # SLURM may send it to this process alone
        print(shlex.join(self.arguments), flush=True)
        self._process = subprocess.Popen(self.arguments)
        while self._process.poll() is None:
            time.sleep(_LOOK_S)
        code = self._process.returncode
        if code not in (0, 128 + signal.SIGTERM):
            raise RuntimeError(f"the command ended with code {code}")
        return code

    def checkpoint(self) -> DelayedSubmission:
        """End the command in order; the requeued job resumes it."""
        import psutil
        from submitit.core.utils import DelayedSubmission

        self._forward(signal.SIGTERM, None)
        if self._process is not None:
            # Not by Popen, whose ``poll`` this interrupts and which may hold its lock.
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(self._process.pid)
                for late in psutil.wait_procs([process], self.grace_s)[1]:
                    late.kill()
        return DelayedSubmission(self)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)


def bench_apts_command(arguments: Sequence[str]) -> list[str]:
    """Return the command line of ``bench-apts …`` in this Python."""
    return [sys.executable, "-m", "bench_apts", *arguments]
