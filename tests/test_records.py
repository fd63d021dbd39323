"""Records, data frames and CSV files of everything that the package returns."""

import csv
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from stored_objects import OBJECTS

from tensornet_interp import CPResult, SpectralResult, decompose, lift, odt, plan
from tensornet_interp.circuits import circuit
from tensornet_interp.network import BilinearNetwork
from tensornet_interp.tables import HasRecords, to_frame, write_csv
from tensornet_interp.testing import check_decomposition, random_layer

LAYER = random_layer(2, 3, 4, seed=0).with_names(input_names=["age", "height", "pulse"], output_names=["risk", "price"])
LIFTED = lift(LAYER, bias=torch.tensor([1.0, 2.0], dtype=torch.float64))
TABLES = {name: value for name, value in OBJECTS.items() if isinstance(value, HasRecords)}
TABLES |= {
    "Plan": plan(LAYER),
    "CheckReport": check_decomposition("eigen"),
    "named CPResult": decompose(LAYER, "cp", rank=2),
    "named TuckerResult": decompose(LIFTED, "hosvd"),
    "named SpectralResult": decompose(LIFTED, "eigen"),
}
NO_TABLE = {
    "a layer or a network": {"BilinearLayer", "BilinearNetwork", "TermNetwork"}
    | {"AttentionLayer", "SequenceNetwork", "LinearMap", "Norm", "Part", "GatedLayer"},
    "arrays": {
        "Term",
        "Split",
        "Moments",
        "Metric",
        "Dictionary",
        "Submatrix",
        "Overlap",
        "Projection",
        "Strongest",
        "SVD",
        "QueryForm",
        "StreamMoments",
    },
    "a part of another object, which has the records": {
        "Bond",
        "Level",
        "HeadLevel",
        "Component",
        "EigenGroup",
        "Names",
        "InspectedFile",
    },
    "a named tuple, which is a record itself": {"Start", "Interaction", "Label", "Entry"}
    | {"GraphNode", "GraphEdge", "GraphTarget"},
    "a matrix that is never formed; `top` gives a table": {"LowRank"},
}


def test_every_result_and_report_has_records() -> None:
    without = set().union(*NO_TABLE.values())
    assert {type(value).__name__ for value in OBJECTS.values()} - without <= {type(v).__name__ for v in TABLES.values()}
    assert not without & TABLES.keys()


def plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(plain(item) and not isinstance(item, dict) for item in value.values())
    return value is None or isinstance(value, bool | int | float | str)


@pytest.mark.parametrize("name", TABLES)
def test_records_are_plain_and_have_the_same_keys(name, tmp_path, monkeypatch):
    rows = TABLES[name].records()
    assert rows
    assert len({tuple(row) for row in rows}) == 1
    assert all(plain(value) for row in rows for value in row.values())
    write_csv(TABLES[name], tmp_path / "new" / "a.csv")
    with (tmp_path / "new" / "a.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda rows: rows))
    framed = to_frame(TABLES[name])
    columns = dict.fromkeys(column for row in framed for column in row)
    assert read == [{c: "" if row.get(c) is None else str(row[c]) for c in columns} for row in framed]


def test_vectors_have_a_column_per_name() -> None:
    result = decompose(LIFTED, "eigen")
    assert isinstance(result, SpectralResult)
    rows = result.records()
    assert [(row["block"], row["component"]) for row in rows[:2]] == [(0, 0), (0, 1)]
    for row in rows:
        vector = result.eigenvectors[row["block"], :, row["component"]]
        assert row["inputs"] == dict(zip(["(constant)", "age", "height", "pulse"], vector.tolist(), strict=True))
        assert row["eigenvalue"] == float(result.eigenvalues[row["block"], row["component"]])
    found = decompose(LAYER, "cp", rank=2)
    assert isinstance(found, CPResult)
    assert [row["weight"] for row in found.records()] == found.weights.tolist()
    assert found.records()[1]["right"]["height"] == float(found.right[1, 1])
    assert found.records()[1]["outputs"] == {"risk": float(found.outputs[0, 1]), "price": float(found.outputs[1, 1])}
    assert decompose(random_layer(2, 3, 4, seed=0), "cp", rank=2).records()[0]["left"] is None


def test_components_of_a_circuit_have_the_names_of_the_inputs() -> None:
    network = BilinearNetwork([LAYER.with_names(output_names=["a", "b"]), random_layer(1, 2, 3, seed=1)])
    found = circuit(network, torch.ones(1, dtype=torch.float64), widths=None, progress=False)
    rows = found.records()
    leaves = [row for row in rows if row["layer"] == 0]
    assert {row["layer"] for row in rows} == {0, 1}
    assert all(row["inputs"] is None for row in rows if row["layer"] == 1)
    assert [row["inputs"]["age"] for row in leaves] == found.levels[-1].vectors[:, 0].tolist()


def test_singular_values_of_bonds_are_rows() -> None:
    found = odt(BilinearNetwork([random_layer(4, 3, 5, seed=0), random_layer(2, 4, 3, seed=1)]))
    values = [row["singular_value"] for row in found.records() if row["bond"] == 1]
    assert values == found.bonds[1].singular_values.tolist()


def test_lists_of_results_tuples_and_dicts_follow_each_other(tmp_path) -> None:
    path = tmp_path / "a.csv"
    write_csv(
        [decompose(LAYER, "eigen", rank=1).report, {"layer": "mine", "options": {"layer": [1, 2], "k": None}}], path
    )
    with path.open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert (first["layer"], first["version_torch"], first["option_layer"]) == ("random 0", torch.__version__, "")
    assert (second["layer"], json.loads(second["option_layer"]), second["k"]) == ("mine", [1, 2], "")
    write_csv(OBJECTS["Report"].starts, path)
    assert path.read_text(encoding="utf-8").startswith("seed,relative_error,congruence,iterations,stop_reason")


def test_what_has_no_records_is_refused(tmp_path) -> None:
    path = tmp_path / "a.csv"
    write_csv([{"a": 1}], path)
    for wrong in (LAYER, torch.ones(2), "text"):
        with pytest.raises(TypeError, match="records must be"):
            write_csv(wrong, path)
    with pytest.raises(TypeError, match=r"records\[1\]"):
        write_csv([{"a": 2}, 3], path)
    assert path.read_text(encoding="utf-8").split() == ["a", "1"]


def test_a_real_frame() -> None:
    pandas = pytest.importorskip("pandas")
    frame = to_frame(decompose(LAYER, "eigen"))
    assert isinstance(frame, pandas.DataFrame)
    assert {"block", "eigenvalue", "input_age", "output_price"} <= set(frame.columns)
