"""The house rules that a reader of the source can rely on: which way imports point, and what no file does."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from snippets import SNIPPETS

ROOT = Path(__file__).parents[1]
PACKAGE, OTHERS = "tensornet_interp", ("models", "examples")
FILES = sorted(path for room in (PACKAGE, *OTHERS) for path in (ROOT / room).rglob("*.py"))
MAX_LINES = 300

# What a room or a ground module may import of the package; `checks` is a leaf that all may import.
GROUND = {
    "checks": set(),
    "disk": set(),
    "optional": set(),
    "numerics": set(),
    "pages": set(),
    "registry": set(),
    "planning": set(),
    "contraction": {"checks", "planning"},
    "keys": {"layer"},
    "concentration": {"checks", "numerics"},
    "affine": {"checks"},
    "formats": {"checks"},
    "layer": {"affine", "checks", "contraction", "formats"},
    "balance": {"checks", "layer"},
    "network": {"checks", "contraction", "layer"},
    "lifting": {"checks", "layer"},
    "moments": {"checks", "layer"},
    "report": {"layer"},
    "results": {"checks", "contraction", "layer", "report"},
    "spectral": {"affine", "checks", "concentration", "contraction", "layer", "numerics", "report", "results"},
}
ALL_GROUND = set(GROUND)
ROOMS = {
    "inner_products": ALL_GROUND,
    "decompositions": ALL_GROUND | {"inner_products"},
    "bonds": ALL_GROUND | {"inner_products"},
    "spectra": ALL_GROUND | {"inner_products", "decompositions"},
    "fidelity": ALL_GROUND | {"inner_products", "decompositions"},
    "compare": ALL_GROUND | {"inner_products", "decompositions"},
    "circuits": ALL_GROUND | {"inner_products", "decompositions"},
    "features": ALL_GROUND | {"inner_products", "decompositions"},
    "weights": ALL_GROUND | {"features"},
    "adversarial": ALL_GROUND,
    "plots": ALL_GROUND | {"bonds", "circuits", "compare", "features", "fidelity"},
    "sweep": ALL_GROUND | {"inner_products", "decompositions"},
    "testing": ALL_GROUND | {"inner_products", "decompositions"},
    "__init__": ALL_GROUND | {"inner_products", "decompositions", "bonds"},
}
ARROWS = GROUND | ROOMS
ONLY = {  # what else they may import
    "registry": sys.stdlib_module_names,
    "disk": sys.stdlib_module_names,
    "optional": sys.stdlib_module_names,
    "pages": sys.stdlib_module_names,
    "checks": {*sys.stdlib_module_names, "torch"},
    "numerics": {"torch", "scipy"},
    "planning": {*sys.stdlib_module_names, "opt_einsum"},
    "contraction": {*sys.stdlib_module_names, "torch"},
}
KNOW_TENSORLY = {"__init__.py", "layer.py", "results.py", "spectral.py", "decompositions/adapter.py"}
# optional dependencies, at the one named place
IMPORT_BY_NAME = {"tensornet_interp/optional.py"}


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


def contents(module):
    """`__all__` of a contents page, read from its source."""
    base = ROOT.joinpath(*module.split("."))
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    for node in tree(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return None


PAGES = {PACKAGE: contents(PACKAGE)} | {
    f"{PACKAGE}.{name}": contents(f"{PACKAGE}.{name}") for name in sorted(ARROWS) if name != "__init__"
}


@pytest.mark.parametrize("page", PAGES)
def test_a_contents_page_is_sorted_and_names_what_is_there(page):
    names = PAGES[page]
    assert names is not None, f"{page} has no __all__"
    module = importlib.import_module(page)
    assert [name for name in names if not hasattr(module, name)] == []
    assert len(set(names)) == len(names)


ROOM_PAGES = [page for page in PAGES if (ROOT.joinpath(*page.split("."), "__init__.py")).is_file()]


def test_there_are_rooms_to_ask():
    assert {PACKAGE, f"{PACKAGE}.compare", f"{PACKAGE}.plots"} <= set(ROOM_PAGES)


@pytest.mark.parametrize("page", ROOM_PAGES)
def test_a_room_suggests_names_that_are_near_and_says_where_others_are(page):
    module, name = importlib.import_module(page), PAGES[page][-1]
    with pytest.raises(AttributeError) as caught:
        getattr(module, f"{name}_")
    assert str(caught.value) == f"module '{page}' has no name '{name}_'; did you mean '{name}'?"
    with pytest.raises(AttributeError, match=re.escape(f"module '{page}' has no name 'zzz'") + "$"):
        _ = module.zzz
    assert not hasattr(module, "__wrapped__")


@pytest.mark.parametrize(
    ("page", "name", "hint"),
    [
        ("", "simlarity", "; did you mean 'similarity'?"),
        ("", "match", "; it is on tensornet_interp.compare"),
        ("", "stabilty", "; did you mean 'stability', on tensornet_interp.compare?"),
        (".compare", "Eigen", "; it is on tensornet_interp and tensornet_interp.decompositions"),
        (".compare", "decompse", "; did you mean 'decompose', on tensornet_interp?"),
    ],
)
def test_a_name_of_another_page_is_found(page, name, hint):
    with pytest.raises(AttributeError) as caught:
        getattr(importlib.import_module(PACKAGE + page), name)
    assert str(caught.value) == f"module '{PACKAGE}{page}' has no name '{name}'{hint}"


def run_python(code):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=100
    )


def test_a_room_that_was_not_imported_says_how_and_is_not_imported_for_an_error():
    code = f"""
import sys, {PACKAGE}
before = set(sys.modules)
for name in ("circuits", "spectra", "match", "spectr"):
    try:
        getattr({PACKAGE}, name)
    except AttributeError as error:
        print(error)
print([name for name in set(sys.modules) - before if name.startswith("{PACKAGE}")])
"""
    run = run_python(code)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        f"module '{PACKAGE}' has no name 'circuits' before it is imported: import {PACKAGE}.circuits",
        f"module '{PACKAGE}' has no name 'spectra' before it is imported: import {PACKAGE}.spectra",
        f"module '{PACKAGE}' has no name 'match'; it is on {PACKAGE}.compare",
        f"module '{PACKAGE}' has no name 'spectr'; did you mean 'spectra', on {PACKAGE}.spectra?",
        "[]",
    ]


def from_imports(source):
    """(module, name) of every `from tensornet_interp... import ...`, and (module, None) of every plain import."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if room(alias.name) == PACKAGE)


def inside_imports(source):
    """Modules of the package that are no contents pages, and names that are not on the page they are taken from."""
    for module, name in from_imports(source):
        if module not in PAGES:
            yield module
        elif name is not None and name not in PAGES[module] and f"{module}.{name}" not in PAGES:
            yield f"{module}.{name}"


def readers():
    """Everything that users read or copy from: pages, examples and models."""
    for snippet in SNIPPETS:
        yield pytest.param(snippet.code, id=snippet.name)
    for path in FILES:
        if not name_of(path).startswith(PACKAGE):
            yield pytest.param(path.read_text(encoding="utf-8"), id=name_of(path))


@pytest.mark.parametrize("source", list(readers()))
def test_users_import_from_contents_pages_only(source):
    assert list(inside_imports(source)) == []


def test_no_module_bears_the_name_of_an_export_beside_it():
    shadowed = []
    for path in (ROOT / PACKAGE).rglob("*.py"):
        page = ".".join(path.parent.relative_to(ROOT).parts)
        exported = PAGES.get(page) or []
        if path.stem in exported or path.stem in PAGES[PACKAGE]:
            shadowed.append(name_of(path))
    assert shadowed == []


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
    run = run_python(
        f"import sys, {PACKAGE}; print([m for m in ('matplotlib.pyplot', 'models', 'sklearn') if m in sys.modules])"
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def test_the_contents_page_imports_the_rooms_that_it_exports_from_and_no_others():
    run = run_python(f"import sys, {PACKAGE}; print(*[m for m in sys.modules if m.startswith('{PACKAGE}.')])")
    assert run.returncode == 0, run.stderr
    rooms = {page for page in run.stdout.split() if page in ROOM_PAGES}
    assert rooms == {f"{PACKAGE}.{room}" for room in ("bonds", "decompositions", "inner_products")}
