"""The house rules that a reader of the source can rely on: which way imports point, and what no file does."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE, OTHERS = "tensornet_interp", ("models", "examples")
FILES = sorted(path for room in (PACKAGE, *OTHERS) for path in (ROOT / room).rglob("*.py"))
MAX_LINES = 300

# What a module of the package may import of the package; checks.py is a leaf that all may import.
CORE = {"contraction", "registry", "layer", "network", "inner", "results"}
ARROWS = {
    "checks": set(),
    "registry": set(),
    "planning": set(),
    "contraction": {"checks", "planning"},
    "layer": {"checks", "contraction"},
    "network": {"checks", "contraction", "layer"},
    "lift": {"checks", "layer"},
    "moments": {"checks", "layer", "network"},
    "estimate": set(),
    "scaling": {"layer", "network"},
    "symmetric": {"layer", "moments", "scaling"},
    "gaussian": {"moments", "scaling", "symmetric"},
    "sampling": {"moments", "scaling"},
    "products": {"checks", "gaussian", "moments", "sampling", "scaling", "symmetric"},
    "inner": {
        *("checks", "contraction", "layer", "network"),
        *("estimate", "moments", "products", "sampling", "scaling"),
    },
    "bonds": {"layer", "moments"},
    "odt": {"checks", "bonds", "contraction", "layer", "network", "moments"},
    "names": {"checks"},
    "weight_files": {"checks"},
    "checkpoints": {"checks", "layer", "lift", "names", "weight_files"},
    "dictionaries": {"checks", "layer", "lift", "weight_files"},
    "report": {"layer"},
    "results": {"checks", "contraction", "layer", "report"},
    "decompositions": {"checks", *CORE, "report", "moments", "scaling"},
    "compare": {"checks", "contraction", "layer", "report", "results", "decompositions"},
    "consistency": {"checks", "compare", "results"},
    "sweep": {"checks", "contraction", "registry", "layer", "inner", "results", "decompositions"},
    "circuit": {"checks", "contraction", "layer", "network", "moments", "decompositions"},
    "fidelity": {"checks", "contraction", "inner", "layer", "network", "results"},
    "queries": {"checks", "contraction", "layer", "network"},
    "features": {"checks", "contraction", "layer", "decompositions"},
    "plots": {"checks", "contraction", "layer", "network", "results", "circuit", "features", "odt"},
    "krylov": {"layer", "moments"},
    "spectra": {"checks", "layer", "report", "results", "decompositions", "krylov"},
    "testing": {*CORE, "lift", "decompositions"},
    "__init__": {*CORE, "estimate", "lift", "odt", "planning", "report", "decompositions"},
}
ONLY = {  # what else they may import
    "registry": sys.stdlib_module_names,
    "checks": {*sys.stdlib_module_names, "torch"},
    "planning": {*sys.stdlib_module_names, "opt_einsum"},
    "contraction": {*sys.stdlib_module_names, "torch"},
}
KNOW_TENSORLY = {"__init__.py", "layer.py", "results.py", "decompositions/tensorly_adapter.py"}
# optional dependencies, at the one named place
IMPORT_BY_NAME = {"models/optional.py", "tensornet_interp/sweep.py", "tensornet_interp/weight_files.py"}


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def imports(path):
    """Full names of the modules a file imports; `from a import b` is a.b where that is a module of ours, else a."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).with_suffix("").parts[: -node.level] if node.level else ()
            base = ".".join([*package, *filter(None, [node.module])])
            for alias in node.names:
                inside = ROOT.joinpath(*base.split("."), alias.name)
                is_module = inside.is_dir() or inside.with_suffix(".py").is_file()
                yield f"{base}.{alias.name}" if is_module else base


def room(module):
    return module.split(".")[0]


def own_module(path):
    """layer, inner, ..., decompositions for every file of that folder."""
    return path.relative_to(ROOT / PACKAGE).with_suffix("").parts[0]


def test_there_is_something_to_read():
    assert {f"{PACKAGE}/__init__.py", f"{PACKAGE}/registry.py", "models/data.py"} <= set(map(name_of, FILES))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_rooms_import_one_way(path):
    """examples -> models -> tensornet_interp, never back; nobody imports tests."""
    forbidden = {PACKAGE: {"models", "examples", "tests"}, "models": {"examples", "tests"}, "examples": {"tests"}}
    wrong = [module for module in imports(path) if room(module) in forbidden[name_of(path).split("/")[0]]]
    assert wrong == []


@pytest.mark.parametrize("path", [path for path in FILES if name_of(path).startswith(PACKAGE)], ids=name_of)
def test_the_arrows_inside_the_package(path):
    own = own_module(path)
    assert own in ARROWS, f"{own} is new: add its arrows here and in the design"
    modules = [module for module in imports(path) if room(module) == PACKAGE]
    targets = {module.split(".")[1] if "." in module else PACKAGE for module in modules}
    assert targets - ARROWS[own] - {own} == set()
    if own in ONLY:
        assert {room(module) for module in imports(path)} - {PACKAGE} - set(ONLY[own]) == set()


def test_only_the_named_files_know_tensorly():
    files = [path.relative_to(ROOT / PACKAGE).as_posix() for path in FILES if name_of(path).startswith(PACKAGE)]
    knowing = {file for file in files if any(room(module) == "tensorly" for module in imports(ROOT / PACKAGE / file))}
    assert knowing - KNOW_TENSORLY == set()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_import_is_hidden_in_a_function(path):
    hidden = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for inner in ast.walk(node):
                by_name = isinstance(inner, ast.Call) and re.search(
                    r"\b(import_module|__import__)$", ast.unparse(inner.func)
                )
                if isinstance(inner, ast.Import | ast.ImportFrom) or (by_name and name_of(path) not in IMPORT_BY_NAME):
                    hidden.append(f"line {inner.lineno}: {ast.unparse(inner)}")
    assert hidden == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_assert_statement_stands_outside_tests(path):
    assert [node.lineno for node in ast.walk(tree(path)) if isinstance(node, ast.Assert)] == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_device_is_written_into_the_code(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if ".cuda(" in line or "cuda:0" in line] == []


def test_no_file_is_past_the_limit():
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_the_contents_page_imports_no_plotting():
    code = f"import sys, {PACKAGE}; print([m for m in ('matplotlib.pyplot', 'models', 'sklearn') if m in sys.modules])"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"
