"""Wine, diabetes and a language model, all the way from data to a page and a file that a new process opens."""

import csv
import os
import subprocess
import sys

import pytest

from examples import walkthrough

pytestmark = pytest.mark.slow
NAMED = {
    "wine": ("od280/od315 of diluted wines", "class_0"),
    "diabetes": ("blood pressure", "progress"),
    "language": (" cheese", " honey"),
}
FRESH = """
import sys, torch
from tensornet_interp import load, relative_error
kept = load(sys.argv[1])
layer, result = kept["layer"], kept["result"]
print(layer.input_names == result.input_names, relative_error(result, layer), result.relative_error)
"""


@pytest.mark.parametrize("data", list(walkthrough.SUBJECTS))
def test_it_goes_all_the_way(tmp_path, capsys, data):
    walkthrough.main(["--data", data, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "the file opens with an equal result: True" in printed
    folder, (of_input, of_output) = tmp_path / data, NAMED[data]
    assert (folder / "eigenvectors.png").read_bytes().startswith(b"\x89PNG")
    with (folder / "components.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {f"input_{of_input}", f"output_{of_output}", "eigenvalue"} <= set(rows[0])
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert of_input in page
    assert ">Explanations</h2>" in page
    run = subprocess.run(
        [sys.executable, "-c", FRESH, str(folder / "analysis.safetensors")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 0, run.stderr
    same, found, reported = run.stdout.split()
    assert same == "True"
    assert float(found) == pytest.approx(float(reported), rel=1e-3, abs=1e-6)  # the errors of float32 factors


def test_the_models_have_learned():
    """Else the walk shows noise: the classifier knows the wines, the regression explains half of the variance."""
    wines = walkthrough.wine(None, 0)
    assert float((wines.layer(wines.inputs).argmax(-1) == wines.labels).double().mean()) > 0.95
    patients = walkthrough.diabetes(None, 0)
    assert float((patients.layer(patients.inputs) - patients.targets).square().mean()) < 0.5  # 1 for a constant
