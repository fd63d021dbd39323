"""Image data sets as tensors on one device: scikit-learn's digits (no download), MNIST and Fashion-MNIST."""

import hashlib
import math
import os
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tensornet_interp.checks import check_bool, check_choice, check_labels
from tensornet_interp.disk import open_file
from tensornet_interp.optional import optional

DIGITS_SPLIT_SEED = 0
DIGITS_TEST_SIZE = 360  # of 1,797

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"

# An unpacked file has the md5 of the content of the published archive.
MD5 = {
    "mnist": {
        f"{TRAIN_IMAGES}.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        f"{TRAIN_LABELS}.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        f"{TEST_IMAGES}.gz": "9fb629c4189551a2d022fa330f9573f3",
        f"{TEST_LABELS}.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        TRAIN_IMAGES: "6bbc9ace898e44ae57da46a324031adb",
        TRAIN_LABELS: "a25bea736e30d166cdddb491f175f624",
        TEST_IMAGES: "2646ac647ad5339dbf082846283269ea",
        TEST_LABELS: "27ae3e4e09519cfbb04c329615203637",
    },
    "fashion_mnist": {
        f"{TRAIN_IMAGES}.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        f"{TRAIN_LABELS}.gz": "25c81989df183df01b3e8a0aad5dffbe",
        f"{TEST_IMAGES}.gz": "bef4ecab320f06d8554ea6380940ec79",
        f"{TEST_LABELS}.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        TRAIN_IMAGES: "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        TRAIN_LABELS: "9018921c3c673c538a1fc5bad174d6f9",
        TEST_IMAGES: "8181f5470baa50b63fa0f6fddb340f0a",
        TEST_LABELS: "15d484375f8d13e6eb1aabb0c3f46965",
    },
}
FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
URLS = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion_mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
}
CLASS_NAMES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        "T-shirt/top",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
}
LARGEST = 1 << 26  # bytes of a file
MOST_UNPACKED = 1032  # unpacked over packed size: deflate cannot do more
DATASETS = ("digits", *FOLDERS)


@dataclass(frozen=True, eq=False)  # == of tensors has no single truth value
class Dataset:
    """A `Dataset` holds images x[sample, pixel] in [0, 1], row after row, and classes y[sample] (int64)."""

    name: str
    train_x: Tensor  # (train samples, h * w)
    train_y: Tensor  # (train samples,)
    test_x: Tensor  # (test samples, h * w)
    test_y: Tensor  # (test samples,)
    shape: tuple[int, int]  # (h, w)
    class_names: tuple[str, ...]
    source: str = ""  # the origin, and how it was split

    def __post_init__(self) -> None:
        tensors = (self.train_x, self.train_y, self.test_x, self.test_y)
        devices = sorted({str(tensor.device) for tensor in tensors})
        if len(devices) > 1 or self.train_x.dtype != self.test_x.dtype:
            raise ValueError(
                f"train and test must share one device and one dtype, got devices {', '.join(devices)} and "
                f"{self.train_x.dtype}, {self.test_x.dtype}"
            )
        pixels = self.shape[0] * self.shape[1]
        for part, x, y in (("train", self.train_x, self.train_y), ("test", self.test_x, self.test_y)):
            if not x.is_floating_point() or x.ndim != 2 or x.shape[1] != pixels:
                raise ValueError(
                    f"{part}_x must be floating point of shape (samples, {pixels}) for images of {self.shape}, "
                    f"got {x.dtype} of shape {tuple(x.shape)}"
                )
            if len(x) == 0:
                raise ValueError(f"{part}_x has no samples")
            check_labels(f"{part}_y", y, samples=len(x), classes=len(self.class_names))
            bad = int((~torch.isfinite(x)).sum())
            if bad:
                raise ValueError(f"{part}_x has {bad} entries that are NaN or infinite")


def load_dataset(
    name: str,
    root: str | Path | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    download: bool = False,
) -> Dataset:
    """Return the whole data set "digits", "mnist" or "fashion_mnist" on `device`.

    "digits" is scikit-learn's bundled copy (1,797 images of 8 x 8) and needs no `root`. It is split by class with a
    fixed seed: 1,437 images to train, 360 to test. The others are read from torchvision's layout,
    `<root>/MNIST/raw/*.gz` and `<root>/FashionMNIST/raw/*.gz`, packed or unpacked. `download=True` fetches a file that
    is missing. Every file is checked against its published md5. A wrong file is an error and is never replaced.

    Raises ValueError for an unknown name, a missing root, a wrong hash or a corrupt file; FileNotFoundError for a
    missing folder or file. Memory: 4 bytes per pixel in float32, 220 MB for MNIST.

    >>> load_dataset("digits").test_x.shape
    torch.Size([360, 64])
    """
    check_choice("name", name, DATASETS)
    check_bool("download", download)
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating point dtype, got {dtype}")
    if name == "digits":
        return _digits(torch.device(device), dtype)
    if root is None:
        raise ValueError(f"root is missing: {name!r} is read from <root>/{FOLDERS[name]}/raw")
    folder = Path(root) / FOLDERS[name] / "raw"
    if not download and not Path(root).is_dir():
        raise FileNotFoundError(f"root {str(root)!r} is not a folder; give another one or download=True")
    names = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
    paths = [_find(name, folder, file, download) for file in names]
    with ExitStack() as stack:
        files = [(stack.enter_context(open_file(path)), path) for path in paths]
        for file, path in files:  # check all before the first is unpacked
            _check_md5(file, path, MD5[name][path.name])
        train_images, train_labels, test_images, test_labels = (_read_idx(file, path) for file, path in files)

    def images(array: NDArray[np.uint8], path: Path) -> Tensor:
        if array.ndim != 3:
            raise ValueError(f"{path} has {array.ndim} dimensions, images have 3")
        return torch.from_numpy(array).to(device).flatten(1).to(dtype) / 255  # (samples, h * w)

    def labels(array: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(array).to(device, torch.int64)

    return Dataset(
        name=name,
        train_x=images(train_images, paths[0]),
        train_y=labels(train_labels),
        test_x=images(test_images, paths[2]),
        test_y=labels(test_labels),
        shape=(int(train_images.shape[1]), int(train_images.shape[2])),
        class_names=CLASS_NAMES[name],
        source=f"{folder}, published split",
    )


def read_idx(path: str | Path) -> NDArray[np.uint8]:
    """Return the array in an IDX file of unsigned bytes, packed (`.gz`) or not.

    Layout: two zero bytes, the element type (8: unsigned byte), the number of dimensions, each size as a big-endian
    32-bit number, the elements. Raises ValueError, naming the file, for anything else and for bytes missing or left.
    """
    with open_file(path) as file:
        return _read_idx(file, Path(path))


def _read_idx(file: IO[bytes], path: Path) -> NDArray[np.uint8]:
    size = os.fstat(file.fileno()).st_size
    if path.suffix != ".gz":
        return _parse_idx(file.read, path, size)
    try:
        return _parse_idx(_Unpacked(file).read, path, MOST_UNPACKED * size)
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{path} is corrupt or truncated: {error}") from error


class _Unpacked:
    """Read one gzip member and refuse bytes behind it (`gzip` would read even a terabyte of zeros there)."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.stream = file, zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    def read(self, count: int) -> bytes:
        """Return 1 to `count` bytes, or none at the end, after the checksum was compared."""
        found = b""
        while not found and not self.stream.eof:
            packed = self.stream.unconsumed_tail or self.file.read(1 << 16)
            if not packed:
                raise EOFError("it ends before the packed content does")
            found = self.stream.decompress(packed, count)
        if not found and (self.stream.unused_data or self.file.read(1)):
            raise EOFError("there are bytes behind the packed content")
        return found


def _parse_idx(read: Callable[[int], bytes], path: Path, most: int) -> NDArray[np.uint8]:
    """Read as much as the header says, if that is at most `most` bytes, which the file can hold."""
    start = _take(read, 4)
    if len(start) < 4:
        raise ValueError(f"{path} is truncated: {len(start)} bytes, an IDX file starts with 4")
    zero, element, ndim = int.from_bytes(start[:2], "big"), start[2], start[3]
    if zero != 0 or element != 8 or not 1 <= ndim <= 3:
        raise ValueError(
            f"{path} is not an IDX file of unsigned bytes: it starts with 0x{start.hex()}, "
            "expected 0x00000801 (labels) to 0x00000803 (images)"
        )
    header = _take(read, 4 * ndim)
    length = 4 + 4 * ndim
    if len(header) < 4 * ndim:
        raise ValueError(
            f"{path} is truncated: {4 + len(header)} bytes, its header of {ndim} dimensions needs {length}"
        )
    sizes = tuple(int.from_bytes(header[4 * mode : 4 * mode + 4], "big") for mode in range(ndim))
    count = math.prod(sizes)
    content = _take(read, count + 1) if length + count <= most else bytearray()
    if len(content) != count:
        state = "truncated" if len(content) < count else "too long"
        bound = f"at most {most}" if path.suffix == ".gz" else most
        found = bound if length + count > most else length + len(content)
        raise ValueError(f"{path} is {state}: {found} bytes, its sizes {sizes} need {length + count}")
    return np.frombuffer(content, np.uint8).reshape(sizes)


def _take(read: Callable[[int], bytes], count: int) -> bytearray:
    """Return `count` bytes, or fewer at the end; memory grows with the bytes found, not with `count`."""
    content = bytearray()
    while len(content) < count and (piece := read(min(1 << 20, count - len(content)))):
        content += piece
    return content


def _find(name: str, folder: Path, file: str, download: bool) -> Path:
    for path in (folder / f"{file}.gz", folder / file):
        if path.is_file():
            return path
    path = folder / f"{file}.gz"
    if not download:
        raise FileNotFoundError(f"{path} is missing (and unpacked {file} too); put it there or use download=True")
    url = URLS[name] + path.name
    pooch = optional("pooch", "to download data sets")
    try:
        pooch.retrieve(url, known_hash=f"md5:{MD5[name][path.name]}", fname=path.name, path=folder)
    except OSError as error:
        raise OSError(f"could not download {url} to {path}: {error}") from error
    return path


def _check_md5(file: IO[bytes], path: Path, expected: str) -> None:
    size = os.fstat(file.fileno()).st_size
    if size > LARGEST:
        raise ValueError(f"{path} has {size} bytes, the published files have at most {LARGEST}")
    digest = hashlib.md5(usedforsecurity=False)
    while piece := file.read(1 << 20):
        digest.update(piece)
    file.seek(0)
    found = digest.hexdigest()
    if found != expected:
        raise ValueError(
            f"{path} has md5 {found}, the published one is {expected}: the file is corrupt, truncated or another one; "
            "remove it, then put the right one there or use download=True"
        )


def _digits(device: torch.device, dtype: torch.dtype) -> Dataset:
    bundle = optional("sklearn.datasets", "for the bundled digits").load_digits()
    x = torch.from_numpy(bundle.data).to(device, dtype) / 16  # (1797, 64), grey values 0 to 16
    y = torch.from_numpy(bundle.target).to(device, torch.int64)
    split = optional("sklearn.model_selection", "for the bundled digits").train_test_split
    order = np.arange(len(bundle.target))
    train, test = split(order, test_size=DIGITS_TEST_SIZE, stratify=bundle.target, random_state=DIGITS_SPLIT_SEED)
    return Dataset(
        name="digits",
        train_x=x[train],
        train_y=y[train],
        test_x=x[test],
        test_y=y[test],
        shape=(8, 8),
        class_names=tuple("0123456789"),
        source=f"scikit-learn, split by class, {DIGITS_TEST_SIZE} to test, seed {DIGITS_SPLIT_SEED}",
    )
