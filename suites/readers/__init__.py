"""Readers: data in usual file formats, as NumPy arrays divided into splits.

Each reader is a function that takes a path and options and returns
``{"train": (inputs, targets), "test": (inputs, targets)}``, with ``"validation"`` too where the
data has it. The first dimension of each array counts samples. Integer targets of one dimension
are classes 0 … K - 1, targets of floats are values, and integer targets of more dimensions are
tokens. Nothing here imports torch before a reader is called, and no reader executes anything that
a file holds. ``checks.checked`` states what holds for every result.
"""

from __future__ import annotations

from .checks import Splits, checked
from .hub import parquet
from .images import imagefolder
from .named import npz, safetensors
from .shards import tokens
from .tables import csv
from .texts import text
from .vision import torchvision

__all__ = ["Splits", "checked", "csv", "imagefolder", "npz", "parquet", "safetensors", "text",
           "tokens", "torchvision"]
