"""Switches of torch on which the last bits of a result depend, and the libraries of GPUs."""

from __future__ import annotations

import os

import torch


def settings() -> dict[str, bool | str]:
    """Returns the switches as they stand in this process.

    Keys: ``deterministic_algorithms``, ``cudnn_deterministic``, ``cudnn_benchmark`` (which may
    choose another convolution in every process), ``matmul_precision`` (of float32; "highest"
    means without TF32), ``convolution_tf32`` and, where set, ``CUBLAS_WORKSPACE_CONFIG``. Once the
    process uses CUDA also the versions ``cuda``, ``cudnn`` and ``nccl``, as far as there are any.
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
    if workspace:
        found["CUBLAS_WORKSPACE_CONFIG"] = workspace
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found |= _libraries()
    return found


def _libraries() -> dict[str, bool | str]:
    """Return the versions of CUDA, cuDNN and NCCL that torch uses."""
    found: dict[str, bool | str] = {"cuda": str(torch.version.cuda)}
    if torch.backends.cudnn.is_available():  # type: ignore[no-untyped-call]
        found["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    if torch.distributed.is_nccl_available():
        version = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
        found["nccl"] = ".".join(map(str, version))
    return found
