"""Files of named arrays: .npz without pickles, safetensors, and bytes that claim to be either."""

import importlib.util
import io
import pickle
import struct
import sys
import zipfile

import numpy as np
import pytest

from bench_apts.core.errors import UserError
from bench_apts.suites.readers import npz, reader_paths, safetensors

needs_safetensors = pytest.mark.skipif(not importlib.util.find_spec("safetensors"),
                                       reason="safetensors is not installed")


def arrays(**changed):
    rng = np.random.default_rng(0)
    return {"train_inputs": rng.random((12, 4), dtype=np.float32),
            "train_targets": np.arange(12, dtype=np.uint8) % 3,
            "test_inputs": rng.random((6, 4), dtype=np.float32),
            "test_targets": np.arange(6, dtype=np.uint8) % 3} | changed


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_holds_the_splits(tmp_path, save):
    path, stored = tmp_path / "data.npz", arrays()
    save(path, **stored)
    found = npz(str(path))
    for part in ("train", "test"):
        assert np.array_equal(found[part][0], stored[f"{part}_inputs"])
        assert np.array_equal(found[part][1], stored[f"{part}_targets"])
        assert found[part][1].dtype == np.int64
    validation = np.random.default_rng(5).random((3, 4), dtype=np.float32)
    save(path, **stored, validation_inputs=validation, validation_targets=np.arange(3))
    assert list(npz(path)) == ["train", "validation", "test"]


def test_arrays_may_have_other_names_and_byte_orders(tmp_path):
    path, stored = tmp_path / "mnist.npz", arrays()
    other = {"train_inputs": "x_train", "train_targets": "y_train", "test_inputs": "x_test",
             "test_targets": "y_test"}
    np.savez(path, **{other[key]: array.astype(array.dtype.newbyteorder(">"))
                      for key, array in stored.items()})
    found = npz(path, names=other)
    assert found["train"][0].dtype == np.float32
    assert found["train"][0].dtype.isnative
    assert np.array_equal(found["train"][0], stored["train_inputs"])
    with pytest.raises(UserError, match="x_train"):
        npz(path)
    with pytest.raises(UserError, match="train_input"):
        npz(path, names={"train_input": "x_train"})
    with pytest.raises(UserError, match="y_val"):
        npz(path, names=other | {"validation_targets": "y_val"})


class Harmful:
    def __reduce__(self):
        return (open, ("harmed", "w"))


def test_objects_are_refused_and_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects = np.empty(12, object)
    objects[:] = [Harmful()] * 12
    np.savez("data.npz", **arrays(train_targets=objects))
    with zipfile.ZipFile("pickled.npz", "w") as archive:
        for name in arrays():
            archive.writestr(f"{name}.npy", pickle.dumps(Harmful()))
    for name in ("data.npz", "pickled.npz"):
        with pytest.raises(UserError, match="pickle"):
            npz(name)
    assert not (tmp_path / "harmed").exists()


def bomb():
    """An .npy file of a few bytes whose header claims 2**50 samples."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": (2**50, 4)})
    return file.getvalue()


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip", bomb()])
def test_files_that_are_no_archives_are_refused(tmp_path, content):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=path.name):
        npz(path)


def test_members_that_claim_much_or_are_damaged_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays())
    content = path.read_bytes()
    at = content.index(b"\x93NUMPY") + 140
    path.write_bytes(content[:at] + b"\xff\xff" + content[at + 2:])
    with pytest.raises(UserError, match="CRC"):
        npz(path)
    for end in range(0, len(content), 13):
        path.write_bytes(content[:end])
        with pytest.raises(UserError):
            npz(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name in arrays():
            archive.writestr(f"{name}.npy", bomb())
    with pytest.raises(UserError, match=path.name):
        npz(path)
    np.savez_compressed(path, **arrays(train_inputs=np.zeros((12, 10_000), np.float32)))
    monkeypatch.setattr(reader_paths, "memory_bytes", lambda: 500_000)
    with pytest.raises(UserError, match="bytes in memory"):
        npz(path)


def test_without_its_package_safetensors_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    (tmp_path / "data.safetensors").touch()
    with pytest.raises(UserError, match="pip install"):
        safetensors(tmp_path / "data.safetensors")


@needs_safetensors
def test_safetensors_holds_the_splits(tmp_path):
    from safetensors.numpy import save_file

    path, stored = tmp_path / "data.safetensors", arrays()
    save_file(stored, path)
    found = safetensors(str(path))
    for part in ("train", "test"):
        assert np.array_equal(found[part][0], stored[f"{part}_inputs"])
        assert np.array_equal(found[part][1], stored[f"{part}_targets"])
    save_file({key.replace("_inputs", "_x"): array for key, array in stored.items()}, path)
    with pytest.raises(UserError, match="train_x"):
        safetensors(path)
    names = {"train_inputs": "train_x", "test_inputs": "test_x"}
    assert np.array_equal(safetensors(path, names)["test"][0], stored["test_inputs"])


@needs_safetensors
def test_damaged_safetensors_are_refused(tmp_path):
    import torch
    from safetensors.numpy import save_file
    from safetensors.torch import save_file as save_torch

    path = tmp_path / "data.safetensors"
    save_file(arrays(), path)
    content = path.read_bytes()
    for damaged in (b"", content[:-1], content[:50], content + b"\0", b"{}" * 50,
                    struct.pack("<Q", 2**62) + content[8:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=path.name):
            safetensors(path)
    save_torch({key: torch.from_numpy(array).bfloat16() for key, array in arrays().items()}, path)
    with pytest.raises(UserError, match=path.name):
        safetensors(path)
