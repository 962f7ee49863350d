"""A SLURM of two nodes that are this machine: ``sbatch`` and ``srun`` as far as jobs see them."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

JOB = "4711"
_NODES = "localhost,127.0.0.1"


def install(folder):
    """Writes ``sbatch``, ``srun`` and ``scontrol`` into a folder, for the front of the PATH."""
    folder.mkdir()
    for name in ("sbatch", "srun", "scontrol"):
        path = folder / name
        path.write_text(f"#!/bin/sh\nexec {sys.executable} {__file__} {name} \"$@\"\n")
        path.chmod(0o755)


def sbatch(script, *arguments):
    """Runs the script in the background with a job's environment, and says its number."""
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", Path(script).read_text(),
                              re.MULTILINE))
    environment = os.environ | {
        "SLURM_JOB_ID": JOB, "SLURM_JOB_NUM_NODES": options["nodes"],
        "SLURM_NTASKS": options["nodes"], "SLURM_JOB_NODELIST": _NODES, "SLURM_NODEID": "0",
        "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    folder = Path(options["output"]).parent
    with (folder / "batch.log").open("ab") as log:
        process = subprocess.Popen(["bash", script, *arguments], env=environment, stdout=log,
                                   stderr=log, start_new_session=True)
    (folder / "batch.pid").write_text(str(process.pid))
    print(f"Submitted batch job {JOB}")


def srun(*arguments):
    """Runs one task for each node; ends with the worst exit code."""
    options, command = {}, list(arguments)
    while command[0].startswith("--"):
        name = command.pop(0)
        if name in ("--output", "--error"):
            options[name] = command.pop(0)
    nodes = os.environ["SLURM_JOB_NUM_NODES"]
    tasks = []
    for task in range(int(nodes)):
        environment = os.environ | {
            "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": nodes, "SLURM_STEP_NUM_TASKS": nodes,
            "SLURM_STEP_NODELIST": _NODES, "SLURM_NODEID": str(task), "SLURM_PROCID": str(task)}
        with contextlib.ExitStack() as files:
            out, err = (files.enter_context(Path(
                options[name].replace("%j", JOB).replace("%t", str(task))).open("ab"))
                if name in options else None for name in ("--output", "--error"))
            tasks.append(subprocess.Popen(command, env=environment, stdout=out, stderr=err))
    signal.signal(signal.SIGUSR2, lambda *_: [task.send_signal(signal.SIGUSR2) for task in tasks])
    signal.signal(signal.SIGTERM, lambda *_: [task.send_signal(signal.SIGTERM) for task in tasks])
    sys.exit(max(abs(task.wait()) for task in tasks))


def scontrol(*arguments):
    """Notes what it was asked for; tells the names of the hosts of a job."""
    if arguments[:2] == ("show", "hostnames"):
        print(_NODES.replace(",", "\n"))
        return
    with Path(os.environ["FAKE_SLURM"]).open("a") as file:
        file.write(" ".join(arguments) + "\n")


if __name__ == "__main__":
    {"sbatch": sbatch, "srun": srun, "scontrol": scontrol}[sys.argv[1]](*sys.argv[2:])
