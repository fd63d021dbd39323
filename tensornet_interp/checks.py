"""Checks of arguments. Every error message names the argument, gives the values and states the rule."""

import difflib
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = [
    "DEFAULT_MAX_ELEMENTS",
    "DTYPES",
    "DTYPE_NAMES",
    "check_alike",
    "check_batch",
    "check_bool",
    "check_choice",
    "check_int",
    "check_iterations",
    "check_kind",
    "check_labels",
    "check_list",
    "check_mapping",
    "check_mask",
    "check_names",
    "check_notes",
    "check_number",
    "check_path",
    "check_records",
    "check_seed",
    "check_share",
    "check_size",
    "check_tensor",
    "check_text",
    "check_whole",
    "suggestion",
]

# enough for every network and decomposition here: 8 GB of float64
DEFAULT_MAX_ELEMENTS = 10**9
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
DTYPE_NAMES = "float64, float32, bfloat16 or float16"
T = TypeVar("T")


def check_kind(name: str, value: object, kind: type[T], hint: str = "") -> T:
    """Return `value` if it is an instance of `kind`; otherwise raise TypeError, whose message ends with `hint`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}{hint}")
    return value


def check_tensor(name: str, value: object, modes: tuple[str, ...], *, finite: bool = True) -> Tensor:
    """Return `value` if it is a dense, real, floating-point tensor with one axis per mode and finite entries.

    Raises TypeError if the type, the layout or the dtype is wrong; ValueError if the number of axes is wrong, if the
    tensor is empty, or, unless `finite` is False, if an entry is NaN or infinite.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {value.layout}; give {name}.to_dense()")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be real floating point, got {value.dtype}")
    if value.dtype not in DTYPES:
        raise TypeError(f"{name} must be {DTYPE_NAMES}, got {value.dtype}")
    if value.ndim != len(modes):
        raise ValueError(f"{name} must have {len(modes)} dimensions {modes}, got shape {tuple(value.shape)}")
    if value.numel() == 0:
        raise ValueError(f"{name} is empty: shape {tuple(value.shape)} for modes {modes}")
    if finite and not _all_finite(value):
        bad = int((~torch.isfinite(value)).sum())
        raise ValueError(f"{name} has {bad} entries that are NaN or infinite")
    return value


def _all_finite(value: Tensor) -> bool:
    """Return whether every entry is finite; True if entries cannot be read (meta tensors, torch.compile, vmap)."""
    if torch.compiler.is_compiling() or value.device.type == "meta":
        return True
    total = value.detach().sum()  # one cheap pass: it is not finite if an entry is not
    try:
        return bool(torch.isfinite(total)) or bool(torch.isfinite(value).all())
    except RuntimeError:  # in `torch.func.vmap`, which has no public sign of itself
        return True


def check_batch(name: str, value: object, mode: str, *, finite: bool = True) -> Tensor:
    """Return vectors (..., mode) after the checks of `check_tensor`; any number of axes may come before the last."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        raise TypeError(f"{name} must be a tensor (..., {mode}), got {type(value).__name__}")
    return check_tensor(name, value, ("...",) * (value.ndim - 1) + (mode,), finite=finite)


def check_alike(**tensors: Tensor) -> None:
    """Raise ValueError unless all tensors are on one device and have one dtype."""
    for attribute in ("device", "dtype"):
        values = {name: getattr(tensor, attribute) for name, tensor in tensors.items()}
        if len(set(values.values())) > 1:
            listing = ", ".join(f"{name} {value}" for name, value in values.items())
            raise ValueError(f"tensors must share one {attribute}; got {listing}")


def check_size(mode: str, **sizes: int) -> None:
    """Raise ValueError unless a mode has the same size in all arrays; `sizes` holds the size per array name."""
    (first, expected), *others = sizes.items()
    for name, size in others:
        if size != expected:
            raise ValueError(f"mode '{mode}' has size {expected} in {first} but {size} in {name}")


def check_int(name: str, value: object, low: int, high: int | None = None, why: str = "") -> int:
    """Return a whole number from `low` to `high`, both included, as an int; bools and floats are refused.

    high: if None, every number below 2^63 is allowed: torch holds no larger one, and products of some of them still
    fit in a float. why: the reason for the bounds, for the error.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r:.60} ({type(value).__name__})")
    number = int(value)
    if number.bit_length() > 63:
        raise ValueError(f"{name} must be between -2^63 and 2^63, got a number of {number.bit_length()} bits")
    if number < low or (high is not None and number > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be {bounds}{f' ({why})' if why else ''}, got {value}")
    return number


def check_iterations(name: str, value: object, low: int = 1, why: str = "", *, most: int = 10**6) -> int:
    """Return a number of repetitions from `low` to `most`; the upper limit prevents work that would never end."""
    number = check_int(name, value, low, why=why)
    if number > most:
        raise ValueError(f"{name} must be at most {most}, or it would never end, got {value}")
    return number


def check_seed(name: str, value: object) -> int:
    """Return a seed for torch's random numbers: a whole number from 0 to 2^63 - 1."""
    return check_int(name, value, 0)


def check_share(name: str, value: object, *, low_open: bool, high_open: bool) -> float:
    """Return a number from 0 to 1 as a float; bools are refused. low_open excludes 0, and high_open excludes 1."""
    value = _real(name, value)
    if not (value > 0 if low_open else value >= 0) or not (value < 1 if high_open else value <= 1):
        raise ValueError(f"{name} must be in {'(' if low_open else '['}0, 1{')' if high_open else ']'}, got {value}")
    return float(value)


def check_number(
    name: str, value: object, minimum: float = -math.inf, maximum: float = math.inf, *, low_open: bool = False
) -> float:
    """Return a finite number from `minimum` to `maximum` as a float, but no bool; low_open excludes `minimum`."""
    value = _real(name, value)
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    if low_open and value <= minimum:
        raise ValueError(f"{name} must be above {minimum:g}, got {value}")
    if not minimum <= value <= maximum:
        if math.isinf(maximum):
            raise ValueError(f"{name} must be at least {minimum:g}, got {value}")
        raise ValueError(f"{name} must be between {minimum:g} and {maximum:g}, got {value}")
    return float(value)


def check_labels(name: str, value: object, *, samples: int, classes: int) -> Tensor:
    """Return int64 class numbers (samples,) after checking that each is from 0 to classes - 1."""
    if not isinstance(value, Tensor) or value.dtype != torch.int64 or value.ndim != 1 or value.layout != torch.strided:
        shape = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a tensor (batch,) of int64 class numbers, got {shape}")
    check_size("batch", x=samples, **{name: len(value)})
    if classes < 2:
        raise ValueError(f"{name} need at least 2 outputs to decide between, got {classes}; a regression has no labels")
    low, high = (int(value.min()), int(value.max())) if samples else (0, 0)
    if low < 0 or high >= classes:
        raise ValueError(f"{name} must be classes from 0 to {classes - 1}, got {low} to {high}")
    return value


def check_mask(name: str, value: object, modes: tuple[str, ...], shape: tuple[int, ...]) -> Tensor:
    """Return `value` if it is a dense boolean tensor of this shape; `modes` names the axes in error messages."""
    if not isinstance(value, Tensor) or value.dtype != torch.bool or value.layout != torch.strided:
        found = f"{value.dtype}, {value.layout}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a boolean tensor ({', '.join(modes)}), got {found}")
    if value.shape != shape:
        raise ValueError(f"{name} must be boolean of shape {shape}, got {tuple(value.shape)}")
    return value


def check_whole(name: str, value: object, mode: str, below: int | None = None) -> Tensor:
    """Return a tensor (mode,) of whole numbers that are at least 0 and, if `below` is given, less than `below`."""
    whole = isinstance(value, Tensor) and value.dtype in (torch.int32, torch.int64) and value.layout == torch.strided
    if not isinstance(value, Tensor) or not whole or value.ndim != 1:
        found = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a tensor ({mode},) of whole numbers, got {found}")
    if value.numel() and (int(value.min()) < 0 or (below is not None and int(value.max()) >= below)):
        most = "" if below is None else f" to {below - 1}"
        raise ValueError(f"{name} must be from 0{most}, got {int(value.min())} to {int(value.max())}")
    return value


def check_bool(name: str, value: object) -> bool:
    """Return `value` if it is True or False; the numbers 0 and 1 are errors."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r} ({type(value).__name__})")
    return value


def check_text(name: str, value: object, *, empty: bool = False) -> str:
    """Return `value` if it is a string; a blank string is an error unless `empty` is True."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, got {value!r} ({type(value).__name__})")
    if not empty and not value.strip():
        raise ValueError(f"{name} must say something, got {value!r}")
    return value


def check_notes(name: str, value: object) -> tuple[str, ...]:
    """Return a sequence of strings as a tuple; a single string is an error, because it would be split into letters."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(note, str) for note in value):
        raise TypeError(f"{name} must be a sequence of texts, such as ('scaled',), got {value!r}")
    return tuple(value)


def check_list(name: str, value: object, empty: str | None = None) -> Sequence[Any]:
    """Return `value` if it is a sequence but not a string.

    empty: the text of the error for an empty sequence; if it is None, an empty sequence is allowed.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{name} must be a list or a tuple, got {value!r:.60} ({type(value).__name__})")
    if empty is not None and not len(value):
        raise ValueError(f"{name} is empty: {empty}")
    return value


def check_names(name: str, value: object, count: int | None = None, what: str = "") -> Sequence[str]:
    """Return names after checking that all are strings and that there are `count` of them, if `count` is given.

    A string such as "012" counts as one name per letter. what: the thing that each name names, for the error.
    """
    names = value if isinstance(value, str) else check_list(name, value)
    for number, item in enumerate(names):
        check_text(f"{name}[{number}]", item, empty=True)
    if count is not None and len(names) != count:
        raise ValueError(f"{name} must be one per {what}, got {len(names)} for {count} {what}s")
    return names


def check_mapping(name: str, value: object) -> Mapping[Any, Any]:
    """Return `value` if it is a dict or another mapping."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping, such as a dict, got {value!r:.60} ({type(value).__name__})")
    return value


def check_records(name: str, value: object, keys: Iterable[str] = (), empty: str | None = None) -> Sequence[Any]:
    """Return a list of mappings after checking that each of them has these keys; `empty` is that of `check_list`."""
    records = check_list(name, value, empty)
    for number, record in enumerate(records):
        check_mapping(f"{name}[{number}]", record)
        missing = [key for key in keys if key not in record]
        if missing:
            raise ValueError(f"{name}[{number}] lacks {', '.join(missing)}; it has {', '.join(map(str, record))}")
    return records


def check_path(name: str, value: object) -> Path:
    """Return a string or another path as a pathlib.Path; other types raise TypeError."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, got {value!r:.60} ({type(value).__name__})")
    return Path(value)


def check_choice(name: str, value: object, choices: Iterable[str]) -> str:
    """Return `value` if it is one of the choices; otherwise the error lists all choices and suggests a similar one."""
    known = sorted(choices)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}{suggestion(value, known)}")
    return value


def suggestion(word: object, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" if a word in `known` is similar to `word`, otherwise an empty string."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def _real(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    if abs(value) > sys.float_info.max and isinstance(value, int):
        raise ValueError(f"{name} must be a number that float64 holds, got a larger one")
    return value
