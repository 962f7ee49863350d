"""Trees of images, in which each class has a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench_apts.core.errors import UserError

from .checks import checked, digest
from .divide import held_out
from .pixels import Shape, Stack
from .storage import existing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .checks import Splits
    from .pixels import Size

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those of torchvision's ImageFolder."""

FOLDERS = {"train": ("train", "training"), "validation": ("val", "valid", "validation"),
           "test": ("test", "testing")}


def imagefolder(folder: str | os.PathLike[str], size: Size = None, channels: int = 3,
                test_share: float = 0.2,
                data_dir: str | os.PathLike[str] | None = None) -> Splits:
    """Read a tree of images, in which each class has a folder.

    The tree has the folders ``train`` and ``test`` or ``val`` with the classes in them; of
    ``test`` and ``val`` the second is the validation split if there are both. A tree of classes
    alone is divided by the files' content. Classes are numbered in the sorted order of their
    names, as by torchvision's ImageFolder; hidden files and folders are passed over.

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
        keys = np.array([digest(_content(path)) for path, _ in every], dtype=np.uint64)
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
            stack.put(row, _content(path), path.relative_to(root))
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
            raise UserError(f"{tree / name} is a class that the training folder has not; add it "
                            "there, or remove it here")
        paths = [Path(place, file) for place, _, names in sorted(os.walk(tree / name))
                 for file in sorted(names)
                 if file.lower().endswith(SUFFIXES) and not file.startswith(".")]
        if not paths:
            raise UserError(f"{tree / name} has no images ({', '.join(SUFFIXES)}); add some, or "
                            "remove the folder")
        yield from ((path, classes.index(name)) for path in paths)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error

