"""The graph of a tiny random language model, and small planted circuits."""

import pytest
from helpers import read_rows
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_examples_feature_circuits import random_model

from examples import feature_graph
from examples.parts.graph_planted import from_attribution, from_weights, plant, walk
from tensornet_interp import load, norm
from tensornet_interp.weights import load_dictionary


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("language"), layers=3, count=60)


def run(kept, *more):
    options = ["--model", str(kept / "none-0"), "--steps", "8", "--batch-size", "32", "--buffer", "64", "--k", "3"]
    options += ["--planted-seeds", "0", "--windows", "30", "--edges", "6", "--nodes", "4", "--seeds", "2"]
    feature_graph.main([*options, "--out", str(kept / "out"), *more])


def test_a_language_model_gets_its_graph_with_verdicts_and_figures(kept, capsys):
    run(kept)
    out = kept / "out"
    printed = capsys.readouterr().out
    assert "the rule. confirmed:" in printed
    assert "strongest:" in printed
    graph = load(out / "graph.safetensors")
    assert graph.mode == "averaged"
    assert [graph.nodes[target.node].part for target in graph.targets[:2]] == [5, 5]
    rows = read_rows(out / "tests.csv")
    assert {row["edges"] for row in rows} == {"strongest", "random"}
    assert {row["verdict"] for row in rows} <= {"confirmed", "refuted", "untested"}
    for name in ("graph", "prompt"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert load_dictionary(out / "autoencoders-8" / "0-resid-pre-x4-k3").width == 8

    times = {path: path.stat().st_mtime_ns for path in [out / "tests.csv", *out.rglob("*.safetensors")]}
    run(kept)
    assert times == {path: path.stat().st_mtime_ns for path in times}
    with pytest.raises(ValueError, match=r"other settings.*'windows': \(30, 31\)"):
        run(kept, "--windows", "31")
    weights = next((kept / "none-0").glob("model*.safetensors"))
    tensors = {name: 2 * tensor for name, tensor in load_file(weights).items()}
    with safe_open(weights, "pt") as file:
        save_file(tensors, weights, file.metadata())
    with pytest.raises(ValueError, match=r"other settings.*'weights'"):
        run(kept)


def test_a_planted_circuit_is_found_in_pairs_and_attribution_sees_single_features():
    planted = plant(1.0, 0, width=128, features=128, hidden=64)
    layer = planted.network[0].map
    dense = type(layer)(down=layer.down[:, 32:], left=layer.left[:, 32:], right=layer.right[:, 32:])
    alone = type(layer)(down=layer.down[:, :32], left=layer.left[:, :32], right=layer.right[:, :32])
    assert float(norm(dense)) == pytest.approx(float(norm(alone)), rel=1e-9)
    assert len(planted.edges) == 42
    found = walk(planted, from_weights(planted))
    assert found["pair_precision"] == found["pair_recall"] == 1
    other = walk(planted, from_attribution(planted))
    assert other["pair_precision"] < 1
    assert other["single_recall"] > 0.5


def test_text_of_a_plant_makes_its_seed_active():
    planted = plant(0.0, 1, width=128, features=128, hidden=8)
    y = planted.network.streams(planted.text)
    codes = planted.dictionaries[2, "out"].encode(y[3] - y[2])[..., planted.seed[1]]
    assert float(codes[:, 1::2].mean()) > 3 * float(codes[:, ::2].mean())  # on every second token, a way is on
