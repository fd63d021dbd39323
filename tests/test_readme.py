"""What the README and the pages beside it say runs."""

import ast
import re

import pytest
from snippets import PAGES, ROOT, SNIPPETS, snippets

from tensornet_interp.registry import scratch_registry

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
OF_A_CHECKOUT = {"models", "examples", "tests"}


def test_snippets_are_found():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert len(SNIPPETS) == text.count("```python") >= 4


def test_a_mark_says_that_a_snippet_needs_a_checkout():
    page = "a\n```python\nb = 1\n```\n<!-- needs a checkout -->\n```python\nimport models\n```\n"
    assert snippets(page, "page") == [("page:2", "b = 1\n", ""), ("page:6", "import models\n", "a checkout")]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.name)
def test_snippet(snippet, monkeypatch, tmp_path):
    if not snippet.runs:
        pytest.skip(f"{snippet.needs} is not installed")
    monkeypatch.chdir(tmp_path)
    with scratch_registry():
        exec(compile(snippet.code, snippet.name, "exec"), {"__name__": snippet.name})


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.name)
def test_a_snippet_of_a_checkout_says_so(snippet):
    imports = [node for node in ast.walk(ast.parse(snippet.code)) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = [getattr(node, "module", None) or node.names[0].name for node in imports]
    assert bool(OF_A_CHECKOUT & {module.split(".")[0] for module in modules}) == snippet.needs_checkout


@pytest.mark.parametrize(
    ("end", "extra"),
    [("python examples/digits.py", "examples"), ("python -m pytest -n 2 --dist loadfile", "test")],
    ids=["main job", "tests"],
)
def test_command(end, extra):
    lines = [line for line in SHELL if line.endswith(end) and "pip install" in line]
    assert len(lines) == 1
    assert lines[0].startswith("python3 -m venv .venv && ")
    assert f'-e ".[{extra}]"' in lines[0]
    assert README.splitlines().count(lines[0]) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_local_links_exist(page):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_picture_says_what_it_shows(page):
    pictures = re.findall(r"!\[([^\]]*)\]\(", page.read_text(encoding="utf-8"))
    assert [text for text in pictures if len(text.split()) < 5] == []


def test_the_gallery_shows_every_small_figure_and_names_real_commands():
    gallery = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    shown = {(ROOT / "docs" / link).resolve() for link in re.findall(r"\]\(([^)]+\.png)\)", gallery)}
    assert shown == {ROOT / "docs" / "mnist.png", *(ROOT / "docs" / "figures").glob("*.png")}
    assert {path.name: path.stat().st_size for path in shown if path.stat().st_size > 60_000} == {}
    commands = re.findall(r"^`python (examples/\w+\.py)(.*)` writes", gallery, flags=re.MULTILINE)
    assert len(commands) == len(shown)
    for script, options in commands:
        source = (ROOT / script).read_text(encoding="utf-8") + (ROOT / "examples/parts/image_job.py").read_text(
            encoding="utf-8"
        )
        assert [option for option in re.findall(r"--[\w-]+", options) if f'"{option}"' not in source] == []
