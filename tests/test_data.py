"""Data sets come whole and checked; a broken, missing or foreign file is an error that names it."""

import gzip
import hashlib
import importlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from models import data
from models.data import Dataset, load_dataset, read_idx

ROOT = os.environ.get("TENSORNET_DATA")
real = pytest.mark.skipif(ROOT is None, reason="set TENSORNET_DATA to a folder with MNIST/raw and FashionMNIST/raw")


def idx(array, element=8, sizes=None):
    sizes = array.shape if sizes is None else sizes
    return bytes([0, 0, element, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes) + array.tobytes()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A Fashion-MNIST of 5 + 4 images of 3 x 2 in torchvision's layout, its hashes known."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    hashes = {}
    arrays = {}
    for images, labels, count in (
        (data.TRAIN_IMAGES, data.TRAIN_LABELS, 5),
        (data.TEST_IMAGES, data.TEST_LABELS, 4),
    ):
        arrays[images] = rng.integers(0, 256, (count, 3, 2), dtype=np.uint8)
        arrays[labels] = rng.integers(0, 10, count, dtype=np.uint8)
    for name, array in arrays.items():
        for file, content in ((name, idx(array)), (f"{name}.gz", gzip.compress(idx(array), mtime=0))):
            hashes[file] = hashlib.md5(content).hexdigest()
            if file.endswith(".gz"):
                (folder / file).write_bytes(content)
    monkeypatch.setitem(data.MD5, "fashion_mnist", hashes)
    return tmp_path, arrays


@pytest.mark.parametrize("unpack", [False, True])
def test_files_are_read_as_they_are(tiny, unpack):
    root, arrays = tiny
    if unpack:
        for path in list((root / "FashionMNIST" / "raw").iterdir()):
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    dataset = load_dataset("fashion_mnist", root, dtype=torch.float64)
    assert dataset.shape == (3, 2)
    expected = torch.from_numpy(arrays[data.TRAIN_IMAGES]).double().reshape(5, 6) / 255
    assert torch.equal(dataset.train_x, expected)
    assert dataset.test_y.tolist() == arrays[data.TEST_LABELS].tolist()
    assert dataset.train_y.dtype == torch.int64


def test_digits_are_split_by_class_the_same_way_every_time():
    pytest.importorskip("sklearn")
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = load_dataset("digits"), load_dataset("digits", dtype=torch.float64)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert (first.train_x.shape, first.test_x.shape) == ((1437, 64), (360, 64))
    assert torch.equal(first.test_x.double(), second.test_x)
    assert first.train_x.min() == 0
    assert first.train_x.max() == 1
    assert "seed 0" in first.source
    counts = torch.bincount(first.test_y)
    assert counts.min() >= 34
    assert counts.max() <= 37
    # nothing is lost and nothing is in both parts: the 1,797 images are all different
    assert len(torch.unique(torch.cat([first.train_x, first.test_x]), dim=0)) == 1797


@real
@pytest.mark.parametrize(("name", "mean"), [("mnist", 0.1307), ("fashion_mnist", 0.2860)])
def test_real_data_match_their_published_mean(name, mean):
    dataset = load_dataset(name, ROOT)
    assert (dataset.train_x.shape, dataset.test_x.shape) == ((60000, 784), (10000, 784))
    assert dataset.train_x.mean().item() == pytest.approx(mean, abs=1e-4)
    assert torch.bincount(dataset.test_y).sum() == 10000
    assert len(dataset.class_names) == 10


def test_pooch_downloads_only_when_asked_and_absent(tiny, monkeypatch):
    pooch = pytest.importorskip("pooch")
    root, _ = tiny
    path = root / "FashionMNIST" / "raw" / f"{data.TEST_LABELS}.gz"
    content = path.read_bytes()
    path.unlink()
    calls = []

    def retrieve(url, known_hash, fname, path):
        calls.append((url, known_hash))
        (Path(path) / fname).write_bytes(content)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(FileNotFoundError, match=r"t10k-labels-idx1-ubyte.gz is missing .* download=True"):
        load_dataset("fashion_mnist", root)
    assert calls == []
    load_dataset("fashion_mnist", root, download=True)
    expected = data.MD5["fashion_mnist"][path.name]
    assert calls == [(data.URLS["fashion_mnist"] + path.name, f"md5:{expected}")]

    def offline(url, known_hash, fname, path):
        raise ConnectionError("no route")

    path.unlink()
    monkeypatch.setattr(pooch, "retrieve", offline)
    with pytest.raises(OSError, match=r"could not download http://.*t10k-labels.* no route"):
        load_dataset("fashion_mnist", root, download=True)


def test_a_missing_extra_says_how_to_install_it(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r"scikit-learn is needed for the bundled digits: pip install scikit-learn"):
        load_dataset("digits")


def with_bytes(root, name, change):
    path = root / "FashionMNIST" / "raw" / name
    path.write_bytes(change(path.read_bytes()))
    return load_dataset("fashion_mnist", root, download=True)


BAD_FOLDERS = {
    "name": (lambda root: load_dataset("minst", root), ValueError, "name must be one of digits, .*mnist.*'minst'"),
    "no root": (
        lambda root: load_dataset("mnist"),
        ValueError,
        "root is missing: 'mnist' is read from <root>/MNIST/raw",
    ),
    "root": (lambda root: load_dataset("mnist", root / "no"), FileNotFoundError, "root '.*no' is not a folder"),
    "file": (lambda root: load_dataset("mnist", root), FileNotFoundError, "train-images-idx3-ubyte.gz is missing"),
    "dtype": (lambda root: load_dataset("digits", dtype=torch.int64), ValueError, "dtype must be .*, got torch.int64"),
    "download": (lambda root: load_dataset("mnist", root, download=1), TypeError, "download must be True or False"),
    "hash": (
        lambda root: with_bytes(root, f"{data.TEST_IMAGES}.gz", lambda content: content[:-1]),
        ValueError,
        "t10k-images-idx3-ubyte.gz has md5 [0-9a-f]{32}, the published one is [0-9a-f]{32}: the file is corrupt",
    ),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folders(case, tiny):
    call, kind, message = BAD_FOLDERS[case]
    with pytest.raises(kind, match=message):
        call(tiny[0])


IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
BAD_FILES = {
    "empty": ("a", b"", "a is truncated: 0 bytes"),
    "magic": ("a", b"\x89PNG" + bytes(20), "a is not an IDX file of unsigned bytes: it starts with 0x89504e47"),
    "element": ("a", idx(IMAGES, element=13), "it starts with 0x00000d03"),
    "dimensions": ("a", idx(IMAGES, sizes=()), "it starts with 0x00000800"),
    "header": ("a", idx(IMAGES)[:10], "a is truncated: 10 bytes, its header of 3 dimensions needs 16"),
    "short": ("a", idx(IMAGES)[:-1], r"a is truncated: 39 bytes, its sizes \(2, 3, 4\) need 40"),
    "long": ("a", idx(IMAGES) + b"x", r"a is too long: 41 bytes, its sizes \(2, 3, 4\) need 40"),
    "huge": (
        "a",
        idx(IMAGES, sizes=(2**32 - 1,) * 3),
        "a is truncated: 40 bytes, its sizes .* need 79228162458924105385300197391",
    ),
    "no gzip": ("a.gz", idx(IMAGES), "a.gz is corrupt or truncated"),
    "short gzip": ("a.gz", gzip.compress(idx(IMAGES))[:-9], "a.gz is corrupt or truncated"),
    "bad gzip": (
        "a.gz",
        gzip.compress(idx(IMAGES))[:-8] + bytes(8),
        "a.gz is corrupt .*incorrect data check",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(case, tmp_path):
    name, content, message = BAD_FILES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path / name)


def test_read_idx_gives_what_was_written(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(IMAGES)))
    assert np.array_equal(read_idx(tmp_path / "a.gz"), IMAGES)


def dataset(**changes):
    fields = {
        "name": "tiny",
        "train_x": torch.zeros(5, 6),
        "train_y": torch.zeros(5, dtype=torch.int64),
        "test_x": torch.zeros(4, 6),
        "test_y": torch.ones(4, dtype=torch.int64),
        "shape": (3, 2),
        "class_names": ("a", "b"),
    }
    return Dataset(**(fields | changes))


BAD_TENSORS = {
    "pixels": ({"train_x": torch.zeros(5, 7)}, r"train_x must be .* \(samples, 6\) for images of \(3, 2\).*\(5, 7\)"),
    "integers": (
        {"train_x": torch.zeros(5, 6).byte(), "test_x": torch.zeros(4, 6).byte()},
        "train_x must be floating point.*torch.uint8",
    ),
    "labels": ({"test_y": torch.zeros(3, dtype=torch.int64)}, r"mode 'batch' has size 4 in x but 3 in test_y"),
    "range": ({"test_y": torch.full((4,), 2)}, "test_y must be classes from 0 to 1, got 2 to 2"),
    "nan": ({"train_x": torch.full((5, 6), torch.nan)}, "train_x has 30 entries that are NaN or infinite"),
    "empty": ({"test_x": torch.zeros(0, 6), "test_y": torch.zeros(0).long()}, "test_x has no samples"),
    "dtypes": ({"test_x": torch.zeros(4, 6).double()}, "one dtype, got .*torch.float32, torch.float64"),
    "devices": (
        {"test_x": torch.zeros(4, 6, device="meta")},
        "one device and one dtype, got devices cpu, meta",
    ),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_bad_tensors(case):
    changes, message = BAD_TENSORS[case]
    with pytest.raises(ValueError, match=message):
        dataset(**changes)
