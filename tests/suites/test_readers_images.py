"""Trees of images: two hundred real JPEGs, and everything that people's folders hold besides."""

import io
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from bench_apts.core.errors import UserError
from bench_apts.suites.readers import imagefolder, reader_paths
from bench_apts.suites.readers.image_files import Shape, Stack

CLASSES = ("cat", "dog", "owl", "pig")


def write(folder, number, seed, size=(20, 16), suffix="jpg", mode="RGB"):
    """Writes ``number`` images of random colour into the folders of the classes."""
    rng = np.random.default_rng(seed)
    for i in range(number):
        place = folder / CLASSES[i % len(CLASSES)]
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(place / f"{i:03d}.{suffix}")


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jpegs")
    write(folder / "train", 160, 0)
    write(folder / "test", 40, 1)
    return folder


@pytest.fixture
def tree(jpegs, tmp_path):
    return shutil.copytree(jpegs, tmp_path / "tree")


def test_a_tree_reads_as_torchvisions_imagefolder_does(jpegs):
    from torchvision.datasets import ImageFolder

    found = imagefolder(str(jpegs))
    assert list(found) == ["train", "test"]
    for part, (inputs, targets) in found.items():
        theirs = ImageFolder(str(jpegs / part))
        assert inputs.dtype == np.uint8
        assert targets.dtype == np.int64
        assert inputs.shape == (len(theirs), 3, 16, 20)
        for row in (0, 7, len(theirs) - 1):
            image, label = theirs[row]
            assert np.array_equal(inputs[row], np.asarray(image).transpose(2, 0, 1))
            assert targets[row] == label


def test_val_is_the_test_split_unless_there_are_both(tree):
    (tree / "test").rename(tree / "val")
    assert len(imagefolder(tree)["test"][0]) == 40
    write(tree / "test", 8, 2)
    found = imagefolder(tree)
    assert {part: len(pair[0]) for part, pair in found.items()} == {
        "train": 160, "validation": 40, "test": 8}


def test_a_tree_of_classes_is_divided_by_content(jpegs, tree):
    before = imagefolder(tree / "train")
    assert {part: len(pair[0]) for part, pair in before.items()} == {"train": 128, "test": 32}
    assert np.array_equal(np.bincount(before["test"][1]), [8] * 4)
    for path in list((tree / "train").glob("*/*.jpg")):
        path.rename(path.with_name(f"{(int(path.stem) * 77) % 1000}.jpeg"))
    after = imagefolder(tree / "train")

    def rows(splits):
        return sorted(row.tobytes() for row in splits["test"][0])

    assert rows(after) == rows(before)
    shutil.rmtree(tree / "test")
    assert rows(imagefolder(tree)) == rows(before)


def test_images_beyond_memory_lie_on_the_disk(jpegs, monkeypatch):
    expected = imagefolder(jpegs)
    monkeypatch.setattr(reader_paths, "memory_bytes", lambda: 100_000)
    found = imagefolder(jpegs)
    assert isinstance(found["train"][0], np.memmap)
    assert not isinstance(expected["train"][0], np.memmap)
    assert np.array_equal(found["train"][0], expected["train"][0])


def test_unequal_images_need_a_size(tree):
    Image.new("RGB", (31, 9)).save(tree / "train" / "cat" / "wide.png")
    with pytest.raises(UserError, match=r"wide\.png .*31x9.* size"):
        imagefolder(tree)
    assert imagefolder(tree, size=8)["train"][0].shape == (161, 3, 8, 8)
    assert imagefolder(tree, size=[8, 12])["test"][0].shape == (40, 3, 8, 12)
    for wrong in (0, [3], [3, 2, 1], "8", 2**20):
        with pytest.raises(UserError, match="size"):
            imagefolder(tree, size=wrong)
    with pytest.raises(UserError, match="channels"):
        imagefolder(tree, channels=2)


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "RGBA", "CMYK"])
def test_modes_of_eight_bits_become_rgb_or_gray(tmp_path, mode):
    suffix = "tiff" if mode == "CMYK" else "png"
    write(tmp_path, 20, 3, suffix=suffix, mode=mode)
    first = min((tmp_path / "cat").iterdir())
    with Image.open(first) as image:
        assert image.mode == mode
        expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    found = imagefolder(tmp_path)
    every = np.concatenate([found["train"][0], found["test"][0]])
    assert (every == expected).all(axis=(1, 2, 3)).any()
    assert imagefolder(tmp_path, channels=1)["train"][0].shape[1] == 1


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_rows_without_an_image_are_never_returned(rows):
    stack = Stack(3, Shape.of(None, None), "file")
    for row in range(rows):
        stack.put(row, Image.new("RGB", (4, 5)), row)
    with pytest.raises(UserError, match=f"{rows} images where 3"):
        stack.finish()


def test_hidden_and_other_files_are_passed_over(tree):
    (tree / "train" / "cat" / "notes.txt").write_text("x")
    (tree / "train" / "cat" / "._001.jpg").write_text("x")
    (tree / "train" / ".ipynb_checkpoints").mkdir()
    assert len(imagefolder(tree)["train"][0]) == 160


def bomb():
    """A PNG whose header claims 40,000 x 40,000 pixels."""
    def chunk(kind, content):
        return (struct.pack(">I", len(content)) + kind + content
                + struct.pack(">I", zlib.crc32(kind + content)))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2,
                                                               0, 0, 0))
            + chunk(b"IDAT", zlib.compress(bytes(1_000))) + chunk(b"IEND", b""))


def sixteen_bits():
    file = io.BytesIO()
    Image.fromarray(np.full((16, 20), 40_000, np.uint16)).save(file, "PNG")
    return file.getvalue()


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 16\n%%EndComments\n"


@pytest.mark.parametrize("content", [b"", b"no image", bomb(), sixteen_bits(), POSTSCRIPT],
                         ids=["empty", "text", "bomb", "16 bits", "postscript"])
def test_what_is_no_image_of_eight_bits_is_named(tree, content):
    (tree / "test" / "dog" / "bad.png").write_bytes(content)
    with pytest.raises(UserError, match=r"1 of 41 images .*test/dog/bad\.png"):
        imagefolder(tree)


def test_all_damaged_images_are_named_at_once(tree):
    for path in sorted((tree / "train" / "dog").iterdir())[:5]:
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"5 of 160 images .*001\.jpg.*005\.jpg.*009\.jpg.*…") as e:
        imagefolder(tree)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(("change", "token"), [
    (lambda tree: shutil.rmtree(tree), "no folder there"),
    (lambda tree: shutil.rmtree(tree / "train"), "no folder train"),
    (lambda tree: shutil.copytree(tree / "test" / "cat", tree / "test" / "yak"), "yak"),
    (lambda tree: (tree / "train" / "yak").mkdir(), "yak has no images"),
    (lambda tree: [shutil.rmtree(tree / "train" / name) for name in CLASSES], "no folders"),
], ids=["missing", "no train", "class of test alone", "empty class", "no classes"])
def test_trees_of_another_form_are_refused(tree, change, token):
    change(tree)
    with pytest.raises(UserError, match=token):
        imagefolder(tree)


def test_the_same_image_in_both_splits_is_noticed(tree):
    source = next((tree / "train" / "owl").iterdir())
    shutil.copy(source, tree / "test" / "owl" / "again.jpg")
    with pytest.warns(UserWarning, match="1 of the 41 samples in test"):
        imagefolder(tree)
