"""The API reference is built without a complaint, shows contents pages alone, and complains where it should."""

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from pdoc.doc import Module

import tensornet_interp

SCRIPT = Path(__file__).parents[1] / "docs" / "build.py"
PLANTED = "tensornet_interp.planted"


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("docs_build", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    run = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def test_every_contents_page_is_there_and_no_other(site, build):
    written = {path.relative_to(site).with_suffix("").as_posix().replace("/", ".") for path in site.rglob("*.html")}
    assert written == {"index", *build.contents_pages()}
    assert {"tensornet_interp", "tensornet_interp.compare", "tensornet_interp.layer"} <= written


def test_the_places_of_a_page_are_the_names_of_its_contents(site, build):
    for name in build.contents_pages():
        text = (site / f"{name.replace('.', '/')}.html").read_text(encoding="utf-8")
        places = set(re.findall(r'<section id="([^"]*)"', text))
        assert places == set(importlib.import_module(name).__all__)


def test_no_private_module_is_named_in_a_signature(site, build):
    pages = build.contents_pages()
    for path in site.rglob("*.html"):
        text = re.sub(r"<p class.*?</p>|<[^>]*>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for name in re.findall(r"tensornet_interp(?:\.\w+)+", text):
            assert name in pages, f"{path.name}: {name}"


def test_a_call_is_documented(site):
    text = (site / "tensornet_interp" / "layer.html").read_text(encoding="utf-8")
    assert 'id="BilinearMap.__call__"' in text


def prose(build, docstring, name="planted"):
    """How a docstring of a planted function is written, and what the reference complains of."""

    def planted(inputs: tensornet_interp.BilinearLayer, count: int = 1) -> tensornet_interp.CPResult: ...

    planted.__doc__, planted.__module__, planted.__qualname__ = docstring, PLANTED, name
    module = ModuleType(PLANTED)
    module.__dict__.update({"__all__": [name], name: planted})
    page = Module(module)
    reference = build.Reference(build.contents_pages() | {PLANTED: page})
    return str(reference.prose(page.members[name], page)), list(reference.problems)


@pytest.mark.parametrize(
    ("span", "address"),
    [
        ("contract", "../tensornet_interp.html#contract"),
        ("contract(terms, max_elements=3)", "../tensornet_interp.html#contract"),
        ("to_layer()", "results.html#CPResult.to_layer"),
        ("compare.match", "compare.html#match"),
        ("tensornet_interp.compare.match", "compare.html#match"),
        ("output_svd", "decompositions.html#OutputSVD"),
        ("SpectralResult.truncate", "../tensornet_interp.html#SpectralResult.truncate"),
    ],
)
def test_a_name_is_a_link(build, span, address):
    text, problems = prose(build, f"It is `{span}`.")
    assert problems == []
    link = re.search(r'href="([^"]*)"', text)[1]
    assert link.rpartition("#")[2] == address.rpartition("#")[2]


@pytest.mark.parametrize(
    "span",
    [
        "count",
        "count=3",
        "None",
        "nn.Linear",
        "torch.nn.Bilinear",
        "CPTensor",
        "(out, in)",
        "down((left x) * (right x))",
    ],
)
def test_what_is_no_name_of_the_package_needs_no_link(build, span):
    assert prose(build, f"It is `{span}`.")[1] == []


@pytest.mark.parametrize(
    ("span", "name"),
    [
        ("no_such_name", "no_such_name"),
        ("no_such_name(count)", "no_such_name"),
        ("contract(no_such_name(count))", "no_such_name"),
        ("cuont=3", "cuont"),
        ("compare.no_such_name", "compare.no_such_name"),
        ("torch.no_such_name", "torch.no_such_name"),
        ("layer._private", "layer._private"),
        ("inputs.no_such_field", "inputs.no_such_field"),
        ("result.no_such_field", "result.no_such_field"),
        ("CPResult.no_such_field", "CPResult.no_such_field"),
    ],
)
def test_a_name_that_leads_nowhere_is_a_complaint(build, span, name):
    problems = prose(build, f"It is `{span}`.")[1]
    assert [name in problem for problem in problems] == [True]


def test_text_is_written_as_it_stands(build):
    text, _ = prose(build, "y[out] = sum B[out, i, j] x1[i] * x2[j] for a*b*c < 3\n\nOne line.\nAnother <line>.")
    assert '<p class="equation">y[out] = sum B[out, i, j] x1[i] * x2[j] for a*b*c &lt; 3</p>' in text
    assert "One line.</p>" in text
    assert "Another &lt;line&gt;.</p>" in text


def test_a_private_name_in_a_signature_is_a_complaint(build):
    pages = build.contents_pages()
    reference = build.Reference(pages)
    page = pages["tensornet_interp"]
    assert "CPResult</a>" in reference.signature("x: tensornet_interp.factored.CPResult", page, "f")
    assert list(reference.problems) == []
    reference.signature("x: tensornet_interp.decompositions.compress.Compressed", page, "f")
    assert len(reference.problems) == 1


def test_a_link_without_a_target_is_a_complaint(build, tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#here">b</a> <a href="b.html#gone">b</a> <a href="c.html">c</a>')
    (tmp_path / "b.html").write_text('<p id="here">b</p>')
    assert build.broken_links(tmp_path) == ["a.html: no place b.html#gone", "a.html: no place c.html#"]
