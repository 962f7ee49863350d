"""Which GPUs ranks can have: by nvidia-smi, the kernel module or torch, and what a user chose."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench_apts.core import gpu_devices
from bench_apts.core.gpu_devices import Gpu

GPUS = (Gpu("GPU-aaaa-1", "NVIDIA H100"), Gpu("GPU-bbbb-2", "NVIDIA A100"),
        Gpu("GPU-bbbb-3", "NVIDIA A100"))
SMI_L = """GPU 0: NVIDIA H100 (UUID: GPU-aaaa-1)
GPU 1: NVIDIA A100 (UUID: GPU-bbbb-2)
  MIG 3g.20gb     Device  0: (UUID: MIG-x)
  MIG 1g.5gb      Device  1: (UUID: MIG-y)"""


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.delenv(gpu_devices.VISIBLE, raising=False)
    clear = gpu_devices._machine.cache_clear  # what a test puts in its place has none
    clear()
    yield
    clear()


@pytest.fixture
def answers(monkeypatch):
    """Lets programs answer by their names, and shows no kernel module."""

    def give(**found):
        def run(*command, timeout_s=0):
            program = Path(command[0]).name.partition("-")[0].partition("3")[0]
            return found.get("listing" if "-L" in command else program)

        monkeypatch.setattr(gpu_devices, "_run", run)
        monkeypatch.setattr(gpu_devices, "find_in_file", lambda pattern, path: None)
        monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(()))

    return give


@pytest.mark.parametrize(("setting", "chosen"), [
    (None, [0, 1, 2]), ("", []), ("-1", []), ("1", [1]), ("1,0", [1, 0]), ("0,7,1", [0]),
    ("GPU-bbbb-2,0", [1, 0]), ("GPU-bbbb", []), ("1,1", []), ("x,0", []), (" 2 , 0", [2, 0])])
def test_what_cuda_shows_of_the_gpus_that_a_user_chose(monkeypatch, setting, chosen):
    monkeypatch.setattr(gpu_devices, "_machine", lambda: (GPUS, "550.1"))
    if setting is not None:
        monkeypatch.setenv(gpu_devices.VISIBLE, setting)
    assert gpu_devices.visible() == [GPUS[number] for number in chosen]
    assert gpu_devices.gpu_count() == len(chosen)
    assert gpu_devices.selectors() == [GPUS[number].uuid for number in chosen]


@pytest.mark.parametrize(("setting", "names"), [
    ("MIG-x", ["NVIDIA A100 MIG 3g.20gb"]), ("MIG-y,MIG-x", ["NVIDIA A100 MIG 1g.5gb"]),
    ("MIG-z", ["a MIG slice of NVIDIA H100"]), ("0,MIG-x", ["NVIDIA H100"])])
def test_of_mig_slices_cuda_shows_the_first(monkeypatch, answers, setting, names):
    answers(listing=SMI_L)
    monkeypatch.setattr(gpu_devices, "_machine", lambda: (GPUS, "550.1"))
    monkeypatch.setenv(gpu_devices.VISIBLE, setting)
    assert [gpu.name for gpu in gpu_devices.visible()] == names
    assert gpu_devices.selectors() in ([setting.split(",")[0]], ["GPU-aaaa-1"])


def test_nvidia_smi_is_read(answers):
    answers(nvidia="GPU-a, NVIDIA H200, 570.86.15\nGPU-b, NVIDIA H200, 570.86.15")
    assert gpu_devices.visible() == [Gpu("GPU-a", "NVIDIA H200"), Gpu("GPU-b", "NVIDIA H200")]
    assert gpu_devices.driver() == "570.86.15"


def test_without_nvidia_smi_torch_counts_what_the_driver_shows(monkeypatch, answers):
    answers(python="GPU-a, NVIDIA H200\nGPU-b, NVIDIA H200")
    monkeypatch.setattr(gpu_devices.ctypes, "CDLL", lambda name: None)
    monkeypatch.setenv(gpu_devices.VISIBLE, "1")
    assert gpu_devices.visible() == [Gpu("GPU-b", "NVIDIA H200")]
    assert gpu_devices.driver() is None


@pytest.mark.parametrize("answer", [None, "", "No devices were found"])
def test_without_a_driver_nobody_imports_torch_to_count(monkeypatch, answers, answer):
    def missing(name):
        raise OSError(name)

    answers(nvidia=answer, python="GPU-a, never asked")
    monkeypatch.setattr(gpu_devices.ctypes, "CDLL", missing)
    assert gpu_devices.visible() == []


def test_gpus_without_a_known_uuid_go_by_their_numbers(monkeypatch):
    monkeypatch.setattr(gpu_devices, "_machine", lambda: ((Gpu("", "A"), Gpu("", "A")), None))
    assert gpu_devices.selectors() == ["0", "1"]
    monkeypatch.setenv(gpu_devices.VISIBLE, "1,0")
    assert gpu_devices.selectors() == ["1", "0"]


def test_the_compiler_is_looked_for_where_torch_does(monkeypatch, tmp_path):
    found = tmp_path / "bin" / "nvcc"
    found.parent.mkdir()
    found.touch(mode=0o755)
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(found.parent))
    assert gpu_devices.cuda_compiler() == str(found)
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "elsewhere"))
    assert gpu_devices.cuda_compiler() is None
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert gpu_devices.cuda_compiler() == str(found)


def test_no_torch_is_imported():
    code = ("import sys; from bench_apts.core import gpu_devices; gpu_devices.gpu_count(); "
            "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
