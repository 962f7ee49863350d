"""What is known beforehand of the data sets that suites name without a source."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from bench_apts.suites.arrays import InputScaling


@dataclass(frozen=True, kw_only=True)
class KnownData(InputScaling):
    """What is known of a data set beforehand.

    ``mean`` and ``std`` are per channel, of inputs multiplied by ``scale``.

    Attributes:
        shape: Of one sample.
        samples: For training and test together.
        column: Of the images in parquet files.
        configuration: The folder of the parquet files on the Hugging Face hub.
        torchvision: The class of ``torchvision.datasets``.
        files: What to call the published files.
        folder: Where torchvision expects them.
        archive: The file that holds them all, if there is one.
        start: What the unpacked files, or the archive, begin with.
        sha256: Of the unpacked files by name.
        download_bytes: The size of what a download leaves, at most.
    """

    shape: tuple[int, ...]
    samples: int
    column: str = ""
    configuration: str = ""
    torchvision: str = ""
    files: str = ""
    folder: str = ""
    archive: str = ""
    start: re.Pattern[bytes] = re.compile(b"")
    sha256: dict[str, str] = field(default_factory=dict)
    download_bytes: int = 0


KNOWN: dict[str, KnownData] = {
    "digits": KnownData(
        shape=(64,), samples=1_797, classes=10, mean=(0.0,), std=(1.0,), scale=1.0,
        array_bytes=1_797 * (4 * 64 + 8) + 2**20),
    "mnist": KnownData(
        shape=(1, 28, 28), samples=70_000, classes=10, mean=(0.1307,), std=(0.3081,),
        scale=1 / 255, array_bytes=70_000 * (28 * 28 + 8) + 2**20,
        column="image", configuration="mnist",
        torchvision="MNIST", files="IDX files", folder="MNIST/raw",
        start=re.compile(rb"\0\0\x08[\x01\x03]"), download_bytes=70_000_000,
        sha256={
            "train-images-idx3-ubyte":
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte":
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte":
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte":
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"}),
    "cifar10": KnownData(
        shape=(3, 32, 32), samples=60_000, classes=10, mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616), scale=1 / 255,
        array_bytes=60_000 * (3 * 32 * 32 + 8) + 2**20,
        column="img", configuration="plain_text",
        torchvision="CIFAR10", files="Python batches", folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        start=re.compile(rb"\x80\x02}|(?s:.*)cifar-10-batches-py/"), download_bytes=360_000_000,
        sha256={
            "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
            "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
            "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
            "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
            "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
            "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831"}),
}

FINGERPRINTS = {
    "digits": "bc60cb899671d9b06a74b21bb869af3da0df4fb63c0d16f0aa86a8901916dbb2",
    "mnist": "f85cbee43a10570f8c591c08a5fd0a97d727150e304c82764c64e9d314111eeb",
}
"""Of the published data. CIFAR-10's parquet files come in another order than its batches."""
