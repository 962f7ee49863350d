"""Readers: data in usual file formats, as NumPy arrays divided into splits.

Each reader is a function that takes a path and options and returns
``{"train": (inputs, targets), "test": (inputs, targets)}``, with ``"validation"`` too where the
data has it. The first dimension of each array counts samples. Integer targets of one dimension
are classes 0 … K - 1, targets of floats are values, and integer targets of more dimensions are
tokens. Nothing here imports torch before a reader is called, and no reader executes anything that
a file holds. ``split_checks.checked`` states what holds for every result.
"""

from __future__ import annotations

from bench_apts.suites.readers.array_files import csv, npz, safetensors
from bench_apts.suites.readers.image_files import imagefolder
from bench_apts.suites.readers.parquet_files import parquet
from bench_apts.suites.readers.split_checks import Splits, checked
from bench_apts.suites.readers.token_files import text, tokens
from bench_apts.suites.readers.torchvision_data import torchvision

__all__ = ["Splits", "checked", "csv", "imagefolder", "npz", "parquet", "safetensors", "text",
           "tokens", "torchvision"]
