"""Pages of features, read from the files; test_pages_browser.py opens them in a browser."""

import json
import re
from dataclasses import replace

import pytest
import torch
from helpers import normal

from tensornet_interp import lift
from tensornet_interp.attention import Part, SequenceNetwork
from tensornet_interp.features import Dictionary, circuit_tests, feature_interactions, low_rank_correlation
from tensornet_interp.graphs import feature_graph
from tensornet_interp.pages import write_feature_pages
from tensornet_interp.testing import random_layer

pytest.importorskip("bokeh", reason="bokeh is not installed")
TOKENS = ["<script>alert(1)</script>", "\n", " $$x$$", ' "the"', "&amp;", " \ud800", "</script>", " dog"]
LAYER = replace(random_layer(6, 5, 7, seed=0), basis="made", name="toy layer 3")
BEFORE = Dictionary(
    normal(12, 5, seed=1), normal(5, 12, seed=2), decoder_bias=normal(5, seed=3), k=4, point="3-mlp-in", name="in"
)
AFTER = Dictionary(
    normal(9, 6, seed=4),
    normal(6, 9, seed=5),
    encoder_bias=torch.tensor([-100.0] + 8 * [0.0], dtype=torch.float64),  # feature 0 is never active
    k=3,
    point="3-mlp-out",
    name="out",
)
X = normal(20, 8, 5, seed=6)
TEXT = [
    [TOKENS[int(i)] for i in row] for row in torch.randint(0, 8, (20, 8), generator=torch.Generator().manual_seed(0))
]
ARGUMENTS = {"layer": LAYER, "inputs": BEFORE, "outputs": AFTER, "features": [4, 0, 2], "x": X, "text": TEXT}


def written(folder, **changed):
    """The pages by file name: the text of each, and its data."""
    write_feature_pages(folder, progress=False, **(ARGUMENTS | changed))
    made = {}
    for path in folder.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        found = re.search(r'<script type="application/json" id="content">(.*?)</script>', text, re.DOTALL)
        made[path.name] = text, json.loads(found[1])
    return made


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    return written(tmp_path_factory.mktemp("features"))


def sources_of(item):
    """The columns of each source of points or lines in a figure that was packed for Bokeh."""
    if isinstance(item, list):
        return [found for part in item for found in sources_of(part)]
    if not isinstance(item, dict):
        return []
    own = [dict(item["attributes"]["data"]["entries"])] if item.get("name") == "ColumnDataSource" else []
    return own + [found for part in item.values() for found in sources_of(part)]


def table(content, *columns):
    (found,) = [table for table in content["tables"] if set(columns) <= set(table["columns"])]
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def test_the_index_has_the_pages_and_all_features_with_links(pages):
    assert set(pages) == {"index.html", "feature-4.html", "feature-0.html", "feature-2.html"}
    text, content = pages["index.html"]
    first, second = content["tables"]
    assert first["links"] == ["feature-4.html", "feature-0.html", "feature-2.html"]
    assert second["links"] == [f"feature-{at}.html" if at in (0, 2, 4) else "" for at in range(9)]
    codes = AFTER.encode(LAYER(X)).flatten(0, 1)
    assert [row["active tokens"] for row in table(content, "share of tokens")] == (codes > 0).sum(0).tolist()
    largest = [row["largest activation"] for row in table(content, "share of tokens")]
    assert largest == pytest.approx(codes.amax(0).tolist(), rel=1e-5)
    assert "<h1>Features of toy layer 3</h1>" in text
    assert "1 features" in text
    assert len(text) < 30_000  # an index has no figure, and so no library


def test_pages_link_to_the_index_and_to_their_neighbours(pages):
    hrefs = {name: re.findall(r'href="([^"#]*\.html)"', text) for name, (text, _) in pages.items()}
    assert hrefs["feature-4.html"] == ["index.html", "feature-0.html"]
    assert hrefs["feature-0.html"] == ["index.html", "feature-4.html", "feature-2.html"]


def test_examples_are_the_strongest_windows_with_their_activations(pages):
    codes = AFTER.encode(LAYER(X))[..., 4]
    text, _ = pages["feature-4.html"]
    block = re.search(r"Where it is strongest</h2>.*?</section>", text, re.DOTALL)[0]
    shown = [float(value) for value in re.findall(r'<span class="number">([^<]*)</span>', block)]
    peaks = codes.amax(1).sort(descending=True).values[:10]
    assert shown == pytest.approx([float(f"{value:.3g}") for value in peaks.tolist() if value > 0])
    marks = re.findall(r'<mark style="--shade: ([\d.]+)" title="([^"]*)">', block)
    best = codes.amax(1).argsort(descending=True)[: len(shown)]
    assert len(marks) == int((codes[best] > 0).sum())
    assert max(float(shade) for shade, _ in marks) == 1
    for shade, title in marks:
        assert float(shade) == pytest.approx(float(title) / float(peaks[0]), rel=0.02)


def test_interactions_correlations_and_verdicts_are_those_of_the_library(pages):
    _, content = pages["feature-4.html"]
    alive = (BEFORE.encode(X).flatten(0, 1) > 0).any(0).nonzero()[:, 0]
    q = feature_interactions(LAYER, AFTER.encoder[4], BEFORE.decoder[:, alive], bias=BEFORE.decoder_bias)
    top = q.top(50)
    rows = table(content, "Q", "second")
    assert [row["Q"] for row in rows] == pytest.approx([entry.value for entry in top], rel=1e-5)
    names = [int(alive[entry.first]) for entry in top]
    assert [int(row["first"].split()[0]) for row in rows] == names
    codes = BEFORE.encode(X).flatten(0, 1)
    on = AFTER.encode(LAYER(X)).flatten(0, 1)[:, 4] > 0
    for row, (first, second, value) in zip(rows[:5], top[:5], strict=True):
        both = codes[on][:, alive[first]] * codes[on][:, alive[second]]
        expected = float(both.mean()) * value * (1 if first == second else 2)
        assert row["adds on active tokens"] == pytest.approx(expected, rel=1e-5, abs=1e-12)
    x = X.flatten(0, 1)
    records = low_rank_correlation(LAYER, AFTER.encoder[4:5], x, active=on[:, None])
    shown = [row["active correlation"] for row in table(content, "k", "correlation")]
    assert shown == pytest.approx([record["active_correlation"] for record in records], rel=1e-5)
    members = alive[list(q.smallest_submatrix(12).features)]
    window = torch.arange(20).repeat_interleave(8)
    verdicts = circuit_tests(LAYER, BEFORE, AFTER, 4, members, x[on], window[on])
    tested = table(content, "verdict", "control drop")
    assert [row["verdict"] for row in tested] == [verdict.verdict for verdict in verdicts]
    assert [row["drop"] for row in tested] == pytest.approx([verdict.drop for verdict in verdicts], rel=1e-5)
    row = next(row for row in table(pages["index.html"][1], "effective rank") if row["feature"].startswith("4"))
    assert row["plane"] == verdicts[1].verdict


def test_the_matrix_shows_every_cell_whole_and_the_first_row_on_top(pages):
    """Cells are 1 wide around 0 to n - 1, so axes reach from half a cell before the first to half a cell behind it."""
    text, _ = pages["feature-4.html"]
    alive = (BEFORE.encode(X).flatten(0, 1) > 0).any(0).nonzero()[:, 0]
    q = feature_interactions(LAYER, AFTER.encoder[4], BEFORE.decoder[:, alive], bias=BEFORE.decoder_bias)
    end = f"{len(q.smallest_submatrix(12).features) - 0.5}"
    ranges = re.findall(r'"name":"Range1d","id":"\w+","attributes":{"start":([-.\d]+),"end":([-.\d]+)}', text)
    assert ranges.count(("-0.5", end)) == 1
    assert ranges.count((end, "-0.5")) == 1


def test_names_in_a_plane_go_towards_the_middle(pages):
    text, _ = pages["feature-4.html"]
    labels = re.findall(r'"name":"Label","id":"\w+","attributes":({.*?})}', text)
    assert len(labels) > 2
    for label in labels:
        x = float(re.search(r'"x":(-?[\d.e-]+)', label)[1])
        assert re.search(r'"text_align":"(\w+)"', label + '"text_align":"left"')[1] == ("right" if x > 0 else "left")


def test_a_long_token_is_cut_to_thirty_characters(tmp_path):
    for length, shown in ((30, "a" * 30), (31, "a" * 29 + "…")):
        text = [["a" * length] * 8] * 20
        rows = table(written(tmp_path / str(length), text=text)["index.html"][1], "share of tokens")
        assert {row["feature"].split()[1] for row in rows if row["active tokens"]} == {shown}


def test_pages_load_nothing_and_hostile_tokens_stay_text(pages):
    for text, _ in pages.values():
        outside = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
        assert "http" not in outside
        assert "alert(1)</" not in text.replace("&lt;/script", "")
        assert len(re.findall("<script", text)) in (2, 3)
        assert len(text) < 2_000_000
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in pages["feature-4.html"][0]


def test_a_feature_that_is_never_active_has_a_page_that_says_so(pages):
    text, content = pages["feature-0.html"]
    assert "not active on any token of the text" in text
    assert ">Interactions</h2>" in text
    assert ">Ablation</h2>" not in text
    assert [set(table["columns"]) & {"verdict", "k"} for table in content["tables"]] == [set()] * len(content["tables"])


def test_without_a_text_pages_come_from_weights_alone(tmp_path):
    names = [f"feature <{at}>" for at in range(9)]
    made = written(tmp_path, x=None, text=None, names=names, input_names=list("abcdefghijkl"))
    text, content = made["feature-4.html"]
    assert "<h1>Output feature feature &lt;4&gt;</h1>" in text
    assert "strongest</h2>" not in text
    rows = table(content, "Q", "second")
    assert {row["first"] for row in rows} <= set("abcdefghijkl")
    assert "adds on active tokens" not in rows[0]
    assert len(made["index.html"][1]["tables"]) == 1


def test_lifted_layers_have_pages(tmp_path):
    biased = lift(LAYER, left_bias=normal(7), right_bias=normal(7, seed=1), bias=normal(6, seed=2))
    content = written(tmp_path, layer=biased, features=[4])["feature-4.html"][1]
    linear = table(content, "linear term")
    alive = (BEFORE.encode(X).flatten(0, 1) > 0).any(0).nonzero()[:, 0]
    codes = AFTER.encode(biased(X)).flatten(0, 1)
    q = feature_interactions(
        biased.drop_constant(), AFTER.encoder[4], BEFORE.decoder[:, alive], bias=BEFORE.decoder_bias
    )
    assert linear[0]["linear term"] == pytest.approx(float(q.linear[q.linear.abs().argmax()]), rel=1e-5)
    assert table(content, "verdict", "tokens")[0]["tokens"] == int((codes[:, 4] > 0).sum())


def test_the_index_of_a_large_dictionary_stays_small(tmp_path):
    large = Dictionary(normal(5000, 6, seed=4), normal(6, 5000, seed=5), k=3)
    text, content = written(tmp_path, outputs=large, features=[4999])["index.html"]
    assert len(table(content, "share of tokens")) == 5000
    assert len(text) < 60 * 5000 + 30_000


def test_files_that_exist_are_kept_unless_overwrite(tmp_path):
    (tmp_path / "feature-2.html").write_text("kept")
    with pytest.raises(FileExistsError, match=r"feature-2\.html exists; pass overwrite=True"):
        written(tmp_path, x=None, text=None)
    assert [path.name for path in tmp_path.iterdir()] == ["feature-2.html"]
    written(tmp_path, x=None, text=None, overwrite=True)
    assert (tmp_path / "feature-2.html").read_text().startswith("<!DOCTYPE html>")


def stacked():
    """A network whose second part is the layer, the dictionaries around it, and a prompt of 8 vectors."""
    lower = random_layer(5, 5, 6, seed=9)
    network = SequenceNetwork([Part(lower, residual=1.0), Part(LAYER)])
    lowest = Dictionary(normal(10, 5, seed=11), normal(5, 10, seed=12), k=4)
    return (
        network,
        {(0, "out"): lowest, (1, "in"): replace(BEFORE, point=""), (1, "out"): replace(AFTER, point="")},
        X[0],
    )


@pytest.mark.parametrize("mode", ["given", "averaged"])
def test_a_feature_with_a_graph_shows_its_edges(tmp_path, mode):
    network, dictionaries, x = stacked()
    given = {"x": x} if mode == "given" else {"x": X[:10], "held_out": X[10:]}
    graph = feature_graph(network, dictionaries, (1, "out", 4), mode=mode, **given)
    made = written(tmp_path, graphs={4: graph})
    assert ">Circuit</h2>" not in made["feature-2.html"][0]
    text, content = made["feature-4.html"]
    assert ">Circuit</h2>" in text
    assert f"<dt>left out of the weights</dt><dd>{graph.targets[0].share_left_out:.2%}</dd>" in text
    edges, best = (found for found in content["tables"] if "weight" in found["columns"])
    assert edges["columns"][0] == "source"
    values = [row[edges["columns"].index("value")] for row in edges["rows"]]
    assert values == pytest.approx([edge.value for edge in graph.edges_of(0)], rel=1e-5)
    assert len(best["rows"]) == sum(edge.target > 0 for edge in graph.top(200)) > 0
    named = {str(row[0]) for row in edges["rows"] if " in " in str(row[0]) and "error" not in str(row[0])}
    assert named
    features = {node.feature for node in graph.nodes if (node.part, node.place, node.kind) == (1, "in", "feature")}
    assert {int(name.split()[2]) for name in named} <= features
    positions = {node.position for node in graph.nodes if (node.part, node.place, node.kind) == (1, "in", "feature")}
    ends = {int(name.rpartition(" @ ")[2]) if " @ " in name else -1 for name in named}
    assert ends <= positions
    assert len(content["figures"]) == 5
    (drawn,) = [columns for columns in map(sources_of, content["figures"]) if any("dash" in item for item in columns)]
    points = {point for item in drawn if "x" in item for point in zip(item["x"], item["y"], strict=True)}
    lines = [
        zip(*line, strict=True) for item in drawn if "xs" in item for line in zip(item["xs"], item["ys"], strict=True)
    ]
    assert len(lines) > 2
    assert {point for line in lines for point in line} <= points  # lines run between nodes and dots of pairs


def test_graphs_of_other_features_are_refused(tmp_path):
    graph = feature_graph(*stacked()[:2], (1, "out", 4), stacked()[2])
    for key, words in ((2, r"graphs\[2\] must have feature 2 .* got '1 out 4"), (7, "graphs has feature 7")):
        with pytest.raises(ValueError, match=words):
            written(tmp_path, graphs={key: graph})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"features": []}, "features is empty: give the numbers"),
        ({"features": [9]}, r"features\[0\] must be from 0 to 8"),
        ({"features": [1, 2, 1]}, "features must all be different, but 1 is there 2 times"),
        ({"outputs": replace(AFTER, point="2-mlp-out")}, "is of layer 2, but the layer is 'toy layer 3'"),
        (
            {"outputs": replace(AFTER, point="3-mlp-in")},
            "of mlp-in of layer 3, which the MLP of that layer does not write",
        ),
        ({"inputs": replace(BEFORE, point="3-mlp-out")}, "which the MLP of that layer does not read"),
        ({"outputs": replace(AFTER, point="3-resid-post")}, r"which is not layer\(x\); leave out x and text"),
        ({"inputs": AFTER}, "mode 'in' has size 5 in layer but 6 in inputs"),
        ({"inputs": replace(BEFORE, centered=False, point_out="3-mlp-out")}, "inputs must be an autoencoder"),
        ({"layer": replace(LAYER, basis="as given")}, "does not state the basis of its inputs"),
        ({"text": None}, "x needs text"),
        ({"x": None}, "text needs x"),
        ({"x": X[:, :, :4]}, "mode 'in' has size 5 in layer but 4 in x"),
        ({"text": TEXT[:3]}, "mode 'window' has size 20 in x but 3 in text"),
        ({"text": [*TEXT[:-1], TEXT[0][:3]]}, r"mode 'position' has size 8 in x but 3 in text\[19\]"),
        ({"names": ["a"]}, "names must be one per feature, got 1 for 9 features"),
    ],
)
def test_what_pages_cannot_show_is_refused_and_no_file_is_made(tmp_path, changed, words):
    with pytest.raises(ValueError, match=words):
        written(tmp_path, **changed)
    assert list(tmp_path.iterdir()) == []


def test_a_window_that_is_one_string_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"text\[1\] must be a list of tokens, got the text 'eight ch'"):
        written(tmp_path, text=[TEXT[0], "eight ch", *TEXT[2:]])


def test_a_plane_says_how_many_features_it_shows_only_if_some_are_left_out(pages):
    assert "furthest from the origin" not in pages["feature-4.html"][0]
