"""The notebook is made from its script, runs from top to bottom, and shows figures and cards without a backend."""

import json
from pathlib import Path

import pytest

pytest.importorskip("nbformat", reason="the extra 'notebook' is not installed")
pytest.importorskip("nbclient", reason="the extra 'notebook' is not installed")
pytest.importorskip("ipykernel", reason="the extra 'notebook' is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from examples import build_notebook


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    path = tmp_path_factory.mktemp("notebook") / "first_hour.ipynb"
    build_notebook.main(["--execute", "--out", str(path)])
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def test_the_notebook_is_that_of_its_script(tmp_path):
    build_notebook.main(["--out", str(tmp_path / "made.ipynb")])
    stored = Path(build_notebook.SOURCE).with_suffix(".ipynb")
    assert (tmp_path / "made.ipynb").read_bytes() == stored.read_bytes()


@pytest.mark.slow
def test_every_cell_runs_and_shows_what_it_should(executed):
    shown = [output["data"] for cell in executed for output in cell.get("outputs", []) if "data" in output]
    assert sum("image/png" in data for data in shown) == 5  # figures, without %matplotlib inline
    cards = ["".join(data["text/html"]) for data in shown if "text/html" in data]
    assert len(cards) == 4  # two layers, a result, a plan
    assert "images of 8 x 8 pixels" in cards[0]
    assert "13: alcohol, malic_acid" in cards[2]
    assert not any("%matplotlib" in "".join(cell["source"]) for cell in executed)


@pytest.mark.slow
def test_few_eigenvectors_agree_with_the_layer(executed):
    printed = "".join(
        o["text"] if isinstance(o["text"], str) else "".join(o["text"])
        for c in executed
        for o in c.get("outputs", [])
        if "text" in o
    )
    agreements = [float(line.split("agreement ")[1]) for line in printed.splitlines() if "agreement" in line]
    assert len(agreements) == 5
    assert agreements[-1] > 0.9
