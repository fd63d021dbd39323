"""The wheel holds the package alone, and what the pages show runs from it, with no checkout in sight."""

import ast
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from snippets import ROOT, SNIPPETS

pytestmark = pytest.mark.wheel
PACKAGE = ROOT / "tensornet_interp"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]

# Without `site` no .pth file is read, so an editable install of the checkout is not found.
RUN = """
import importlib.util, json, sys, traceback
packages, installed, snippets = json.load(sys.stdin)
sys.path[:0] = [packages]
sys.path += installed
for name in ("models", "examples", "tests"):
    if importlib.util.find_spec(name) is not None:
        sys.exit(f"{name} can be imported: this is not the wheel alone")
import tensornet_interp
from tensornet_interp.registry import scratch_registry
if not tensornet_interp.__file__.startswith(packages):
    sys.exit(f"tensornet_interp comes from {tensornet_interp.__file__}")
failed = []
for name, code in snippets:
    try:
        with scratch_registry():
            exec(compile(code, name, "exec"), {"__name__": name})
    except Exception:
        traceback.print_exc()
        failed.append(name)
sys.exit(f"failed: {failed}" if failed else 0)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, ROOT]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_alone(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    files = [PACKAGE / "py.typed", *PACKAGE.rglob("*.py"), *(PACKAGE / "pages").glob("page.*")]
    own = {path.relative_to(ROOT).as_posix() for path in files}
    assert "tensornet_interp/pages/page.html.jinja2" in own
    assert own <= held
    assert {name.split("/")[0] for name in held - own} == {f"{wheel.name.rsplit('-', 3)[0]}.dist-info"}


def test_the_wheel_requires_what_the_package_imports(wheel):
    metadata = zipfile.ZipFile(wheel).read(f"{wheel.name.rsplit('-', 3)[0]}.dist-info/METADATA").decode()
    required = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", metadata, flags=re.MULTILINE)
    imported = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module)
    others = {module.split(".")[0] for module in imported} - set(sys.stdlib_module_names) - {PACKAGE.name}
    assert {name.replace("-", "_") for name in required} == others


def test_snippets_run_from_the_wheel(wheel, tmp_path):
    packages = tmp_path / "packages"
    command = [*PIP, "install", "--no-deps", "--no-index", "--target", packages, wheel]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    installed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    alone = [(snippet.name, snippet.code) for snippet in SNIPPETS if not snippet.needs_checkout and snippet.runs]
    assert alone
    (tmp_path / "elsewhere").mkdir()
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", RUN],
        input=json.dumps([str(packages), installed, alone]),
        cwd=tmp_path / "elsewhere",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
