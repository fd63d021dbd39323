"""What the README says runs."""

import re
from pathlib import Path

import pytest

from tensornet_interp.registry import scratch_registry

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
SHELL = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


def test_snippets_are_found():
    assert len(SNIPPETS) == README.count("```python") >= 4


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet(number, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with scratch_registry():
        exec(compile(SNIPPETS[number], f"README.md, snippet {number}", "exec"), {"__name__": f"snippet_{number}"})


@pytest.mark.parametrize(
    ("end", "extra"),
    [("python examples/digits.py", "examples"), ("python -m pytest", "test")],
    ids=["main job", "tests"],
)
def test_command(end, extra):
    lines = [line for line in SHELL if line.endswith(end) and "pip install" in line]
    assert len(lines) == 1
    assert lines[0].startswith("python3 -m venv .venv && ")
    assert f'-e ".[{extra}]"' in lines[0]
    assert README.splitlines().count(lines[0]) == 1


def test_local_links_exist():
    root = Path(__file__).parents[1]
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in link:
            assert (root / link).exists(), link
