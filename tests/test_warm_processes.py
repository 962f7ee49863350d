"""What tests start as a fork of a warm process is what a new interpreter would be."""

import json
import os
import signal
import subprocess
import sys

import pytest
import warm_processes

SAY = '''
SAID = 1
import json, os, signal, sys
print(json.dumps({
    "argv": sys.argv, "path": sys.path, "folder": os.getcwd(), "environment": dict(os.environ),
    "parent": os.getppid(), "leads": os.getsid(0) == os.getpid(), "name": __name__,
    "main": sys.modules["__main__"].SAID, "input": sys.stdin.read(),
    "handlers": [str(signal.getsignal(s)).partition(" at ")[0] for s in (1, 2, 15, 17)]}))
'''
ENDS = {"sys.exit(3)": 3, "sys.exit('a word')": 1, "1 / 0": 1, "pass": 0,
        "os.kill(os.getpid(), 9)": -9, "raise KeyboardInterrupt": -2}


def both(code, tmp_path, environment, session=True):
    """What a warm process and a new one with this code say and return."""
    told = []
    for popen in (warm_processes.WarmPopen, subprocess.Popen):
        with popen([sys.executable, "-P", "-c", code, "a", "b c"], cwd=tmp_path, env=environment,
                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                   text=True, start_new_session=session,
                   # A shell that runs the tests in the background has them ignore Ctrl-C.
                   preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:
            out, err = process.communicate("given", timeout=200)
        said = err.partition("nanobind: ")[0]  # torch 2.15 lists what a traceback kept alive
        told.append((out, said.splitlines()[-1:], process.returncode))
    return told


@pytest.mark.parametrize("session", [True, False])
def test_it_finds_what_a_new_interpreter_finds(environment, tmp_path, session):
    warm, new = both(SAY, tmp_path, environment | {"MINE": "ü"}, session)
    assert json.loads(warm[0]) == json.loads(new[0])
    assert json.loads(warm[0])["parent"] == os.getpid()
    assert warm[1:] == new[1:] == ([], 0)


def test_it_ends_as_a_new_interpreter_ends(environment, tmp_path):
    for ending, code in ENDS.items():
        warm, new = both(f"import os, sys; print(1, end=''); {ending}", tmp_path, environment)
        assert warm == new, ending
        assert warm[2] == code


@pytest.mark.parametrize(("variables", "warm"), [({}, "True"), ({"PYTHONHASHSEED": "1"}, "False")])
def test_only_variables_that_are_read_early_need_a_new_interpreter(environment, variables, warm):
    done = warm_processes.run(
        [sys.executable, "-c", "import sys; print('torch' in sys.modules)"],
        env=environment | variables)
    assert done.stdout.strip() == warm
