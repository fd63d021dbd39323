"""Write a page about an object: the arguments are checked, and the object becomes sections."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tensornet_interp.checks import (
    check_alike,
    check_bool,
    check_int,
    check_labels,
    check_list,
    check_path,
    check_size,
    check_tensor,
    check_text,
)
from tensornet_interp.circuits import Circuit
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import TensorNetwork
from tensornet_interp.network import as_network, check_network
from tensornet_interp.pages.comparisons import Data
from tensornet_interp.pages.rendering import check_extra, write_page
from tensornet_interp.pages.sections import sections_of
from tensornet_interp.results import Result

_EXPLAINED = 3  # inputs that are explained by default
_MOST_EXPLAINED = 24


@needs_float64
def write_report(
    obj: Any,
    path: str | os.PathLike[str],
    *,
    reference: TensorNetwork | None = None,
    inputs: Tensor | None = None,
    labels: Tensor | None = None,
    targets: Tensor | None = None,
    explain: Sequence[int] | None = None,
    title: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a page about an object: one HTML file that opens in any browser, without a network.

    obj: a layer, a result, a network, a circuit, the records of a sweep, or any report (`tables.HasRecords`). The page
    has sizes, names, basis, options and versions; spectra; components in the form of their inputs (images, or signed
    bars with names); and tables to sort. A layer is decomposed for its page: by "eigen" if it has up to 64 outputs,
    else into 8 shared output directions by "output_svd"; both keep up to 64 eigenpairs. To choose, decompose it and
    pass the result with `reference=layer`. A page draws the 12 blocks with the largest eigenvalues; its tables have up
    to 10,000 rows.
    path: the file, which ends in .html. Missing folders are made. overwrite: whether an existing file is replaced.
    The file is written in one step: if the process is killed, there is no incomplete page.
    reference: what the result decomposes, or a model to compare with; with `inputs`, the page has the fidelity and the
    truncation curve. inputs: (batch, in). labels: (batch,), class numbers. targets: (batch, out), of a regression.
    explain: the indices of up to 24 inputs whose outputs are explained by components; by default the first three.
    title: by default, the type and the name of the object.

    Raises ImportError, saying how to install them, without Jinja2 and Bokeh (the extra "report"). Raises
    FileExistsError if the file exists and overwrite is False; ValueError if the path or an argument does not fit the
    object, if the object has NaN, or if it is empty; TypeError for any other object. All of this is checked before
    the work begins. Cost: that of the decomposition. Size: up to 1 MB of data and, if there is a figure, 1.3 MB for the
    script of Bokeh.
    """
    file = check_file(path, check_bool("overwrite", overwrite))
    name = _title(obj) if title is None else check_text("title", title)
    data = _check_data(obj, reference, inputs, labels, targets, explain)
    check_extra()
    with torch.no_grad():
        sections = sections_of(obj, data)
    write_page(file, name, sections)


def check_file(path: object, overwrite: bool) -> Path:
    """Return the path of the page; raise an error if a page cannot be written there."""
    file = check_path("path", path)
    if file.is_dir():
        raise ValueError(f"path must name a file, and {file} is a folder; give {file / 'report.html'}")
    if file.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"path must end in .html, got {str(file)!r}")
    if file.exists() and not overwrite:
        raise FileExistsError(f"{file} exists; pass overwrite=True to replace it")
    folder = next(parent for parent in file.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise ValueError(f"path must name a file in a folder, and {folder} is no folder")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"path cannot be written: {folder} is read-only for this user")
    return file


def _check_data(obj: Any, reference: object, inputs: object, labels: object, targets: object, explain: object) -> Data:
    """Return the checked arguments that an object is compared with; raise an error for those it cannot have."""
    given = {"reference": reference, "inputs": inputs, "labels": labels, "targets": targets, "explain": explain}
    network = obj.network if isinstance(obj, Circuit) else obj
    if not isinstance(network, TensorNetwork):
        extra = [name for name, value in given.items() if value is not None]
        if extra:
            raise ValueError(f"{extra[0]} belongs to a layer, a result or a network, and obj is a {type(obj).__name__}")
        return Data()
    for term in network.terms():
        check_tensor("obj", term.data, term.modes)  # also that all numbers are finite
    if reference is not None:
        if isinstance(obj, Circuit):
            raise ValueError("reference must be left out for a circuit, which knows its network")
        other, own = as_network(check_network("reference", reference)), as_network(network)
        check_size("in", obj=_inputs(own), reference=_inputs(other))
        check_size("out", obj=own.sizes["out"], reference=other.sizes["out"])
    if inputs is None:
        extra = [name for name in ("labels", "targets", "explain") if given[name] is not None]
        if extra:
            raise ValueError(f"{extra[0]} needs inputs: pass inputs (batch, in) too")
        return Data(reference=reference)  # type: ignore[arg-type]
    x = check_tensor("inputs", inputs, ("batch", "in"))
    own = as_network(network)
    check_size("in", obj=_inputs(own), inputs=x.shape[1])
    check_alike(obj=network.terms()[0].data, inputs=x)
    if labels is not None:
        check_labels("labels", labels, samples=len(x), classes=own.sizes["out"])
    if targets is not None:
        check_tensor("targets", targets, ("batch", "out"))
    chosen = range(min(_EXPLAINED, len(x))) if explain is None else check_list("explain", explain)
    if len(chosen) > _MOST_EXPLAINED:
        raise ValueError(f"explain must have at most {_MOST_EXPLAINED} indices, got {len(chosen)}")
    indices = [
        check_int(f"explain[{at}]", index, 0, len(x) - 1, "an index of inputs") for at, index in enumerate(chosen)
    ]
    return Data(reference, x, labels, targets, indices)  # type: ignore[arg-type]


def _inputs(network: Any) -> int:
    return network.sizes["in1"] - network.constant_in


def _title(obj: Any) -> str:
    """Return the type of an object and its name, if it has one."""
    if isinstance(obj, list | tuple):
        return "Sweep"
    kind = type(obj).__name__
    if isinstance(obj, Result):
        return f"{kind} of {obj.report.layer}" if obj.report.layer else kind
    return f"{kind} {getattr(obj, 'name', '')}".strip()
