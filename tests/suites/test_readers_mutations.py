"""Files of every reader with bytes changed or cut: one line or arrays, never another error."""

import importlib.util
import random
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bench_apts.core.errors import UserError
from bench_apts.suites import readers

MUTATIONS = 40


def rows():
    rng = np.random.default_rng(0)
    return {"train_inputs": rng.random((8, 3)), "train_targets": np.arange(8) % 2,
            "test_inputs": rng.random((4, 3)), "test_targets": np.arange(4) % 2}


def named(folder):
    np.savez(folder / "a.npz", **rows())
    return folder / "a.npz", lambda: readers.npz(folder / "a.npz")


def packed(folder):
    np.savez_compressed(folder / "a.npz", **rows())
    return folder / "a.npz", lambda: readers.npz(folder / "a.npz")


def safetensors(folder):
    from safetensors.numpy import save_file

    save_file(rows(), folder / "a.safetensors")
    return folder / "a.safetensors", lambda: readers.safetensors(folder / "a.safetensors")


def features(folder):
    pq.write_table(pa.table({"x": np.arange(30) / 7, "label": ["a", "b"] * 15}), folder / "a")
    return folder / "a", lambda: readers.parquet(folder / "a", inputs="x")


def pictures(folder):
    tree(folder)
    cells = [{"bytes": path.read_bytes()} for path in sorted(folder.glob("*/*.png"))]
    pq.write_table(pa.table({"image": cells, "label": [0, 1] * 5}), folder / "images")
    return folder / "images", lambda: readers.parquet(folder / "images")


def table(folder):
    (folder / "a").write_text("a,b,kind\n" + "".join(
        f"{i}.5,{'xy'[i % 2]},{'uvw'[i % 3]}\n" for i in range(40)))
    return folder / "a", lambda: readers.csv(folder / "a", "kind")


def text(folder):
    (folder / "a").write_text("aäb€c🙂" * 50)
    return folder / "a", lambda: readers.text(folder / "a", context=3)


def shards(folder):
    header = np.zeros(256, "<i4")
    header[:3] = 20_240_520, 1, 200
    for name in ("train", "val"):
        (folder / name).write_bytes(header.tobytes() + np.arange(200, dtype="<u2").tobytes())
    return folder / "train", lambda: readers.tokens(str(folder / "*"), context=9)


def tree(folder):
    rng = np.random.default_rng(0)
    for i in range(10):
        place = folder / "ab"[i % 2]
        place.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return folder / "a" / "2.png", lambda: readers.imagefolder(folder)


def idx(folder):
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for stem in ("train", "t10k"):
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(
            struct.pack(">4I", 0x803, 10, 4, 4) + np.random.default_rng(0).bytes(160))
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(
            struct.pack(">2I", 0x801, 10) + bytes([0, 1] * 5))
    return (raw / "train-images-idx3-ubyte",
            lambda: readers.torchvision("FashionMNIST", folder, offline=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [
    named, packed, features, pictures, table, text, shards, tree, idx, pytest.param(
        safetensors, marks=pytest.mark.skipif(not importlib.util.find_spec("safetensors"),
                                              reason="safetensors is not installed"))])
def test_changed_bytes_end_in_one_line_or_in_arrays(tmp_path, make):
    folder = tmp_path / "data"
    folder.mkdir()
    path, read = make(folder)
    whole, chance, refused = path.read_bytes(), random.Random(0), 0
    read()
    for _ in range(MUTATIONS):
        content = bytearray(whole)
        for _ in range(chance.choice([1, 1, 2, 8])):
            content[chance.randrange(len(content))] = chance.choice([0, 127, 255])
        if chance.random() < 0.2:
            del content[chance.randrange(len(content)):]
        path.write_bytes(content)
        message = ""
        try:
            found = read()
        except UserError as error:
            message = str(error)
            refused += 1
        else:
            assert all(len(inputs) == len(targets) > 0 for inputs, targets in found.values())
        assert "\n" not in message
    assert refused
