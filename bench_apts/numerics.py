"""Switches of torch on which the last bits of a result depend."""

from __future__ import annotations

import os

import torch


def settings() -> dict[str, bool | str]:
    """Returns the switches as they stand in this process.

    Keys: ``deterministic_algorithms``, ``cudnn_deterministic``, ``cudnn_benchmark`` (which may
    choose another convolution in every process), ``matmul_precision`` (of float32; "highest"
    means without TF32), ``convolution_tf32`` and, where set, ``CUBLAS_WORKSPACE_CONFIG``.
    """
    cudnn = torch.backends.cudnn
    found: dict[str, bool | str] = {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": cudnn.deterministic,
        "cudnn_benchmark": cudnn.benchmark,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "convolution_tf32": cudnn.allow_tf32,
    }
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    return found | ({"CUBLAS_WORKSPACE_CONFIG": workspace} if workspace else {})
