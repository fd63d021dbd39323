"""Everything public, one argument at a time replaced by every kind of wrong value.

The outcome is a ValueError or TypeError of ours that names the argument, or a row of `ACCEPTED` says why the value is
taken. Whole run with counts: `python tests/test_wrong_arguments.py --seed 0`.
"""

import argparse
import collections
import fnmatch
import importlib
import inspect
import os
import random
import re
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from accepted_values import ACCEPTED, ALSO_CALLED
from bad_input import RESULT, STACK
from helpers import within
from source import PACKAGE, PAGES, ROOT
from valid_calls import CALLS, NOT_CALLED

from tensornet_interp import TensorNetwork

SECONDS = 20  # no call may take longer
OURS = str(ROOT / PACKAGE)


def exports():
    """Every callable of every contents page by its name, and the public methods that its class defines by theirs."""
    found, objects = {}, set()
    for page, names in PAGES.items():
        for name in names:
            item = getattr(importlib.import_module(page), name)
            if not inspect.isroutine(item) and not inspect.isclass(item):
                continue  # constants, modules, aliases of types
            if item in objects:
                continue
            objects.add(item)
            found[name] = item
            if inspect.isclass(item):
                for method, value in vars(item).items():
                    if method in ("__call__", "__getitem__") or not method.startswith("_"):
                        function = getattr(value, "__func__", value)
                        if inspect.isfunction(function) and len(inspect.signature(function).parameters) > 1:
                            found[f"{name}.{method}"] = function
    return found


def test_every_export_has_a_row_or_a_reason_for_none():
    names = list(exports())
    patterns = [pattern for listed in NOT_CALLED.values() for pattern in listed]
    excused = {name for name in names for pattern in patterns if fnmatch.fnmatchcase(name, pattern)}
    assert [name for name in names if name not in CALLS and name not in excused] == []
    assert [pattern for pattern in patterns if not fnmatch.filter(names, pattern)] == []
    assert [name for name in CALLS if name not in names] == []


def call(function, arguments):
    """The function with these arguments, by name where it can be."""
    arguments = dict(arguments)
    parameters = inspect.signature(function).parameters.values()
    before = [arguments.pop(p.name) for p in parameters if p.kind is p.POSITIONAL_ONLY]
    if any(p.kind is p.VAR_KEYWORD and p.name == "options" for p in parameters) and "options" in arguments:
        arguments |= arguments.pop("options")
    return function(*before, **arguments)


def general():
    return {
        "list": lambda: [1.5, "x"],
        "string": lambda: "wrong",
        "None": lambda: None,
        "bool": lambda: True,
        "negative int": lambda: -1,
        "huge int": lambda: sys.maxsize,
        "int beyond floats": lambda: 10**400,
        "nan": lambda: float("nan"),
        "inf": lambda: float("inf"),
        "generator": lambda: (value for value in (1, 2)),
        "numpy array": lambda: np.ones((2, 3)),
        "object": object,
        "empty tensor": lambda: torch.empty(0),
    }


def spoiled(tensor, rng):
    """What can be wrong with a tensor."""
    kinds = {}
    for mode, size in enumerate(tensor.shape):
        more = size + rng.randint(1, 3)
        index = torch.arange(more) % size
        kinds[f"mode {mode} larger"] = lambda mode=mode, index=index: tensor.index_select(mode, index)
        kinds[f"mode {mode} empty"] = lambda mode=mode: tensor.narrow(mode, 0, 0)
    kinds["one dimension more"] = lambda: tensor[None]
    if tensor.ndim:
        kinds["one dimension less"] = lambda: tensor[0]
    kinds["complex"] = lambda: tensor.to(torch.complex128)
    kinds["sparse"] = lambda: tensor.to_sparse()
    if hasattr(torch, "float8_e4m3fn"):
        kinds["float8"] = lambda: tensor.to(torch.float8_e4m3fn)
    kinds["half"] = lambda: tensor.to(torch.float16)
    kinds["integer"] = lambda: tensor.to(torch.int32)
    if tensor.is_floating_point():
        at = rng.randrange(tensor.numel())

        def with_entry(value):
            changed = tensor.clone()
            changed.view(-1)[at] = value
            return changed

        kinds["NaN entry"] = lambda: with_entry(float("nan"))
        kinds["infinite entry"] = lambda: with_entry(float("inf"))
    else:
        kinds["float"] = lambda: tensor.to(torch.float64)
    return kinds


def wrong_values(value, rng):
    kinds = general()
    if isinstance(value, torch.Tensor):
        return kinds | spoiled(value.contiguous(), rng)
    kinds["tensor"] = lambda: torch.ones(2, 3, dtype=torch.float64)
    if isinstance(value, list | tuple):
        kinds["empty list"] = lambda: []
        if value:
            kinds["list of objects"] = lambda: [object() for _ in value]
            kinds["longer list"] = lambda: [*value, value[-1]]
    if isinstance(value, dict):
        kinds["empty mapping"] = lambda: {}
        kinds["mapping of objects"] = lambda: {name: object() for name in value}
    if isinstance(value, TensorNetwork):
        kinds |= {"a stack": lambda: STACK, "a result": lambda: RESULT}
    return kinds


def attempts(name, rng):
    """(argument, kind, all arguments) of every call to try."""
    function, valid = CALLS[name]
    for argument, value in valid.items():
        if argument == "options" and "options" not in inspect.signature(function).parameters:
            continue
        if (
            argument == "options"
            and inspect.signature(function).parameters["options"].kind == inspect.Parameter.VAR_KEYWORD
        ):
            for option, own in value.items():
                for kind, make in wrong_values(own, rng).items():
                    yield option, kind, valid | {"options": value | {option: make()}}
            continue
        for kind, make in wrong_values(value, rng).items():
            yield argument, kind, valid | {argument: make()}


def accepted(name, argument, kind):
    """The row of ACCEPTED that says so, or None."""
    for row in ACCEPTED:
        for wanted, pattern in zip((name, argument, kind), row[:3], strict=True):
            if not any(fnmatch.fnmatchcase(wanted, one.strip()) for one in pattern.split("|")):
                break
        else:
            return row
    return None


def names_it(message, argument):
    """Whether an error says which argument, or which mode of which tensor, it is about."""
    words = "|".join([re.escape(argument.removesuffix("s")), *ALSO_CALLED.get(argument, [])])
    return bool(re.search(rf"(?<![a-zA-Z])({words})|mode '", message))


def outcome(name, argument, kind, arguments):
    """ "refused" or "accepted", else what is wrong."""
    try:
        with within(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = call(CALLS[name][0], arguments)
    except (ValueError, TypeError) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        if not (last.filename.startswith(OURS) and (last.line or "").startswith("raise")):
            return f"raw {type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {error}"
        return "refused" if names_it(str(error), argument) else f"does not name {argument}: {error}"
    except OSError as error:  # a name of a file that is not there
        named = "wrong" in str(error) and accepted(name, argument, kind)
        return "accepted" if named else f"{type(error).__name__}: {error}"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {error}"
    row = accepted(name, argument, kind)
    if row is None:
        return "accepted without a reason"
    if len(row) > 4 and not row[4](result):
        return f"accepted, but the result is {result!r}"
    return "accepted"


def run(name, seed):
    """(argument, kind, outcome, seconds) of every call of a row."""
    here = Path.cwd()
    for argument, kind, arguments in attempts(name, random.Random(f"{seed} {name}")):
        with tempfile.TemporaryDirectory() as folder:  # any word is a name of a file
            os.chdir(folder)
            start = time.perf_counter()
            try:
                found = outcome(name, argument, kind, arguments)
            finally:
                os.chdir(here)
            yield argument, kind, found, time.perf_counter() - start


@pytest.mark.parametrize("name", CALLS)
def test_the_valid_call_works(name):
    call(*CALLS[name])


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_is_refused_by_its_name(name):
    tried = list(run(name, seed=0))
    assert tried
    faults = [row[:3] for row in tried if row[2] not in ("refused", "accepted")]
    assert faults == []


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="where an entry is spoiled, by how much a size is wrong")
    parser.add_argument("--only", default="*", help="names of rows, as a pattern")
    options = parser.parse_args()
    counts, used, slow = collections.Counter(), set(), []
    for name in fnmatch.filter(CALLS, options.only):
        for argument, kind, found, seconds in run(name, options.seed):
            counts[found if found in ("refused", "accepted") else "fault"] += 1
            slow.append((seconds, name, argument, kind))
            if found == "accepted":
                used.add(id(accepted(name, argument, kind)))
            elif found != "refused":
                print(f"{name} | {argument} | {kind} | {str(found)[:200]}")
    idle = [row[:4] for row in ACCEPTED if id(row) not in used] if options.only == "*" else []
    for row in idle:
        print("never needed:", row)
    print(
        "slowest:",
        *(f"{seconds:.2f} s {name}({argument}: {kind})" for seconds, name, argument, kind in sorted(slow)[-3:]),
    )
    print(
        f"{sum(counts.values())} calls of {len(CALLS)} functions: "
        + ", ".join(f"{n} {k}" for k, n in sorted(counts.items()))
    )
    return counts["fault"] > 0 or len(idle) > 0


if __name__ == "__main__":
    sys.exit(main())
