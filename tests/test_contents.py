"""What is public stands on a contents page, users import from these alone, and a wrong name is told what is near."""

import importlib
import os
import re
import subprocess
import sys

import pytest
from snippets import SNIPPETS
from source import FILES, PACKAGE, PAGES, ROOT, inside_imports, name_of


@pytest.mark.parametrize("page", PAGES)
def test_a_contents_page_is_sorted_and_names_what_is_there(page):
    names = PAGES[page]
    assert names is not None, f"{page} has no __all__"
    module = importlib.import_module(page)
    assert [name for name in names if not hasattr(module, name)] == []
    assert len(set(names)) == len(names)


ROOM_PAGES = [page for page in PAGES if (ROOT.joinpath(*page.split("."), "__init__.py")).is_file()]


def test_a_module_that_is_not_imported_yet_is_told_apart_from_a_wrong_name(monkeypatch):
    """In this process all are imported; so one is forgotten for a moment."""
    package = importlib.import_module(PACKAGE)
    importlib.import_module(f"{PACKAGE}.weights")
    monkeypatch.delattr(package, "weights")
    with pytest.raises(AttributeError, match=f"'weights' before it is imported: import {PACKAGE}.weights$"):
        _ = package.weights


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
        ("", "quaternions", ""),
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


def test_the_contents_page_imports_no_plotting_and_no_extra():
    modules = ("matplotlib", "models", "sklearn", "bokeh", "jinja2", "pandas", f"{PACKAGE}.pages")
    run = run_python(f"import sys, {PACKAGE}; print([m for m in {modules} if m in sys.modules])")
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def test_the_contents_page_imports_the_rooms_that_it_exports_from_and_no_others():
    run = run_python(f"import sys, {PACKAGE}; print(*[m for m in sys.modules if m.startswith('{PACKAGE}.')])")
    assert run.returncode == 0, run.stderr
    rooms = {page for page in run.stdout.split() if page in ROOM_PAGES}
    assert rooms == {f"{PACKAGE}.{room}" for room in ("attention", "bonds", "decompositions", "inner_products")}
