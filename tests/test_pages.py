"""What a page of `write_report` holds, read from the file; test_pages_browser.py opens pages in a browser."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from helpers import normal

from tensornet_interp import BilinearNetwork, Eigen, decompose, write_report
from tensornet_interp.circuits import circuit, project
from tensornet_interp.decompositions import tensorly_adapter
from tensornet_interp.fidelity import fidelity, network_fidelity
from tensornet_interp.sweep import sweep
from tensornet_interp.testing import random_layer

pytest.importorskip("bokeh", reason="bokeh is not installed")
NAMES = ["age", "</script><b>bmi", "$$x$$", "s 1"]
LAYER = random_layer(3, 4, 5, seed=0).with_names(input_names=NAMES, output_names=["low", "middle", "high"])
X = normal(9, 4)
LABELS = torch.tensor([0, 1, 2] * 3)


def page_of(tmp_path, obj, **options):
    """The text of a page, and the data in it."""
    path = tmp_path / "deep" / "page.html"
    write_report(obj, path, overwrite=True, **options)
    text = path.read_text(encoding="utf-8")
    assert text.endswith("</html>\n")
    found = re.search(r'<script type="application/json" id="content">(.*?)</script>', text, re.DOTALL)
    return text, json.loads(found[1])


def table(content, *columns):
    """The rows of the table with these columns."""
    (found,) = [table for table in content["tables"] if set(columns) <= set(table["columns"])]
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def test_a_page_of_a_layer_has_its_sizes_components_accuracy_curve_and_explanations(tmp_path):
    text, content = page_of(tmp_path, LAYER, inputs=X, labels=LABELS, explain=[7], title="The <wine> layer")
    assert "<title>The &lt;wine&gt; layer</title>" in text
    for heading in ("Overview", "Components", "Accuracy", "Truncation", "Explanations", "How it was made"):
        assert f">{heading}</h2>" in text
    for words in (
        "3: low, middle, high",
        "Eigen(directions=every output, rank=4)",
        f"<dt>torch</dt><dd>{torch.__version__}",
    ):
        assert words in text
    result = Eigen()(LAYER)
    rows = table(content, "eigenvalue", "largest entries")
    assert [row["eigenvalue"] for row in rows] == pytest.approx(result.eigenvalues.flatten().tolist(), rel=1e-5)
    at = int(result.eigenvectors[0, :, 0].abs().argmax())
    assert rows[0]["largest entries"].startswith(NAMES[at])
    margin = LAYER(X[7]).sort(descending=True).values
    adds = [row["adds"] for row in table(content, "adds", "component")]
    assert sum(adds) == pytest.approx(float(margin[0] - margin[1]), rel=1e-4)  # six digits each of 12 numbers
    shares = [row["share"] for row in table(content, "adds", "component")]
    assert shares == pytest.approx([number / sum(adds) for number in adds], rel=1e-4, abs=1e-5)
    assert "are drawn; the table has all" not in text
    curve = table(content, "ranking", "components")
    assert curve[-1]["accuracy"] == pytest.approx(float((LAYER(X).argmax(-1) == LABELS).double().mean()), rel=1e-5)
    assert "http" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)


def test_a_page_of_a_result_compares_it_with_its_layer(tmp_path):
    result = decompose(LAYER, "eigen", rank=1)
    text, content = page_of(tmp_path, result, reference=LAYER, inputs=X)
    assert ">Fidelity</h2>" in text
    assert [row["output"] for row in table(content, "mse", "output")] == ["low", "middle", "high"]
    assert "<dt>relative error</dt>" in text
    _, alone = page_of(tmp_path, result)
    assert not [table for table in alone["tables"] if "mse" in table["columns"]]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cp", "hosvd", "output_svd", "block_term"])
def test_every_type_of_result_has_a_page(tmp_path, method):
    result = decompose(LAYER, method)
    text, content = page_of(tmp_path, result, reference=LAYER, inputs=X, explain=[0])
    assert f"<title>{type(result).__name__} of {LAYER.name}</title>" in text
    assert len(content["figures"]) == text.count('class="plot"') > 5


@pytest.mark.slow
def test_a_network_a_circuit_and_a_sweep_have_pages(tmp_path):
    network = BilinearNetwork([random_layer(4, 4, 3, seed=1).with_names(input_names=NAMES), LAYER.with_names()])
    text, content = page_of(tmp_path, network, inputs=X, labels=LABELS)
    assert ">Bonds</h2>" in text
    assert ">Part 1: components</h2>" in text
    assert len(table(content, "occurrences", "rank")) == 3
    text, content = page_of(tmp_path, network, inputs=X, explain=[7])
    assert ">input 7: margin" in text
    assert {row["input"] for row in table(content, "adds", "component")} == {7}
    tree = circuit(network, torch.tensor([1.0, 0, 0], dtype=X.dtype), widths=2, progress=False)
    text, content = page_of(tmp_path, tree, inputs=X)
    assert f"{tree.relative_error(X):.4g}" in text
    assert len(table(content, "parent", "score")) == 6
    records = sweep(LAYER, "eigen", {"rank": [1, 2]}, progress=False)
    text, content = page_of(tmp_path, records)
    assert [row["rank"] for row in table(content, "relative error")] == [1, 2]
    assert len(content["figures"]) == 1


def test_the_tree_and_the_images_of_a_circuit(tmp_path):
    layers = [random_layer(4, 6, 3, seed=1).with_names(input_shape=(2, 3)), LAYER.with_names()]
    tree = circuit(BilinearNetwork(layers), torch.tensor([1.0, 0, 0], dtype=X.dtype), widths=2, progress=False)
    _, content = page_of(tmp_path, tree)
    drawn = json.dumps(content["figures"])
    x, score, width = (re.findall(rf'\["{name}", (\[[^]]*\])', drawn)[0] for name in ("x", "score", "width"))
    places = [0.125, 0.25, 0.375, 0.625, 0.75, 0.875]  # children share the span of their parent
    assert sorted(json.loads(x)) == places
    scores = torch.tensor(json.loads(score))
    assert json.loads(score) == pytest.approx([row["score"] for row in table(content, "parent", "score")], rel=1e-5)
    assert json.loads(width) == pytest.approx((1 + 5 * scores / scores.max()).tolist(), rel=1e-5)
    assert set(re.findall(r'"aspect_ratio": ([\d.]+)', drawn)) == {"1.5"}  # three columns by two rows


def test_a_wide_network_has_no_bonds_and_images_of_pixels_no_negative_colours(tmp_path):
    wide = random_layer(4, 1025, 2, seed=1).with_names(input_shape=(25, 41))
    network = BilinearNetwork([wide, LAYER.with_names()])
    x = torch.rand(3, 1025, generator=torch.Generator().manual_seed(0), dtype=X.dtype)
    text, content = page_of(tmp_path, network, inputs=x, explain=[2])
    assert ">Bonds</h2>" not in text
    assert text.count("Components of Eigen(directions=every output, rank=4).") == 2
    assert ">input 2: " in text
    colours = re.findall(r'"palette": \["(#\w+)", [^]]*\], "low": (-?)', json.dumps(content["figures"]))
    assert set(colours) == {("#ffffff", ""), ("#2166ac", "-")}  # of images, which are not negative, and of weights


def test_a_sweep_says_which_fits_failed(tmp_path):
    with pytest.warns(UserWarning, match="1 of 2 fits failed"):
        records = sweep(LAYER, "eigen", {"rank": [1, 99]}, progress=False)
    text, content = page_of(tmp_path, records)
    assert "1 of 2 fits failed; the column error says why." in text
    assert "99" in table(content, "rank", "error")[1]["error"]


def test_a_contracted_network_is_shown_as_its_layer(tmp_path):
    network = BilinearNetwork([random_layer(4, 4, 3, seed=1), LAYER.with_names()])
    text, content = page_of(tmp_path, project(network, {"in3": X[0], "in4": X[1]}))
    assert ">Components</h2>" in text
    fixed = project(network, {"in3": X[0], "in4": X[1]}).to_layer()
    rows = table(content, "block", "eigenvalue")
    assert [row["eigenvalue"] for row in rows] == pytest.approx(Eigen()(fixed).eigenvalues.flatten().tolist(), rel=1e-5)


def test_a_network_is_compared_with_another_part_by_part(tmp_path):
    network = BilinearNetwork([random_layer(4, 4, 3, seed=1), LAYER.with_names()])
    smaller = BilinearNetwork([decompose(part, "eigen", rank=1) for part in network])
    _, content = page_of(tmp_path, smaller, reference=network, inputs=X, labels=LABELS)
    rows = table(content, "part", "relative mse")
    assert [row["part"] for row in rows] == [None, 0, 1]  # first the whole network
    found = network_fidelity(smaller, network, X, LABELS).records()
    for field in ("accuracy", "relative_mse"):
        shown = [row[field.replace("_", " ")] for row in rows]
        assert shown == pytest.approx([record[field] for record in found], rel=1e-5, nan_ok=True)


def test_a_tensor_train_and_a_fit_with_several_starts_have_pages(tmp_path):
    _, content = page_of(tmp_path, tensorly_adapter("tensor_train")(rank=(2, 3))(LAYER))
    assert len(content["figures"]) > 2
    result = decompose(LAYER, "cp", rank=2, starts=3, max_iterations=5)
    _, content = page_of(tmp_path, result)
    errors = [start.relative_error for start in result.report.starts]
    assert [row["relative error"] for row in table(content, "seed", "relative error")] == pytest.approx(
        errors, rel=1e-5
    )


def test_a_report_has_its_numbers_with_six_digits_and_its_table(tmp_path):
    found = fidelity(decompose(LAYER, "eigen", rank=1), LAYER, X, LABELS)
    text, content = page_of(tmp_path, found)
    assert "<dt>samples</dt><dd>9</dd>" in text
    assert f"<dt>mse</dt><dd>{found.mse:.6g}</dd>" in text
    assert len(table(content, "output", "mse")) == 4


def test_a_layer_of_zeros_has_no_empty_headings(tmp_path):
    text, content = page_of(tmp_path, replace(LAYER, down=torch.zeros_like(LAYER.down)))
    assert "<h3>low</h3>" not in text
    assert {row["eigenvalue"] for row in table(content, "eigenvalue")} == {0}


@pytest.mark.slow
def test_ten_thousand_outputs_are_not_drawn_whole(tmp_path):
    text, content = page_of(tmp_path, random_layer(10_000, 4, 3, seed=0))
    assert len(table(content, "output", "norm")) == 10_000
    assert len(content["figures"]) < 100
    assert len(text) < 5e6


def test_long_tables_say_what_they_leave_out(tmp_path):
    text, content = page_of(tmp_path, [{"a": float(i)} for i in range(10_001)])
    assert len(content["tables"][0]["rows"]) == 10_000
    assert "The first 10000 of 10001 rows" in text


def test_numbers_that_are_no_json_are_texts(tmp_path):
    text, content = page_of(tmp_path, [{"a": float("nan"), "b": float("inf"), "c": True, "d": [1, 2], "e": None}])
    assert "write_csv writes all" not in text
    assert content["tables"][0] == {"columns": ["a", "b", "c", "d"], "rows": [["nan", "inf", "True", "1, 2"]]}


def spoiled():
    layer = random_layer(3, 4, 5, seed=0)
    layer.down[0, 0] = float("nan")
    return layer


@pytest.mark.parametrize(
    ("obj", "options", "words"),
    [
        ([], {}, "obj is empty"),
        (object(), {}, "obj must be a layer"),
        ({"layer": LAYER}, {}, "got dict; write one page per entry"),
        (torch.nn.Linear(2, 2), {}, "got Linear; weights.from_module"),
        (spoiled(), {}, "obj has 1 entries that are NaN"),
        (LAYER, {"inputs": X[:0]}, "inputs is empty"),
        (LAYER, {"inputs": X[:, :3]}, "mode 'in' has size 4 in obj but 3 in inputs"),
        (LAYER, {"labels": LABELS}, "labels needs inputs"),
        (LAYER, {"inputs": X, "explain": [9]}, r"explain\[0\] must be from 0 to 8"),
        (LAYER, {"inputs": X, "explain": [0] * 25}, "at most 24 indices, got 25"),
        (LAYER, {"reference": random_layer(3, 5, 4, seed=0)}, "mode 'in' has size 4 in obj but 5 in reference"),
        ([{"a": 1}], {"inputs": X}, "inputs belongs to a layer"),
    ],
)
def test_what_a_page_cannot_show_is_refused_and_no_file_is_made(tmp_path, obj, options, words):
    with pytest.raises((ValueError, TypeError), match=words):
        write_report(obj, tmp_path / "page.html", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_exists_or_cannot_be_written_is_refused(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("kept")
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        write_report([{"a": 1}], page)
    assert page.read_text() == "kept"
    for path, words in ((tmp_path / "page", "must end in .html"), (page / "a.html", "is no folder")):
        with pytest.raises(ValueError, match=words):
            write_report([{"a": 1}], path)
    for name in ("folder.html", "folder"):
        (tmp_path / name).mkdir()
        with pytest.raises(ValueError, match=r"is a folder; give .*report.html"):
            write_report([{"a": 1}], tmp_path / name, overwrite=True)
    write_report([{"a": 1}], page, overwrite=True)
    assert page.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.slow
def test_without_the_extra_the_error_says_how_to_install_it(tmp_path):
    code = """
import sys
sys.modules["bokeh"] = None
from tensornet_interp import write_report
try:
    write_report([{"a": 1}], sys.argv[1])
except ImportError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "page.html")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert "pip install 'tensornet_interp[report]'" in run.stdout, run.stderr
    assert list(tmp_path.iterdir()) == []
