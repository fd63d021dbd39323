"""The house rules that a reader of the source can rely on: which way imports point, and what no file does."""

import ast
import re
import sys

import pytest
from source import FILES, PACKAGE, ROOT, imports, name_of, room, tree

MAX_LINES = 300

# What a room or a ground module may import of the package; `checks` is a leaf that all may import.
GROUND = {
    "checks": set(),
    "float64": set(),
    "places": {"checks", "float64"},
    "cards": set(),
    "names": {"cards", "checks", "store"},
    "disk": set(),
    "optional": set(),
    "numerics": set(),
    "contents": {"optional"},
    "registry": set(),
    "store": {"checks", "registry"},
    "paths": {"checks"},
    "tables": {"checks", "disk", "optional"},
    "planning": {"cards", "paths", "tables"},
    "contraction": {"checks", "numerics", "paths", "planning", "store"},
    "keys": {"layer"},
    "tensorfile": {"checks", "disk", "keys"},
    "concentration": {"checks", "float64", "numerics"},
    "affine": {"checks"},
    "modules": set(),
    "formats": {"checks"},
    "layer": {"affine", "checks", "contraction", "formats", "modules", "names", "numerics", "places", "store"},
    "stepwise": {"contraction", "layer"},
    "balance": {"checks", "layer", "names", "numerics"},
    "network": {"cards", "checks", "contraction", "layer", "modules", "names", "stepwise", "store"},
    "lifting": {"checks", "layer", "numerics", "store"},
    "moments": {"checks", "float64", "layer", "places", "store"},
    "stack_moments": {"affine", "checks", "float64", "layer", "moments", "network", "numerics"},
    "metric": {"affine", "checks", "float64", "layer", "moments", "numerics", "places", "store"},
    "report": {"cards", "layer", "metric", "names", "store", "tables"},
    "results": {
        "affine",
        "cards",
        "checks",
        "contraction",
        "layer",
        "metric",
        "names",
        "numerics",
        "places",
        "report",
        "tables",
    },
    "factored": {"checks", "contraction", "layer", "numerics", "results", "store", "tables"},
    "spectral": {
        "affine",
        "checks",
        "concentration",
        "contraction",
        "float64",
        "layer",
        "numerics",
        "report",
        "results",
        "store",
        "tables",
    },
    "saving": {
        "checks",
        "contents",
        "disk",
        "layer",
        "optional",
        "places",
        "registry",
        "report",
        "store",
        "tensorfile",
    },
    "workers": {"saving"},
    "executors": {"checks", "keys", "report", "saving", "workers"},
}


ALL_GROUND = set(GROUND)


ROOMS = {
    "inner_products": ALL_GROUND | {"attention"},
    "decompositions": ALL_GROUND | {"inner_products"},
    "bonds": ALL_GROUND | {"inner_products"},
    "spectra": ALL_GROUND | {"inner_products", "decompositions", "weights"},
    "fidelity": ALL_GROUND | {"inner_products", "decompositions"},
    "compare": ALL_GROUND | {"inner_products", "decompositions"},
    "circuits": ALL_GROUND | {"attention", "inner_products", "decompositions"},
    "features": ALL_GROUND | {"inner_products", "decompositions", "gated"},
    "gated": ALL_GROUND,
    "graphs": ALL_GROUND | {"attention", "decompositions", "features"},
    "weights": ALL_GROUND | {"attention", "features", "gated"},
    "attention": ALL_GROUND,
    "adversarial": ALL_GROUND,
    "interchange": ALL_GROUND,
    "plots": ALL_GROUND | {"attention", "bonds", "circuits", "compare", "features", "fidelity", "graphs"},
    "sweep": ALL_GROUND | {"inner_products", "decompositions"},
    "testing": ALL_GROUND | {"decompositions", "sweep"},
    "pages": ALL_GROUND
    | {"inner_products", "decompositions", "bonds", "circuits", "features", "fidelity", "graphs", "plots"},
    "__init__": ALL_GROUND | {"attention", "inner_products", "decompositions", "bonds", "pages"},
    "__main__": ALL_GROUND | {"decompositions", "pages", "sweep", "weights"},
}


ARROWS = GROUND | ROOMS


ONLY = {  # what else they may import
    "registry": sys.stdlib_module_names,
    "disk": sys.stdlib_module_names,
    "optional": sys.stdlib_module_names,
    "contents": sys.stdlib_module_names,
    "cards": sys.stdlib_module_names,
    "checks": {*sys.stdlib_module_names, "torch"},
    "float64": {*sys.stdlib_module_names, "torch"},
    "numerics": {*sys.stdlib_module_names, "torch", "scipy"},
    "paths": {*sys.stdlib_module_names, "opt_einsum"},
    "planning": {*sys.stdlib_module_names, "opt_einsum"},
    "contraction": {*sys.stdlib_module_names, "torch"},
}


KNOW_TENSORLY = {
    "__init__.py",
    "layer.py",
    "factored.py",
    "spectral.py",
    "decompositions/adapter.py",
    "decompositions/tensor_train.py",
    "decompositions/tensorly_forms.py",
}


# optional dependencies, at the one named place
IMPORT_BY_NAME = {"tensornet_interp/optional.py"}


def own_module(path):
    """layer, network, ... for ground modules; the room for every file of its folder."""
    return path.relative_to(ROOT / PACKAGE).with_suffix("").parts[0]


def test_there_is_something_to_read():
    assert {f"{PACKAGE}/__init__.py", f"{PACKAGE}/registry.py", "models/data.py"} <= set(map(name_of, FILES))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_rooms_import_one_way(path):
    """examples -> models -> tensornet_interp, never back; nobody imports tests."""
    forbidden = {PACKAGE: {"models", "examples", "tests"}, "models": {"examples", "tests"}, "examples": {"tests"}}
    wrong = [module for module in imports(path) if room(module) in forbidden[name_of(path).split("/")[0]]]
    assert wrong == []


EXAMPLES = [path for path in FILES if name_of(path).startswith("examples/")]


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_scripts_stand_in_examples_and_what_they_share_in_its_folders(path):
    """A file of examples/ itself is run and never imported; a file of a folder below is imported and never run."""
    is_script = path.parent == ROOT / "examples"
    assert ('if __name__ == "__main__":' in path.read_text(encoding="utf-8")) == is_script
    scripts = {f"examples.{other.stem}" for other in EXAMPLES if other.parent == ROOT / "examples"}
    assert scripts & set(imports(path)) == set()


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


RANDOM = {"rand", "randint", "randn", "randperm"}
FACTORIES = {"arange", "empty", "eye", "full", "linspace", "ones", "tensor", "zeros"} | RANDOM


@pytest.mark.parametrize("path", [path for path in FILES if name_of(path).startswith(PACKAGE)], ids=name_of)
def test_tensors_that_are_made_name_their_device_and_dtype(path):
    """Else the defaults of the user decide them; whole numbers have a dtype, and `tensor` that of its values."""
    wrong = []
    for node in ast.walk(tree(path)):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr=name)) if name in FACTORIES:
                given = {keyword.arg for keyword in node.keywords}
                wanted = {"device"} if name in ("arange", "randint", "randperm", "tensor") else {"device", "dtype"}
                wrong += [f"torch.{name} in line {node.lineno}: {missing}" for missing in wanted - given]
    assert wrong == []


GROWING = {
    f"tensornet_interp/{name}.py"
    for name in (
        "graphs/averaged",
        "graphs/building",
        "graphs/pruning",
        "pages/parts",
        "plots/networks",
        "testing/__init__",
    )
}


def test_values_never_change_but_sums_reports_and_figures_that_grow_piece_by_piece():
    changing = {
        name_of(path)
        for path in FILES
        if name_of(path).startswith(PACKAGE)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
        for mark in map(ast.unparse, node.decorator_list)
        if mark.startswith("dataclass") and "frozen=True" not in mark
    }
    assert changing == GROWING
