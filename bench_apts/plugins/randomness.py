"""Random numbers of models and optimizers: seeded for each step, or drawn again in it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Generator


class StepSeeds:
    """Seeds torch's global generators, so that what is drawn does not depend on what ran before.

    ``torch.manual_seed`` would take some 200 microseconds, most of it for devices that are not
    used; seeding the generators that a rank has takes three.

    Args:
        seed: The trial's.
        rank: This rank; dropout masks of ranks differ.
        device: Where the rank computes, besides the CPU.
    """

    def __init__(self, seed: int, rank: int, device: torch.device) -> None:
        self._prefix = f"{seed}/{rank}/"
        self._device = device

    def begin(self, what: int | str) -> None:
        """Seed for a step, by its number, or for something else, by its name."""
        text = f"{self._prefix}{what}".encode()
        number = int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big")
        for generator in _generators(self._device):
            generator.manual_seed(number)


class Redraw:
    """Has several passes over one minibatch draw the same numbers, such as dropout masks.

    Make one before the first pass, and call ``again`` before each of the others.

    Args:
        device: Where the passes compute, besides the CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._kept = [(each, each.get_state()) for each in _generators(device)]

    def again(self) -> None:
        """Set torch's global generators back to where they were."""
        for generator, state in self._kept:
            generator.set_state(state)


def _generators(device: torch.device) -> list[Generator]:
    """Return torch's global generators of the CPU and of a device, which is initialised."""
    found = [torch.default_generator]
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        found.append(torch.cuda.default_generators[index])
    return found
