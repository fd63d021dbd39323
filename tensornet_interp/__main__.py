"""Two commands: `python -m tensornet_interp report ...` writes a page, `... inspect ...` says what files hold."""

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tensornet_interp.decompositions import decompose
from tensornet_interp.layer import TensorNetwork
from tensornet_interp.pages import write_report
from tensornet_interp.registry import list_decompositions
from tensornet_interp.saving import load
from tensornet_interp.sweep import load_records
from tensornet_interp.weights import LAYOUTS, inspect_files, load_layer

_OPTIONS = {"gate_removed=True": "--gate-removed", "overwrite=True": "--overwrite"}  # how errors call them
_LAYOUTS = (*LAYOUTS, "tensornet_interp")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, or 2 for arguments that do not fit, with one line that says why."""
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _say  # type: ignore[assignment]
            return int(options.run(options))
    except (ImportError, OSError, TypeError, ValueError) as error:
        said, *code = str(error).split("\n\n")
        for argument, option in _OPTIONS.items():
            said = said.replace(argument, option)
        more = " ...; inspect prints the whole of it" if code else ""
        print(f"error: {' '.join(said.split())}{more}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tensornet_interp", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    report = commands.add_parser(
        "report",
        help="write a page about a layer of a checkpoint, a saved object or a sweep",
        description="Write one HTML file about a layer of a checkpoint, about a file of save, or about a sweep.",
    )
    report.add_argument("source", help="a checkpoint (folder, file or hub name), a file of save, or a sweep's .jsonl")
    report.add_argument("--out", required=True, type=Path, metavar="PAGE", help="the page to write, an .html file")
    report.add_argument("--layer", type=int, metavar="INDEX", help="the layer of a checkpoint")
    report.add_argument("--layout", choices=_LAYOUTS, help="of the checkpoint; by default the one that fits")
    report.add_argument("--subfolder", default="", help="of the checkpoint in its source")
    report.add_argument("--gate-removed", action="store_true", help="the weights were trained to work without the gate")
    report.add_argument("--entry", metavar="NAME", help="of a saved dict: which entry to show")
    report.add_argument("--method", metavar="NAME", help="of the decomposition; by default eigen or output_svd")
    report.add_argument("--options", type=_json, default={}, metavar="JSON", help="of the method: '{\"rank\": 8}'")
    report.add_argument("--title", help="of the page")
    report.add_argument("--overwrite", action="store_true", help="replace a page that exists")
    report.set_defaults(run=_report)
    inspect = commands.add_parser(
        "inspect",
        help="say what a file or a folder of weights holds",
        description="Say which files of weights a folder holds, in which layout, with which layers; only headers are "
        "read.",
    )
    inspect.add_argument("source", help="a folder or a file")
    inspect.set_defaults(run=_inspect)
    return parser


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON ({error}); an example: '{{\"rank\": 8}}'") from error


def _inspect(options: argparse.Namespace) -> int:
    print(inspect_files(options.source))
    return 0


def _report(options: argparse.Namespace) -> int:
    obj, reference = _object(options), None
    if options.method is not None:
        if not isinstance(obj, TensorNetwork):
            raise ValueError(f"--method decomposes a layer or a network, and the source holds a {type(obj).__name__}")
        known = [info.name for info in list_decompositions()]
        if options.method not in known:
            raise ValueError(f"--method must be one of {', '.join(known)}, got {options.method!r}")
        if not isinstance(options.options, dict):
            raise ValueError(f"--options must be a JSON object, got {options.options!r}")
        reference, obj = obj, decompose(obj, options.method, **options.options)
    elif options.options:
        raise ValueError("--options belong to a method: give --method too")
    write_report(obj, options.out, reference=reference, title=options.title, overwrite=options.overwrite)
    print(options.out)
    return 0


def _object(options: argparse.Namespace) -> Any:
    """Return what the page is about: a layer of a checkpoint, a saved object, or the records of a sweep."""
    path = Path(options.source)
    if path.suffix == ".jsonl":
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
        return load_records(path)
    if path.is_file() and inspect_files(path).files[0].kind.startswith("saved"):
        return _entry(load(path), options.entry)
    if options.layer is None:
        raise ValueError("--layer INDEX is missing: which layer of the checkpoint? inspect lists them")
    layout = options.layout or _layout(path / options.subfolder) or "published"
    return load_layer(
        options.source,
        options.layer,
        layout=layout,
        subfolder=options.subfolder,
        gate_removed=options.gate_removed,
    )


def _entry(saved: Any, name: str | None) -> Any:
    if not isinstance(saved, dict):
        if name is not None:
            raise ValueError(f"--entry chooses from a saved dict, and the file holds a {type(saved).__name__}")
        return saved
    if name is None:
        raise ValueError(f"--entry NAME is missing: the file holds {', '.join(map(str, saved))}")
    if name not in saved:
        raise ValueError(f"--entry must be one of {', '.join(map(str, saved))}, got {name!r}")
    return saved[name]


def _layout(path: Path) -> str | None:
    """Return the layout of a checkpoint that is on this machine, if one fits."""
    if not path.exists():
        return None
    found = [file.layout for file in inspect_files(path).files if file.kind == "checkpoint" and "/" not in file.path]
    return found[0] if found else None


def _say(message: Warning | str, *_: object) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
