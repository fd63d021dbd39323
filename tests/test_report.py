"""A report says which layer was decomposed, how, with which versions, and how accurate the result is."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tensornet_interp
from tensornet_interp import Report, decompose, relative_error
from tensornet_interp.decompositions import TensorTrainResult
from tensornet_interp.report import Start, package_version, versions
from tensornet_interp.testing import random_layer

ROOT = Path(__file__).parents[1]


def test_a_report_names_the_versions_of_this_package_and_of_the_libraries():
    found = decompose(random_layer(2, 3, 2, seed=0), "eigen").report.versions
    assert found["tensornet_interp"] == tensornet_interp.__version__ == importlib.metadata.version("tensornet_interp")
    assert found["torch"] == torch.__version__
    assert {"python", "tensorly", "opt-einsum", "numpy"} <= set(found)


def test_reports_do_not_share_their_versions():
    layer = random_layer(2, 3, 2, seed=0)
    first, second = Report.of(layer, "one"), Report.of(layer, "two")
    first.versions["torch"] = "changed"
    assert second.versions == versions()
    assert "changed" not in versions().values()


def test_a_checkout_that_is_not_installed_has_the_version_of_its_project_file(tmp_path):
    shutil.copytree(ROOT / "tensornet_interp", tmp_path / "tensornet_interp")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "tensornet_interp"\nversion = "9.8.7"\n')
    code = (
        "import importlib.metadata as m, sys\n"
        "found = m.version\n"
        "def version(name):\n"
        "    if name == 'tensornet_interp':\n"
        "        raise m.PackageNotFoundError(name)\n"
        "    return found(name)\n"
        "m.version = version\n"
        "import tensornet_interp; print(tensornet_interp.__version__, tensornet_interp.__file__)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[0] == "9.8.7"
    assert str(tmp_path) in run.stdout


@pytest.mark.parametrize(
    ("method", "options"),
    [("eigen", {"rank": 2}), ("output_svd", {"blocks": 2}), ("hosvd", {"ranks": (2, 3)}), ("cp", {"rank": 2})],
)
def test_the_error_of_a_report_is_that_of_the_result_in_the_dtype_of_the_layer(method, options):
    layer = random_layer(3, 7, 4, seed=4, dtype=torch.float32)
    result = decompose(layer, method, **options)
    assert result.relative_error == pytest.approx(relative_error(result, layer), rel=1e-5)


def test_the_version_of_a_checkout_that_is_not_installed_is_that_of_its_project_file(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    package_version.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", missing)
        assert package_version() == project["version"]
    package_version.cache_clear()


def test_a_tensor_train_says_its_sizes_and_ranks():
    layer = random_layer(3, 5, 4, seed=0)
    report = decompose(layer, "eigen").report
    numbers = [torch.ones(*size, dtype=torch.float64) for size in ((3, 2), (2, 5, 4), (5, 4))]
    train = TensorTrainResult(report=report, outputs=numbers[0], middle=numbers[1], inputs=numbers[2])
    assert repr(train).startswith("TensorTrainResult(out=3, in=5, ranks=(2, 4), ")


def test_near_the_best_start_are_those_within_one_percent_of_it():
    starts = [Start(seed, error, 1.0, 1, "tolerance") for seed, error in enumerate((0.1, 0.1005, 0.1009, 0.1012))]
    report = replace(Report.of(random_layer(2, 3, 2, seed=0), "fits"), starts=tuple(starts))
    assert report.near_best == tuple(starts[1:3])
    assert Report.of(random_layer(2, 3, 2, seed=0), "no fit").near_best == ()
