"""The house rules of the tests: they see what users see, and what several of them need stands once."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest
from source import PACKAGE, inside_imports

FILES = sorted(Path(__file__).parent.glob("*.py"))
# of named tuples, of os, and what notebooks ask for
PUBLIC_UNDERSCORES = {"_asdict", "_fields", "_make", "_replace", "_exit", "_repr_html_", "_repr_png_"}
# What only the parts show: file of tests -> modules that are no contents pages, and why no public name will do.
INSIDE = {
    "test_decompositions_compress.py": (
        {"decompositions.compress"},
        "floors and lost digits are no fields of any result",
    ),
    "test_decompositions_eigen.py": (
        {"decompositions.eigen"},
        "which way costs less is counted, and both give the same numbers",
    ),
    "test_branches.py": (
        {"decompositions.compress"},
        "branches for sizes that no test can afford, entered by lowered constants",
    ),
    "test_laws.py": ({"decompositions.starts"}, "how far a start moves the tensor, before any fit"),
    "test_balance.py": ({"inner_products.frobenius"}, "bounds on rounding are no fields of any result of a norm"),
    "test_features_statistics.py": ({"features.statistics"}, "of numbers that no quadratic form has"),
    "test_decompositions_fit.py": (
        {"decompositions.compress", "decompositions.fit", "decompositions.parametrize"},
        "gradients and curvature of the fits against dense ones; a wrong one only makes a fit slow",
    ),
    "test_spectra_krylov.py": (
        {"spectra.bounds", "spectra.matrices", "spectra.shared"},
        "bounds by hand; which products of a step are shared",
    ),
    "test_weights_inspection.py": ({"__main__"}, "the commands, without a new process for each"),
    "test_typing.py": ({"decompse"}, "a typo, to see what the error suggests"),
}


def private(name):
    return re.fullmatch(r"_[^_].*", name) and name not in PUBLIC_UNDERSCORES


def private_names(path):
    """Names with a leading underscore that a file takes from elsewhere: by import, as an attribute, in a string."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            yield from (name for name in [*node.module.split("."), *(a.name for a in node.names)] if private(name))
        elif isinstance(node, ast.Attribute) and private(node.attr) and ast.unparse(node.value) != "self":
            yield node.attr
        elif isinstance(node, ast.Constant) and re.fullmatch(rf"{PACKAGE}[\w.]*", str(node.value)):
            yield from (name for name in node.value.split(".") if private(name))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_private_name_is_used(path):
    if path.name == "second_device.py":
        pytest.skip("torch has only private hooks for a device in Python")
    assert list(private_names(path)) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_imports_are_from_contents_pages_or_in_the_table(path):
    allowed, _ = INSIDE.get(path.name, (set(), ""))
    inside = inside_imports(path.read_text(encoding="utf-8"))
    assert set(inside) == {f"{PACKAGE}.{module}" for module in allowed}


def test_no_helper_stands_twice():
    places = defaultdict(list)
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("test_"):
                places[ast.unparse(node.args), ast.unparse(node.body)].append(f"{path.name} {node.name}")
    assert [names for names in places.values() if len(names) > 1] == []
