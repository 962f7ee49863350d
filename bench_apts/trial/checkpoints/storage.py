"""torch.distributed.checkpoint's files without its pickled metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.checkpoint.filesystem import (
    FileSystemReader,
    FileSystemWriter,
    _StorageInfo,
)
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from bench_apts.trial.checkpoints.checkpoint import Place

if TYPE_CHECKING:
    from pathlib import Path

    from torch.distributed.checkpoint.storage import WriteResult


class Writer(FileSystemWriter):
    """Writes one rank's tensors, each by ``torch.save``, and keeps where they are.

    Attributes:
        places: By name, once the tensors are written: what torch would have pickled.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.places: dict[str, Place] = {}

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Collects the places."""
        for result in (result for each in results for result in each):
            told: Any = metadata.state_dict_metadata[result.index.fqn]
            stored = result.storage_data
            self.places[result.index.fqn] = Place(
                str(told.properties.dtype).removeprefix("torch."), list(told.size),
                stored.relative_path, stored.offset, stored.length)


class Reader(FileSystemReader):
    """Reads tensors with ``weights_only``, from the places that a ``Writer`` kept."""

    def __init__(self, folder: Path, places: dict[str, Place]) -> None:
        super().__init__(folder)
        self._places = places

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Makes the metadata from the places; reads no file."""
        described: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
        stored = {}
        for name, place in self._places.items():
            shape = torch.Size(place.shape)
            first = torch.Size([0] * len(shape))
            described[name] = TensorStorageMetadata(
                TensorProperties(dtype=getattr(torch, place.dtype)), shape,
                [ChunkStorageMetadata(first, shape)])
            stored[MetadataIndex(name, first)] = _StorageInfo(
                place.file, place.offset, place.length)
        return Metadata(state_dict_metadata=described, storage_data=stored)
