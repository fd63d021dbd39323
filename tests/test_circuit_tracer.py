"""Graphs of features in the files of circuit-tracer: links sum to pre-activations, and all its fields are there."""

import json
import math
from dataclasses import replace

import pytest
import torch
from helpers import normal

from models.transformer import TransformerConfig, build_transformer
from tensornet_interp.features import Dictionary
from tensornet_interp.graphs import feature_graph, write_circuit_tracer

TOKENS = ["<script>", ' "the"', "\n", " dog", " sat", "."]
PLACES = ((1, "out"), (3, "in"), (3, "out"))


@pytest.fixture(scope="module")
def graph():
    """A random model of two layers with a dictionary after the first MLP and on both sides of the second one."""
    model = build_transformer(TransformerConfig(11, 8, 12, 2, 2, 6), seed=0).double().requires_grad_(False)
    dictionaries = {
        place: Dictionary(normal(20, 8, seed=2 * i), normal(8, 20, seed=2 * i + 1), k=5)
        for i, place in enumerate(PLACES)
    }
    x = model.embedding(torch.arange(6) % 11)
    direction = torch.eye(11, dtype=torch.float64)[3] - torch.eye(11, dtype=torch.float64)[7]  # of two logits
    seeds = [direction, (3, "out")]
    return feature_graph(model.network(), dictionaries, seeds, x, features=6, nodes=4)


def written(graph, folder, **options):
    write_circuit_tracer(graph, folder, TOKENS, **options)
    return json.loads((folder / f"{options.get('slug', 'graph')}.json").read_text(encoding="utf-8"))


def into(content, node):
    return math.fsum(link["weight"] for link in content["links"] if link["target"] == node)


@pytest.mark.parametrize("pairs", [0, 3, 10_000])
def test_the_links_of_a_target_sum_to_its_pre_activation(graph, tmp_path, pairs):
    content = written(graph, tmp_path, pairs=pairs)
    ids = [node["node_id"] for node in content["nodes"]]
    assert len(set(ids)) == len(ids)
    assert all({link["source"], link["target"]} <= set(ids) for link in content["links"])
    assert len(graph.targets) > 5
    for target in graph.targets:
        assert into(content, ids[target.node]) == pytest.approx(target.value, abs=1e-10)
        own = [link["source"] for link in content["links"] if link["target"] == ids[target.node]]
        assert sum(source.startswith("pair_") for source in own) <= pairs
    shown = {node["node_id"]: node for node in content["nodes"]}
    for target in graph.targets:  # pairs and the rest stand where their target does
        own = shown[ids[target.node]]
        extra = [shown[link["source"]] for link in content["links"] if link["target"] == own["node_id"]]
        extra = [node for node in extra if node["feature_type"] == "pair" or node["node_id"] == f"rest_{target.node}"]
        assert {node["ctx_idx"] for node in extra} <= {own["ctx_idx"]}
        if graph.nodes[target.node].kind == "feature":
            assert {node["layer"] for node in extra} <= {own["layer"]}
        rest = [node["clerp"] for node in extra if node["feature_type"] != "pair"]
        assert rest in ([], [f"not in the graph: rest of {own['clerp']}"])
    doubled = [node["node_id"] for node in content["nodes"] if node["feature_type"] == "pair"]
    assert bool(doubled) == bool(pairs)
    for pair in doubled:  # half of a pair from either feature, all of it to one target
        (out,) = [link["weight"] for link in content["links"] if link["source"] == pair]
        halves = [link["weight"] for link in content["links"] if link["target"] == pair]
        assert halves == [pytest.approx(out / 2)] * 2


def test_features_have_their_place_position_and_name(graph, tmp_path):
    names = {(3, "out"): [f"<{at}>" for at in range(20)]}
    content = written(graph, tmp_path, names=names, directions=['say "no"'])
    layers = [(1, "out"), (3, "in"), (3, "out")]
    for node, shown in zip(graph.nodes, content["nodes"], strict=False):
        if node.kind == "feature":
            layer = layers.index((node.part, node.place))
            assert (shown["layer"], shown["ctx_idx"]) == (str(layer), node.position)
            total = layer + node.feature
            assert shown["feature"] == total * (total + 1) // 2 + node.feature
            assert shown["activation"] == node.activation
            named = f" <{node.feature}>" if (node.part, node.place) == (3, "out") else ""
            assert shown["clerp"] == node.label + named
    assert content["nodes"][0]["clerp"] == f"Output \"say 'no'\" (p={graph.nodes[0].score:.3f})"
    shares = sorted(node["influence"] for node in content["nodes"])
    assert shares[-1] == pytest.approx(1)
    assert shares[0] > 0


FIELDS = {  # of circuit-tracer 0.5.0, frontend/graph_models.py
    "metadata": {"slug": str, "scan": str, "transcoder_list": list, "prompt_tokens": list, "prompt": str},
    "qParams": {"pinnedIds": list, "supernodes": list, "linkType": str, "clickedId": str, "sg_pos": str},
    "nodes": {
        "node_id": str,
        "feature": int,
        "layer": str,
        "ctx_idx": int,
        "feature_type": str,
        "token_prob": float,
        "is_target_logit": bool,
        "run_idx": int,
        "reverse_ctx_idx": int,
        "jsNodeId": str,
        "clerp": str,
        "influence": float,
    },
    "links": {"source": str, "target": str, "weight": float},
}


def test_the_file_has_the_fields_of_circuit_tracer(graph, tmp_path):
    content = written(graph, tmp_path)
    assert set(content) == set(FIELDS)
    for name, fields in FIELDS.items():
        for item in content[name] if isinstance(content[name], list) else [content[name]]:
            for key, kind in fields.items():
                assert type(item[key]) is kind, (name, key, item)
    assert content["metadata"]["prompt_tokens"] == TOKENS
    logits = [node for node in content["nodes"] if node["feature_type"] == "logit"]
    assert [float(node["clerp"].split("(p=")[1].split(")")[0]) for node in logits]  # as its page reads it
    assert all(0 <= node["ctx_idx"] < 6 for node in content["nodes"])


def test_graphs_of_a_folder_are_listed_once(graph, tmp_path):
    written(graph, tmp_path, slug="a")
    written(graph, tmp_path, slug="b")
    with pytest.raises(FileExistsError, match=r"a\.json exists; pass overwrite=True"):
        written(graph, tmp_path, slug="a")
    written(graph, tmp_path, slug="a", overwrite=True)
    listed = json.loads((tmp_path / "graph-metadata.json").read_text())["graphs"]
    assert [item["slug"] for item in listed] == ["b", "a"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"slug": "../a"}, "slug must have only letters"),
        ({"slug": "graph-metadata"}, "not name the list"),
        ({"directions": ["a", "b"]}, "directions must be one per output direction, got 2 for 1 output directions"),
        ({"tokens": TOKENS[:3]}, "the graph has position 5, and there are 3"),
        ({"graph": None}, "graph must be of one prompt"),
    ],
)
def test_what_cannot_be_written_is_refused(graph, tmp_path, options, words):
    arguments = {"graph": graph, "tokens": TOKENS} | options
    if arguments["graph"] is None:
        arguments["graph"] = replace(graph, mode="averaged")
    with pytest.raises(ValueError, match=words):
        write_circuit_tracer(folder=tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []
