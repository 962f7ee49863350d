"""Images as arrays of one shape, and trees of images in which each class has a folder."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from bench_apts.core.errors import UserError
from bench_apts.suites.readers.reader_paths import PathName, existing, read_bytes, room
from bench_apts.suites.readers.split_checks import checked, digest, held_out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from bench_apts.suites.readers.split_checks import Splits

Size = int | Sequence[int] | None

FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP")
"""By content: some other formats of Pillow start programs."""

DAMAGED = (OSError, SyntaxError, ValueError, EOFError, MemoryError, RuntimeError,
           Image.DecompressionBombError, Image.DecompressionBombWarning)
"""What Pillow raises for images that are damaged, or that claim to be very large."""

_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")


@dataclass
class Shape:
    """The common shape of images; the first image settles what is None.

    ``size`` is height and width, ``resize`` whether images of other sizes are resized to it.
    """

    size: tuple[int, int] | None
    channels: int | None
    resize: bool
    _gray_only: bool = False

    @classmethod
    def of(cls, size: Size, channels: int | None) -> Shape:
        """Return the shape for the options ``size`` and ``channels`` of a reader."""
        pair = (size, size) if isinstance(size, int) else size
        if pair is not None and not (len(pair) == 2 and all(
                isinstance(n, int) and 0 < n <= 2**14 for n in pair)):
            raise UserError(f"size = {size!r}: expected a number of pixels, or [height, width]")
        if channels not in (None, 1, 3):
            raise UserError(f"channels = {channels!r}: expected 1 (gray) or 3 (RGB)")
        return cls(None if pair is None else (pair[0], pair[1]), channels, pair is not None)

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return an image as uint8 ``(C, H, W)``.

        Raises:
            ValueError: It has more than 8 bits, or another shape than the first one.
        """
        if image.mode not in _EIGHT_BITS:
            raise ValueError(f"its mode {image.mode} is not one of 8 bits a channel")
        gray = image.mode in ("1", "L", "LA")
        if self.channels is None:
            self.channels, self._gray_only = (1, True) if gray else (3, False)
        if self._gray_only and not gray:
            raise ValueError("coloured, where the first one is gray: give the option channels")
        image = image.convert("L" if self.channels == 1 else "RGB")
        height, width = self.size = self.size or (image.height, image.width)
        if image.size != (width, height):
            if not self.resize:
                raise ValueError(f"{image.width}x{image.height} pixels where the first one has "
                                 f"{width}x{height}: give the option size")
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(height, width, self.channels).transpose(2, 0, 1)


class Stack:
    """Fills an array with images, and reports all those that cannot be used in one message."""

    def __init__(self, number: int, shape: Shape, where: object):
        """Expect ``number`` images of ``shape``; ``where`` names their file or folder."""
        self._number, self._shape, self._where = number, shape, where
        self._array: NDArray[np.uint8] | None = None
        self._filled = 0
        self._failed: list[str] = []

    def put(self, row: int, image: Image.Image | bytes, name: object) -> None:
        """Decode an image or its encoded content into a row; a failure is kept for ``finish``."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                if isinstance(image, bytes):
                    with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
                        pixels = self._shape.pixels(opened)
                else:
                    pixels = self._shape.pixels(image)
        except DAMAGED as error:
            self.fail(name, error)
            return
        if self._array is None:
            self._array = room((self._number, *pixels.shape), np.uint8, self._where)
        self._array[row] = pixels
        self._filled += 1

    def fail(self, name: object, error: BaseException) -> None:
        """Keep for ``finish`` that an image cannot be used."""
        unknown = isinstance(error, UnidentifiedImageError)
        self._failed.append(f"{name} ({'not an image' if unknown else error})")

    def finish(self) -> NDArray[np.uint8]:
        """Return the images, uint8 ``(n, C, H, W)``.

        Raises:
            UserError: Some could not be decoded, or there are fewer than expected.
        """
        if self._failed:
            raise UserError(f"{self._where}: {len(self._failed)} of {self._number} images cannot "
                            f"be used: {', '.join(self._failed[:3])}"
                            f"{' …' if len(self._failed) > 3 else ''}; replace or remove them")
        if self._array is None or self._filled != self._number:
            raise UserError(f"{self._where} has {self._filled} images where {self._number} were "
                            "announced; fetch its files again")
        return self._array


SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those of torchvision's ImageFolder."""

FOLDERS = {"train": ("train", "training"), "validation": ("val", "valid", "validation"),
           "test": ("test", "testing")}


def imagefolder(folder: PathName, size: Size = None, channels: int = 3, test_share: float = 0.2,
                data_dir: PathName | None = None) -> Splits:
    """Read a tree of images, in which each class has a folder.

    The tree has the folders ``train`` and ``test`` or ``val`` with the classes in them; of
    ``test`` and ``val`` the second is the validation split if there are both. A tree of classes
    alone is divided by the files' content. Classes are numbered in the sorted order of their
    names, as by torchvision's ImageFolder; hidden files and folders are ignored.

    Args:
        folder: The tree.
        size: Height and width in pixels, one number for both, to which all images are resized
            (bilinear); needed if they are not equally large.
        channels: 3 (RGB) or 1 (gray).
        test_share: Of a tree without splits; more than 0 and less than 1.
        data_dir: Where relative paths are looked for before the working directory.

    Returns:
        The splits: inputs uint8 ``(n, C, H, W)``, targets int64 ``(n,)``.

    Raises:
        UserError: A folder is missing or empty, or an image is damaged or not as large as others.
    """
    root = existing(folder, data_dir, folder=True)
    found = {part: next((root / name for name in names if (root / name).is_dir()), None)
             for part, names in FOLDERS.items()}
    trees = {part: tree for part, tree in found.items() if tree}
    if trees and "train" not in trees:
        raise UserError(f"{root} has {', '.join(tree.name for tree in trees.values())} but no "
                        "folder train; add it, or name a folder that holds classes alone")
    classes = _classes(trees.get("train", root))
    files = {part: list(_files(tree, classes)) for part, tree in (trees or {"": root}).items()}
    if len(files) == 1:
        (every,) = files.values()
        keys = np.array([digest(read_bytes(path)) for path, _ in every], dtype=np.uint64)
        test = held_out(keys, np.array([label for _, label in every]), test_share)
        files = {part: [every[row] for row in np.flatnonzero(test == (part == "test"))]
                 for part in ("train", "test")}
    elif "test" not in files:
        files["test"] = files.pop("validation")
    shape = Shape.of(size, channels)
    splits: Splits = {}
    for part, chosen in files.items():
        stack = Stack(len(chosen), shape, root)
        for row, (path, _) in enumerate(chosen):
            stack.put(row, read_bytes(path), path.relative_to(root))
        splits[part] = stack.finish(), np.array([label for _, label in chosen], dtype=np.int64)
    return checked(splits, root)


def _classes(tree: Path) -> list[str]:
    """Return the names of a tree's classes in their order."""
    names = sorted(entry.name for entry in tree.iterdir()
                   if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(f"{tree} has no folders of classes; put the images of each class into a "
                        "folder of its own")
    return names


def _files(tree: Path, classes: list[str]) -> Iterator[tuple[Path, int]]:
    """Yield the images of a tree with their classes, in torchvision's order."""
    for name in _classes(tree):
        if name not in classes:
            raise UserError(f"{tree / name} is a class that the training folder lacks; add it "
                            "there, or remove it here")
        paths = [Path(place, file) for place, _, names in sorted(os.walk(tree / name))
                 for file in sorted(names)
                 if file.lower().endswith(SUFFIXES) and not file.startswith(".")]
        if not paths:
            raise UserError(f"{tree / name} has no images ({', '.join(SUFFIXES)}); add some, or "
                            "remove the folder")
        yield from ((path, classes.index(name)) for path in paths)
