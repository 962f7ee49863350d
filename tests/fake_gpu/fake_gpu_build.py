"""Builds the stand-in GPU once, and says what a process needs in its environment to see it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
_LIBRARIES = ("c10_cuda", "torch_cuda", "torch_cuda_linalg", "torch_python", "torch_nvshmem")
_DEFINES = """#define __device_builtin__
#define __cudart_builtin__
#define __device_builtin_texture_type__
#define __device_builtin_surface_type__
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __align__(n)
#define CUDARTAPI
"""
_REPLACED = re.compile(r"\b(?:__cuda|cuda[A-Z]|cublas|cusolver|cusparse|nccl)\w*")
_DRIVER = re.compile(r"\bcu[A-Z]\w*")


class CannotBuild(Exception):
    """What is missing to build it."""


def build(folder):
    """Compiles into a folder; returns variables of the environment, FAKE_GPUS aside."""
    for program in ("gcc", "nm"):
        if shutil.which(program) is None:
            raise CannotBuild(f"{program} is not installed")
    import torch

    place = Path(torch.__file__).parent / "lib"
    if not (place / "libtorch_cuda.so").exists():
        raise CannotBuild("torch is built without CUDA")
    headers = next(place.parents[1].glob("nvidia/*/include/driver_types.h"), None)
    if headers is None:
        raise CannotBuild("there are no headers of CUDA beside torch")
    (folder / "crt").mkdir(parents=True, exist_ok=True)
    (folder / "crt" / "host_defines.h").write_text(_DEFINES)  # the wheels leave it out
    runtime, driver = folder / "libfake_cuda.so", folder / "libcuda.so.1"
    wanted = _undefined(place / f"lib{name}.so" for name in _LIBRARIES)
    _compile(runtime, HERE / "fake_cuda.c", _REPLACED.findall(wanted), headers)
    _compile(driver, HERE / "fake_driver.c",
             _DRIVER.findall(_undefined([place / "libcaffe2_nvrtc.so"])), headers)
    shutil.copy(driver, folder / "libnvidia-ml.so.1")
    return {"LD_PRELOAD": str(runtime), "LD_LIBRARY_PATH": str(folder), "OMP_NUM_THREADS": "1",
            "CUBLAS_WORKSPACE_CONFIG": ":0:0", "CUBLASLT_WORKSPACE_SIZE": "0"}


def _undefined(libraries):
    found = [str(path) for path in libraries if path.exists()]
    return subprocess.run(["nm", "-D", "--undefined-only", *found], check=True,
                          capture_output=True, text=True).stdout


def _compile(target, source, names, headers):
    """Compiles a source; names that it does not define become functions that return 0."""
    written = set(re.findall(r"\w+", source.read_text()))
    stubs = target.with_suffix(".c")
    stubs.write_text("".join(f"long {name}(void) {{ return 0; }}\n"
                             for name in sorted(set(names) - written)))
    unfinished = target.with_suffix(f".{os.getpid()}")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-w", f"-I{target.parent}",
                    f"-I{headers.parent}", str(source), str(stubs), "-o", str(unfinished),
                    "-lrt", "-lpthread"], check=True)
    unfinished.replace(target)
