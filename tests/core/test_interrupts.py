"""Signals that are received within a finalizer, whose exception Python drops."""

import signal
import subprocess
import sys

import pytest

# A finalizer receives the signal; what follows would take a minute.
CODE = """
import os, signal, sys, time, weakref
from bench_apts.core import interrupts
number, way = int(sys.argv[1]), sys.argv[2]

class Held:
    def __del__(self):
        if way == "del":
            receive()

def receive(*arguments):
    os.kill(os.getpid(), number)
    for _ in range(1000):
        time.sleep(1e-3)

class TorchsException(Exception):
    sigval = number

def end(number, frame):
    raise TorchsException

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
interrupts.resend_lost_signals()
try:
    with interrupts.interruptible():
        if way == "torch":
            signal.signal(number, end)
        held = Held()
        reference = weakref.ref(held, receive) if way != "del" else None
        try:
            del held
            for _ in range(60_000):
                time.sleep(1e-3)
        except interrupts.Interrupted as error:
            os.kill(os.getpid(), signal.SIGTERM)  # a second one, which cuts off nothing
            print("in order", flush=True)
            raise
except (interrupts.Interrupted, TorchsException) as error:
    sys.exit(128 + (getattr(error, "number", 0) or number))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("way", ["del", "weak reference", "torch"])
def test_a_signal_within_a_finalizer_ends_the_block(environment, number, way):
    done = subprocess.run([sys.executable, "-c", CODE, str(int(number)), way], env=environment,
                          capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stderr) == (128 + number, "")
    if number == signal.SIGTERM and way != "torch":
        assert done.stdout == "in order\n"


def test_other_exceptions_of_finalizers_are_still_printed(environment):
    code = ("from bench_apts.core import interrupts\ninterrupts.resend_lost_signals()\n"
            "class Held:\n    def __del__(self): raise ValueError('kept')\nHeld()")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True,
                          text=True, check=True)
    assert "ValueError: kept" in done.stderr
