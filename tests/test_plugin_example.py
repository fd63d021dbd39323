"""The package in examples/plugin is built, installed beside this one and run in a process of its own."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from snippets import ROOT

pytestmark = pytest.mark.wheel
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
SCRIPT = """
import json, sys
import pytest
import tensornet_interp as ti
from tensornet_interp.testing import random_layer

layer = random_layer(3, 7, 5, seed=0)
result = ti.decompose(layer, "kept_units", rank=2)
ti.save(result, "kept.safetensors")
network = ti.decompose(ti.BilinearNetwork([layer]), "kept_units", rank=2)
(listed,) = [listed for listed in ti.list_decompositions() if listed.name == "kept_units"]
tests = pytest.main(["-q", "-rP", "-p", "no:cacheprovider", "-c", "/dev/null", sys.argv[1]])
print(json.dumps({"file": sys.modules["kept_units"].__file__, "repr": repr(result), "units": result.units,
    "loaded": repr(ti.load("kept.safetensors")),
    "part": repr(network[0]), "listed": listed, "tests": int(tests), "error": ti.relative_error(result, layer),
    "reported": result.relative_error}))
"""


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_of_a_plugin_is_built_installed_and_found_by_name(tmp_path):
    source, wheels, site = (tmp_path / name for name in ("source", "wheels", "site"))
    shutil.copytree(ROOT / "examples" / "plugin", source)
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", wheels, source)
    (wheel,) = wheels.glob("*.whl")
    run(*PIP, "install", "--no-deps", "--no-index", "--target", site, wheel)
    path = os.pathsep.join([str(site), str(ROOT)])
    printed = run(
        *(sys.executable, "-c", SCRIPT, source / "test_kept_units.py"),
        env=os.environ | {"PYTHONPATH": path},
        cwd=tmp_path,
    )
    found = json.loads(printed.splitlines()[-1])
    assert found["tests"] == 0, printed
    assert "not tested  the error never rises along the ladder: the class does not declare nested = True" in printed
    assert found["file"] == str(site / "kept_units.py")
    assert found["repr"].startswith(
        "UnitsResult(out=3, in=7, rank=2, of 'random 0', basis='as given', relative error 0."
    )
    assert found["part"] == found["loaded"] == found["repr"]
    assert found["listed"] == [
        "kept_units",
        "Keep the hidden units with the largest norms, times the scalar that fits the layer best.",
        "kept-units 0.1.0, kept_units:KeptUnits",
        ["rank=None"],
    ]
    assert found["reported"] == pytest.approx(found["error"], rel=1e-9)
    assert len(set(found["units"])) == 2
