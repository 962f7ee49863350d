"""``--dry-run``: what its estimate times is what a rank would compute."""

SUITE = """
name = "pictures"
summary = ""
batch_size = 8
precision = "bf16"
memory_format = "channels_last"
data = { source = "pictures.py:splits", validation = 10 }
model = { source = "pictures.py:Net" }
task = { name = "classification" }
budget = { samples = 160, seconds = 60 }
evaluation = { every_samples = 80 }
[target]
metric = "accuracy"
direction = "max"
value = 0.9
provenance = { optimizer = "none", trials = 0, seeds = 0 }
"""
CODE = """
from pathlib import Path

import numpy as np
import torch
from torch import nn

def splits():
    drawn = np.random.default_rng(0)
    part = drawn.integers(0, 256, (50, 3, 6, 6), dtype=np.uint8), np.arange(50) % 2
    return part, part

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(64, 2)

    def forward(self, inputs):
        hidden = self.first(inputs)
        layouts = [tensor.is_contiguous(memory_format=torch.channels_last)
                   for tensor in (inputs, self.first.weight)]
        with Path(__file__).with_name("seen").open("a") as seen:
            print(hidden.dtype, *layouts, len(inputs), file=seen)
        return self.last(hidden.flatten(1))
"""


def test_a_dry_run_times_the_precision_and_the_layout_of_the_suite(cli, tmp_path):
    (tmp_path / "pictures.py").write_text(CODE)
    (tmp_path / "pictures.toml").write_text(SUITE)
    done = cli("run", "--suite", "pictures.toml", "--optimizers", "sgd", "--dry-run")
    assert done.code == 0, done.err
    assert "computing alone" in done.out
    timed = [line for line in (tmp_path / "seen").read_text().splitlines()
             if line.endswith(" 8")]
    assert timed
    assert set(timed) == {"torch.bfloat16 True True 8"}
