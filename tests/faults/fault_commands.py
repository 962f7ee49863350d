"""Commands that something happens to, and what must be left of them: records, nothing else."""

import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

from bench_apts.core import store

MARK = "BENCH_APTS_TEST_MARK"

# A namespace of its own, in which a folder of ours is the shared memory of the whole command.
PRIVATE = ("unshare", "--mount", "sh", "-c",
           'mount --bind "$1" /dev/shm && shift && exec "$@"', "sh")


def private_shared_memory(folder):
    """Whether this user may give a command shared memory of its own."""
    try:
        return subprocess.run([*PRIVATE, folder, "true"], capture_output=True,
                              check=False).returncode == 0
    except FileNotFoundError:
        return False


class Command:
    """A ``bench-apts`` command that leaves traces where they can be counted.

    Args:
        arguments: Of the command.
        folder: For its temporary files and its shared memory.
        environment: Its variables.
        python: What runs it: the interpreter and its options.
    """

    def __init__(self, arguments, folder, environment, python=("-m", "bench_apts")):
        self.mark = uuid.uuid4().hex
        self.temporary, self.shared = folder / "tmp", folder / "shm"
        for place in (self.temporary, self.shared):
            place.mkdir(exist_ok=True)
        prefix = (*PRIVATE, self.shared) if private_shared_memory(self.shared) else ()
        self.process = subprocess.Popen(
            [*prefix, sys.executable, *python, *map(str, arguments)],
            env={**environment, MARK: self.mark, "TMPDIR": str(self.temporary)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def processes(self):
        """Returns all living processes of the command, wherever they have gone to."""
        found = []
        for process in psutil.process_iter():
            try:
                if (process.environ().get(MARK) == self.mark
                        and process.status() != psutil.STATUS_ZOMBIE):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def ranks(self):
        """Returns the ranks of the running trial: what the fork server has forked."""
        found = []
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                if server(process.parent()) and not server(process):
                    found.append(process)
        return found

    def servers(self):
        """Returns the fork server, if it runs."""
        return [p for p in self.processes() if server(p)]

    def listening(self):
        """Returns the ports at which the command's processes listen."""
        mine = {process.pid for process in self.processes()}
        return {c.laddr.port for c in psutil.net_connections("inet")
                if c.status == psutil.CONN_LISTEN and c.pid in mine}

    def finish(self, patience_s=500):
        """Waits for the end; returns code, output and errors."""
        out, err = self.process.communicate(timeout=patience_s)
        return self.process.returncode, out, err

    def assert_gone(self, ports=frozenset(), patience_s=30, tracked=True):
        """Checks that the command left no process, no port and no shared memory.

        Args:
            ports: At which it listened.
            patience_s: How long its processes may take to notice.
            tracked: Whether Python's resource tracker lived to tidy up; where it was killed
                too, its semaphores of 32 bytes stay, and nothing else may.
        """
        deadline = time.monotonic() + patience_s
        while left := self.processes():
            assert time.monotonic() < deadline, [(p.pid, p.cmdline()) for p in left]
            time.sleep(0.05)
        open_still = {c.laddr.port for c in psutil.net_connections("inet")
                      if c.status == psutil.CONN_LISTEN}
        assert not ports & open_still
        left = list(self.shared.iterdir())
        assert all(path.name.startswith("sem.mp-") and path.stat().st_size == 32
                   for path in left) if not tracked else left == []
        for path in left:
            path.unlink()

    def temporary_left(self):
        """Returns the command's temporary files, apart from torch's cache of compiled code."""
        return [path for path in self.temporary.iterdir()
                if not path.name.startswith("torchinductor_")]

    def kill(self):
        """Ends all that is left of the command."""
        self.strike()
        self.process.communicate()

    def strike(self):
        """Sends SIGKILL to all that is left of the command."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()


def server(process):
    """Whether a process is the fork server itself."""
    if process is None:
        return False
    try:
        line = process.cmdline()
        return any("forkserver" in word for word in line) and not server(process.parent())
    except psutil.Error:
        return False


def fingerprint(record):
    """Returns everything of a record that must not depend on when and how often it ran."""
    plain = msgspec.to_builtins(record)
    trial = plain["header"]["trial"]
    evals = [{key: event[key] for key in (
        "step", "samples", "epoch", "forwards", "backwards", "train_loss", "validation", "comm",
        "flops")} for event in plain["evals"]]
    end = {key: plain["end"][key] for key in (
        "status", "samples", "comm", "test", "final_weights_sha256", "calls", "reason")}
    start = {key: value for key, value in plain["start"].items() if key != "build_s"}
    return {"trial": trial, "start": start, "evals": evals, "end": end}


def union(folder):
    """Returns the fingerprints of all trials of a results folder, by run id."""
    return {record.header.run_id: fingerprint(record) for record in store.read_trials(folder)}


def finished(folder):
    """Returns the bytes of the files of all finished trials; each file is read as a whole."""
    if not (folder / "trials").exists():
        return {}
    return {Path(record.path).name: Path(record.path).read_bytes()
            for record in store.read_trials(folder) if record.finished}
