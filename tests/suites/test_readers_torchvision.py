"""torchvision's data sets from files of their layouts, without a network."""

import hashlib
import pickle
import struct

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from bench_apts.core.errors import UserError
from bench_apts.suites.readers import torchvision
from bench_apts.suites.readers.torchvision_data import only_arrays


def idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
                     + array.astype(np.uint8).tobytes())


def write_idx(folder, halves, stems=("train", "t10k")):
    for stem, (x, y) in zip(stems, halves, strict=True):
        idx(folder / f"{stem}-images-idx3-ubyte", x[:, 0])
        idx(folder / f"{stem}-labels-idx1-ubyte", y)


def write_images(folder, classes, number, seed):
    rng = np.random.default_rng(seed)
    for i in range(number):
        place = folder / classes[i % len(classes)]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(
            place / f"{seed}-{i}.jpeg")


@pytest.mark.parametrize("name", ["FashionMNIST", "MNIST", "KMNIST"])
def test_idx_files_of_fashion_mnist_and_its_kind(mini, tmp_path, name):
    write_idx(tmp_path / name / "raw", mini.mnist)
    found = torchvision(name, str(tmp_path), offline=True)
    for part, (x, y) in zip(("train", "test"), mini.mnist, strict=True):
        assert found[part][0].dtype == np.uint8
        assert np.array_equal(found[part][0], x)
        assert np.array_equal(found[part][1], y)
    assert torchvision(name, tmp_path, offline=True, size=8, channels=3)["test"][0].shape == (
        8, 3, 8, 8)


def test_arguments_reach_the_class_and_its_bases(mini, tmp_path):
    write_idx(tmp_path / "EMNIST" / "raw", mini.mnist,
              ("emnist-digits-train", "emnist-digits-test"))
    found = torchvision("EMNIST", tmp_path, offline=True, options={"split": "digits"})
    assert [len(pair[0]) for pair in found.values()] == [20, 8]
    with pytest.raises(UserError, match="unknown argument 'splitt'"):
        torchvision("EMNIST", tmp_path, offline=True, options={"splitt": "digits"})
    with pytest.raises(UserError, match="EMNIST"):
        torchvision("EMNIST", tmp_path, offline=True)


def test_a_class_without_splits_is_divided_by_content(tmp_path):
    write_images(tmp_path / "eurosat" / "2750", ["Forest", "River"], 40, 0)
    found = torchvision("EuroSAT", tmp_path, offline=True, test_share=0.25)
    assert found["train"][0].shape == (30, 3, 6, 8)
    assert np.array_equal(np.bincount(found["test"][1]), [5, 5])


def test_val_is_the_test_split_where_there_is_no_other(tmp_path):
    classes = ["n01440764", "n02102040"]
    write_images(tmp_path / "imagenette2" / "train", classes, 12, 0)
    write_images(tmp_path / "imagenette2" / "val", classes, 6, 1)
    found = torchvision("Imagenette", tmp_path, offline=True)
    assert [len(pair[0]) for pair in found.values()] == [12, 6]
    image = tmp_path / "imagenette2" / "val" / classes[1] / "1-1.jpeg"
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(UserError, match="1 of 6 images"):
        torchvision("Imagenette", tmp_path, offline=True)


@pytest.fixture
def adopt(monkeypatch):
    """Writes files of CIFAR and makes their md5 the published one."""
    def write(kind, folder, contents):
        folder.mkdir(parents=True, exist_ok=True)
        sums = {}
        for name, content in contents.items():
            (folder / name).write_bytes(content)
            sums[name] = hashlib.md5(content).hexdigest()
        for key in ("train_list", "test_list"):
            monkeypatch.setattr(kind, key, [[name, sums.get(name, "")]
                                            for name, _ in getattr(kind, key)])
        monkeypatch.setattr(kind, "meta", kind.meta | {"md5": sums.get(kind.meta["filename"])})

    return write


def test_cifar10_is_read_as_published(mini, write_batches, adopt, tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    write_batches(folder, mini.cifar10)
    adopt(datasets.CIFAR10, folder,
          {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
          | {"batches.meta": pickle.dumps({"label_names": [str(i) for i in range(10)]}, 2)})
    found = torchvision("CIFAR10", tmp_path, offline=True)
    for part, (x, y) in zip(("train", "test"), mini.cifar10, strict=True):
        assert np.array_equal(found[part][0], x)
        assert np.array_equal(found[part][1], y)
    (folder / "test_batch").write_bytes(b"another")
    with pytest.raises(UserError, match="CIFAR10"):
        torchvision("CIFAR10", tmp_path, offline=True)


class Harmful:
    def __reduce__(self):
        return (open, ("harmed", "w"))


def cifar100(mini, **changed):
    (x, y), (test_x, test_y) = mini.cifar10
    entries = {"train": {"data": x.reshape(len(x), -1), "fine_labels": y.tolist()},
               "test": {"data": test_x.reshape(len(test_x), -1), "fine_labels": test_y.tolist()},
               "meta": {"fine_label_names": [str(i) for i in range(10)]}} | changed
    return {name: pickle.dumps(entry, protocol=2) for name, entry in entries.items()}


def test_other_pickles_may_hold_arrays_only(mini, adopt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cifar-100-python"
    adopt(datasets.CIFAR100, folder, cifar100(mini))
    found = torchvision("CIFAR100", tmp_path, offline=True)
    assert np.array_equal(found["train"][0], mini.cifar10[0][0])
    adopt(datasets.CIFAR100, folder, cifar100(mini, test=Harmful()))
    with pytest.raises(UserError, match=r"pickle .*\.open"):
        torchvision("CIFAR100", tmp_path, offline=True)
    assert not (tmp_path / "harmed").exists()


def test_pickles_are_watched_in_the_block_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps(Harmful())
    with pytest.raises(UserError), only_arrays():
        pickle.loads(content)
    assert not (tmp_path / "harmed").exists()
    pickle.loads(content).close()
    assert (tmp_path / "harmed").exists()
    with only_arrays():
        assert np.array_equal(pickle.loads(pickle.dumps(np.arange(3))), np.arange(3))


@pytest.mark.parametrize("name", ["FashionMNIST", "CIFAR10", "EuroSAT", "SVHN", "ImageNet"])
def test_missing_files_offline_say_where_to_put_them(tmp_path, name):
    with pytest.raises(UserError, match=f"{name} in {tmp_path}.* put its files") as refused:
        torchvision(name, tmp_path, offline=True)
    assert "\n" not in str(refused.value)


def test_a_download_that_fails_ends_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")
    for name in ("FashionMNIST", "CIFAR10"):
        with pytest.raises(UserError, match=name) as refused:
            torchvision(name, tmp_path)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("change", [
    lambda content: b"", lambda content: content[:-1], lambda content: content[:9],
    lambda content: b"\1" + content[1:], lambda content: content[:4] + b"\x7f" * 12,
    lambda content: content[:2] + b"\x0d" + content[3:]],
    ids=["empty", "short", "header cut", "magic", "sizes of a bomb", "floats"])
def test_damaged_idx_files_are_refused(mini, tmp_path, change):
    folder = tmp_path / "FashionMNIST" / "raw"
    write_idx(folder, mini.mnist)
    path = folder / "t10k-images-idx3-ubyte"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match="FashionMNIST"):
        torchvision("FashionMNIST", tmp_path, offline=True)


@pytest.mark.parametrize(("images", "labels"), [(20, 19), (19, 20)])
def test_labels_and_images_of_unequal_number_are_refused(mini, tmp_path, images, labels):
    (x, y), test = mini.mnist
    write_idx(tmp_path / "FashionMNIST" / "raw", ((x[:images], y[:labels]), test))
    with pytest.raises(UserError, match=f"{images} images but {labels} targets"):
        torchvision("FashionMNIST", tmp_path, offline=True)


@pytest.mark.parametrize(("name", "token"), [
    ("FashionMnist", "FashionMNIST"), ("VisionDataset", "Known"), ("vision", "Known"),
    ("os", "Known")])
def test_names_that_are_no_data_sets_are_refused(tmp_path, name, token):
    with pytest.raises(UserError, match=token):
        torchvision(name, tmp_path)


def test_samples_of_another_form_are_refused(tmp_path):
    (tmp_path / "MovingMNIST").mkdir()
    np.save(tmp_path / "MovingMNIST" / "mnist_test_seq.npy", np.zeros((20, 3, 8, 8), np.uint8))
    with pytest.raises(UserError, match="Tensor"):
        torchvision("MovingMNIST", tmp_path, offline=True, options={"split": None})
