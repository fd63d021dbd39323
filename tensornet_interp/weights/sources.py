"""Places of checkpoints: a file, a folder or a name on the Hugging Face hub, and where one of its files is."""

import os
import re
from contextlib import suppress
from pathlib import Path, PurePosixPath

from tensornet_interp.checks import check_text, suggestion
from tensornet_interp.optional import optional

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
NUMPY = (".npz", ".npy")
FILES = (*PICKLES, *NUMPY, ".safetensors", ".json")  # no folder and no hub name ends so
HUB_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")
WEIGHTS, SHARDS, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
Source = str | os.PathLike[str]


def folder_of(source: Source, subfolder: str) -> Path:
    """Return the folder of a checkpoint, for messages and names; of a hub name, without its revision."""
    path, folder = Path(os.path.abspath(source)), inside(source, subfolder)
    if path.exists():
        return path.parent if path.is_file() else path / folder
    return Path(os.path.abspath(os.path.join(str(source).partition("@")[0], folder)))


def title(source: Source, subfolder: str) -> str:
    """Return the last part of the path or of the hub name, which names what is loaded from there."""
    return os.path.basename(os.path.abspath(source)) if not subfolder else folder_of(source, subfolder).name


def locate(source: Source, file: str, subfolder: str = "", *, cached: bool = False) -> Path:
    """Return the path of one file of a checkpoint; a file on the hub is downloaded into the cache of the hub.

    cached: if True, only this cache is searched, and nothing is downloaded.
    """
    path, folder = Path(source), inside(source, subfolder)
    if path.exists() and not path.is_dir():
        path = path.parent
    if path.is_dir():
        path = path / folder
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is missing{near(path)}")
        if not (path / file).exists():
            raise FileNotFoundError(f"{path / file} is missing")
        return path / file
    if path.suffix.lower() in FILES:
        raise FileNotFoundError(f"{path} is missing{near(path)}")
    match = HUB_NAME.fullmatch(source) if isinstance(source, str) else None
    if match is None:
        raise FileNotFoundError(
            f"{str(source)!r} is neither a folder nor a safetensors file here, nor a hub name 'owner/name'{near(path)}"
        )
    if path.parent.is_dir() and match["revision"] is None:
        raise FileNotFoundError(
            f"{path} is missing from the folder {str(path.parent)!r} here{near(path)}; for the hub's {source!r}, pass "
            f"'{source}@main'"
        )
    named = f"{subfolder}/{file}".removeprefix("/")
    hub, errors = (
        optional(module, f"for a hub name, and {source!r} is no folder here (or pass a folder)", extra="hub")
        for module in ("huggingface_hub", "huggingface_hub.errors")
    )
    try:
        found = hub.hf_hub_download(
            match["repo"], file, subfolder=subfolder or None, revision=match["revision"], local_files_only=cached
        )
        return Path(found)
    except Exception as error:  # the client has many kinds, not all of one family
        absent = (errors.EntryNotFoundError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError)
        if isinstance(error, absent) and not isinstance(error, errors.LocalEntryNotFoundError):
            raise FileNotFoundError(
                f"{source!r} is no folder here, and the hub has no {named} there or denies access: {error}"
            ) from error
        raise ConnectionError(
            f"{source!r} is no folder here, and the hub could not be reached for its {named}: copy the "
            f"checkpoint's files ({CONFIG}, {WEIGHTS} or the shards with their index) to a folder and pass it; {error}"
        ) from error


def inside(source: Source, subfolder: str) -> str:
    """Return the subfolder; raise ValueError if it leads out of its source."""
    path = PurePosixPath(check_text("subfolder", subfolder, empty=True))
    if path.is_absolute() or ".." in path.parts or "\\" in subfolder:
        raise ValueError(f"subfolder must be a path like 'a/b' inside of source, got {subfolder!r}")
    if subfolder and Path(source).is_file():
        raise ValueError(f"subfolder must be '' for a file, got {subfolder!r} with {str(source)!r}")
    return str(path)


def near(path: Path) -> str:
    """Return a suggestion if the folder of a missing path has a similar name."""
    with suppress(OSError):
        return suggestion(path.name, (beside.name for beside in path.parent.iterdir()))
    return ""
