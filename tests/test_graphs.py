"""Feature graphs: exact accounts of a prompt, averages, what pruning leaves out, and errors."""

import dataclasses
import math

import pytest
import torch
from helpers import assert_close, layer_of, normal

from tensornet_interp import AttentionLayer, BilinearLayer, lift, load, save
from tensornet_interp.attention import LinearMap, Norm, Part, SequenceNetwork
from tensornet_interp.features import Dictionary
from tensornet_interp.graphs import feature_graph

WIDTH, POSITIONS, VOCABULARY = 6, 5, 7
X = normal(POSITIONS, WIDTH, seed=1)
TEXT, HELD_OUT = normal(30, POSITIONS, WIDTH, seed=2), normal(20, POSITIONS, WIDTH, seed=3)


def attention(seed, **more):
    weights = [normal(WIDTH, WIDTH, seed=seed + i) / WIDTH**0.5 for i in range(4)]
    return AttentionLayer.from_weights(
        queries=[weights[0]],
        keys=[weights[1][: WIDTH // 2]],
        value=weights[2][: WIDTH // 2],
        out=weights[3],
        heads=2,
        kv_heads=1,
        positions=POSITIONS,
        softmax=True,
        **more,
    )


def mlp(seed, *, biases=False):
    layer = layer_of(WIDTH, WIDTH, 4, seed=seed, scale=0.5)
    if not biases:
        return layer
    return lift(layer, left_bias=normal(4, seed=seed + 5), bias=normal(WIDTH, seed=seed + 6))


def network(*, centered=True, norms=True, norm_bias=True):
    """Two blocks of attention and MLP with every kind of bias, scaled residuals, and a head."""
    parts = []
    for i in range(2):
        norm = None
        if norms:
            bias = normal(WIDTH, seed=41 + i) if norm_bias else None
            norm = Norm(centered=centered, weight=1 + normal(WIDTH, seed=40 + i) / 3, bias=bias)
        of_values = normal(WIDTH // 2, seed=50 + i)
        parts.append(Part(attention(10 * i, value_bias=of_values), 0.9, norm, normal(WIDTH, seed=60 + i)))
        parts.append(Part(mlp(20 + 10 * i, biases=True), 1.0, norm, normal(WIDTH, seed=70 + i)))
    head = LinearMap(weight=normal(VOCABULARY, WIDTH, seed=80), bias=normal(VOCABULARY, seed=81))
    return SequenceNetwork([*parts, Part(head, norm=Norm())])


def coder(seed, *, features=9, k=4, point=""):
    return Dictionary(
        normal(features, WIDTH, seed=seed),
        normal(WIDTH, features, seed=seed + 1),
        encoder_bias=normal(features, seed=seed + 2),
        decoder_bias=normal(WIDTH, seed=seed + 3),
        k=k,
        rectify=False,
        point=point,
    )


def transcoder(seed):
    return dataclasses.replace(coder(seed), centered=False, point_out="", skip=normal(WIDTH, WIDTH, seed=seed + 4) / 3)


PLACES = {
    "behind MLPs": {(1, "out"): coder(100), (3, "out"): coder(110)},
    "before and behind": {(1, "out"): coder(100), (3, "in"): coder(120), (3, "out"): coder(110)},
    "of the stream": {(0, "stream"): coder(130), (2, "stream"): coder(140), (3, "out"): coder(110)},
    "transcoders": {(1, "in"): transcoder(150), (3, "in"): transcoder(160)},
    "of attention": {(0, "in"): coder(170), (0, "out"): coder(180), (2, "out"): coder(190), (3, "out"): coder(110)},
}
DIRECTION = normal(VOCABULARY, seed=4)


def top_seed(places):
    """All active features of the uppermost dictionary."""
    return max(places, key=lambda place: (place[0], place[1] != "in"))


@pytest.mark.parametrize("hops", [0, 1, 2])
@pytest.mark.parametrize("kind", PLACES)
def test_all_edges_of_a_prompt_sum_to_the_pre_activation(kind, hops):
    places, stack = PLACES[kind], network()
    seeds = [top_seed(places), DIRECTION]
    graph = feature_graph(stack, places, seeds, X, hops=hops, features=200, nodes=30, max_elements=10**10)
    assert len(graph.targets) > 5
    for target in graph.targets:
        assert abs(target.left_out) < 1e-10 * max(1, abs(target.value))
        assert target.kept == pytest.approx(sum(edge.value for edge in graph.edges_of(target.node)), abs=1e-9)
        assert target.share_left_out == pytest.approx(0, abs=1e-12)
        assert target.proven


def test_the_value_of_a_target_is_that_of_the_model():
    places, stack = PLACES["behind MLPs"], network()
    graph = feature_graph(stack, places, [(3, "out"), DIRECTION], X, position=2)
    h = stack[3].norm(stack.streams(X)[3])
    written = SequenceNetwork([stack[3].map])(h) + stack[3].bias
    truth = places[3, "out"].pre_activations(written)[2]
    for target in graph.targets:
        node = graph.nodes[target.node]
        if (node.part, node.position) == (3, 2):
            assert target.value == pytest.approx(float(truth[node.feature]), rel=1e-12)
        if node.kind == "direction":
            assert target.value == pytest.approx(float(stack(X)[2] @ DIRECTION), rel=1e-12)
    assert any(node.kind == "direction" for node in graph.nodes)


def test_an_edge_is_the_change_that_its_source_makes_in_a_linear_reader():
    """At given scales and patterns, taking away a feature changes a linear reader by the edges from it."""
    stack, inputs, reader = network(), coder(130), coder(120)
    places = {(0, "stream"): inputs, (3, "in"): reader}
    graph = feature_graph(stack, places, (3, "in"), X, position=4, hops=2, features=200, max_elements=10**10)
    frozen, streams = stack.trace(X)
    nothing = LinearMap(weight=torch.zeros(WIDTH, WIDTH, dtype=torch.float64))
    linear = SequenceNetwork([frozen[0], frozen[1]._replace(map=nothing), frozen[2]])  # without the MLP between
    target = graph.nodes[graph.targets[0].node]
    tested = 0
    for at, source in enumerate(graph.nodes):
        edges = [edge for edge in graph.edges_of(graph.targets[0].node) if edge.sources == (at,)]
        if source.kind != "feature" or not edges:
            continue
        x = X.clone()
        x[source.position] -= source.activation * inputs.decoder[:, source.feature]
        moved = streams[3] + linear(x) - linear(X)
        before, after = (reader.pre_activations(frozen[3].norm(v))[4, target.feature] for v in (streams[3], moved))
        assert float(before - after) == pytest.approx(sum(edge.value for edge in edges), abs=1e-10)
        tested += 1
    assert tested == POSITIONS * inputs.k


def dense_form(stack, places, feature):
    """Q[i, j] of a feature behind the upper MLP over the features before it, and the linear terms."""
    layer, inputs, outputs = stack[3].map, places[3, "in"], places[3, "out"]
    matrix = layer.interaction_matrix(outputs.encoder[feature])
    lifted = torch.cat([torch.zeros(1, inputs.features, dtype=torch.float64), inputs.decoder])
    constant = torch.cat([torch.ones(1, dtype=torch.float64), inputs.decoder_bias])
    return lifted.T @ matrix @ lifted, 2 * lifted.T @ matrix @ constant


ONE_LAYER = {(3, "in"): coder(120), (3, "out"): coder(110)}


@pytest.mark.parametrize("mode", ["given", "averaged"])
def test_pairs_are_those_of_the_dense_form(mode):
    stack = network()
    more = {} if mode == "given" else {"mode": mode, "held_out": HELD_OUT}
    text = X if mode == "given" else TEXT
    graph = feature_graph(stack, ONE_LAYER, (3, "out"), text, features=9, nodes=1, **more)
    for target in graph.targets:
        node = graph.nodes[target.node]
        if (node.part, node.place) != (3, "out"):
            continue
        form, linear = dense_form(stack, ONE_LAYER, node.feature)
        for edge in graph.edges_of(target.node):
            ends = [graph.nodes[at] for at in edge.sources]
            if all(end.kind == "feature" for end in ends) and len(ends) == 2:
                i, j = (end.feature for end in ends)
                assert edge.weight == pytest.approx(float(form[i, j]) * (1 if i == j else 2), abs=1e-12)
                assert edge.value == pytest.approx(edge.weight * ends[0].activation * ends[1].activation, abs=1e-12)
            if mode == "given" and len(ends) == 1 and ends[0].kind == "feature":
                assert edge.weight == pytest.approx(float(linear[ends[0].feature]), abs=1e-12)


def test_the_share_left_out_and_the_bound_hold_against_the_dense_form():
    """1 - |Q_KK|^2 / |Q|^2 exactly, and no code with as many active features changes p_g by more than the bound."""
    stack = network()
    graph = feature_graph(
        stack, ONE_LAYER, (3, "out"), TEXT, mode="averaged", held_out=HELD_OUT, features=3, nodes=1, offsets=0
    )
    inputs = ONE_LAYER[3, "in"]
    codes = inputs.encode(torch.cat([stack[3].norm(stack.streams(x)[3]) for x in TEXT]))
    largest = codes.abs().amax(0)
    generator = torch.Generator().manual_seed(0)
    mean = codes @ inputs.decoder.T
    vectors = torch.cat([stack[3].norm(stack.streams(x)[3]) for x in TEXT])
    constant = torch.cat([torch.ones(1, dtype=torch.float64), (vectors - mean).mean(0)])
    closest = 0.0
    for target in graph.targets:
        node = graph.nodes[target.node]
        if (node.part, node.place) != (3, "out"):
            continue
        named = {at for edge in graph.edges_of(target.node) for at in edge.sources}
        kept = [graph.nodes[at].feature for at in named if graph.nodes[at].kind == "feature"]
        assert len(kept) == target.features == 3
        form, _ = dense_form(stack, ONE_LAYER, node.feature)
        assert target.share_left_out == pytest.approx(
            1 - float(form[kept][:, kept].square().sum() / form.square().sum()), abs=1e-12
        )
        matrix = stack[3].map.interaction_matrix(ONE_LAYER[3, "out"].encoder[node.feature])
        linear = 2 * inputs.decoder.T @ (matrix @ constant)[1:]
        for _ in range(300):
            on = torch.randperm(9, generator=generator)[: inputs.k]
            code = torch.zeros(9, dtype=torch.float64)
            code[on] = largest[on] * torch.randint(0, 2, (len(on),), generator=generator).mul(2).sub(1)
            less = code.clone()
            less[[i for i in range(9) if i not in kept]] = 0
            change = abs(float(code @ form @ code + linear @ code - less @ form @ less - linear @ less))
            assert change <= target.bound * (1 + 1e-12)
            closest = max(closest, change / target.bound)
    assert closest > 0.1  # the bound is not idle


def test_the_bound_of_a_linear_target_is_the_sum_of_the_largest_terms_that_can_be_on_together():
    """p_g = e . (D a) + c: at most k terms |e . d_i| A_i at once, the largest of those left out."""
    places = {(0, "stream"): coder(130), (0, "in"): coder(120)}
    stack = SequenceNetwork([Part(mlp(20), 1.0)])
    graph = feature_graph(stack, places, (0, "in", 2), TEXT, mode="averaged", held_out=HELD_OUT, features=2)
    lower = places[0, "stream"]
    terms = (places[0, "in"].encoder[2] @ lower.decoder).abs() * lower.encode(TEXT).abs().amax((0, 1))
    kept = {graph.nodes[at].feature for edge in graph.edges for at in edge.sources if graph.nodes[at].part == 0}
    left = torch.stack([term for i, term in enumerate(terms) if i not in kept])
    assert graph.targets[0].features == 2
    assert lower.k == 4
    assert graph.targets[0].bound == pytest.approx(float(left.topk(4).values.sum()), rel=1e-12)


def test_a_source_that_is_strong_alone_and_negative_is_kept_first():
    """y_2 = -3 x_0^2 + x_3 x_4."""
    left, right, down = (torch.zeros(6, 2, dtype=torch.float64) for _ in range(3))
    left[0, 0], right[0, 0], left[3, 1], right[4, 1], down[2, :] = 1, -3, 1, 1, 1
    whole = dataclasses.replace(Dictionary.from_matrix(torch.eye(6, dtype=torch.float64)), rectify=False)
    stack = SequenceNetwork([Part(BilinearLayer(down=down, left=left, right=right), 0.0)])
    places = {(0, "in"): whole, (0, "out"): whole}
    graph = feature_graph(stack, places, (0, "out", 2), torch.ones(1, 6, dtype=torch.float64), features=1)
    edge = graph.top(1)[0]
    assert (graph.nodes[edge.sources[0]].feature, edge.sources[0]) == (0, edge.sources[1])
    assert edge.value == pytest.approx(-3)


def test_what_is_left_out_of_a_prompt_is_below_the_bound():
    graph = feature_graph(network(), PLACES["behind MLPs"], (3, "out"), X, features=2)
    assert all(abs(target.left_out) <= target.bound for target in graph.targets if target.features == 2)
    assert any(abs(target.left_out) > 1e-3 for target in graph.targets)


def test_the_graph_alone_gives_a_value_from_the_activations_that_it_gives():
    """With all edges it is the value itself; with few, it follows the pruned sources through their rectifiers."""
    places = {place: dataclasses.replace(item, rectify=True) for place, item in PLACES["transcoders"].items()}
    every = feature_graph(network(), places, DIRECTION, X, features=200, nodes=99, max_elements=10**10)
    for target in every.targets:
        assert target.from_graph == pytest.approx(target.value, abs=1e-9)
    few = feature_graph(network(), places, DIRECTION, X, features=2, nodes=99)
    values = {target.node: max(0.0, target.from_graph) for target in few.targets}
    top = sum(
        edge.weight * values.get(edge.sources[0], few.nodes[edge.sources[0]].activation) for edge in few.edges_of(0)
    )
    assert few.targets[0].from_graph == pytest.approx(top, rel=1e-12)
    assert abs(few.targets[0].from_graph - few.targets[0].kept) > 1e-6


def test_an_edge_of_two_sources_counts_with_twice_its_entry():
    """Values 1.5, 2 * 1.0 and 1.4: with two sources, the pair in the middle is kept."""
    matrix, eye = torch.zeros(4, 4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    matrix[0, 0], matrix[1, 2], matrix[2, 1], matrix[3, 3] = 1.5, 1.0, 1.0, 1.4
    layer = BilinearLayer.from_weights(left=eye, right=matrix, down=eye.new_ones(1, 4))
    places = {(0, "in"): Dictionary(eye, eye), (0, "out"): Dictionary(eye[:1, :1], eye[:1, :1])}
    network = SequenceNetwork([Part(layer, 0.0)])
    graph = feature_graph(network, places, (0, "out", 0), eye.new_ones(1, 4), features=2)
    best = graph.edges_of(0)[0]
    assert {graph.nodes[at].feature for at in best.sources} == {1, 2}
    assert best.value == pytest.approx(2.0, rel=1e-12)
    assert graph.targets[0].proven


def test_few_candidates_are_flagged_and_enough_are_proven():
    few, many = (
        feature_graph(network(), PLACES["transcoders"], DIRECTION, X, features=4, candidates=count, nodes=1)
        for count in (4, 400)
    )
    assert many.targets[0].proven
    assert few.edges_of(0)[0].value == pytest.approx(many.edges_of(0)[0].value, rel=1e-9)  # linear: the largest rows
    quadratic = feature_graph(network(), PLACES["behind MLPs"], (3, "out"), X, features=2, candidates=2, nodes=1)
    assert not all(target.proven for target in quadratic.targets)


def test_averages_predict_a_network_that_has_none():
    """Without norms and attention, an averaged graph of all features is the network: R squared is 1."""
    whole = Dictionary.from_matrix(torch.eye(WIDTH, dtype=torch.float64))
    stack = SequenceNetwork([Part(mlp(20, biases=True), 1.0), Part(mlp(30, biases=True), 1.0)])
    places = {(0, "stream"): whole, (0, "out"): whole, (1, "out"): coder(110)}
    graph = feature_graph(stack, places, (1, "out"), TEXT, mode="averaged", held_out=HELD_OUT, features=50)
    for target in graph.targets:
        if graph.nodes[target.node].part == 0 and graph.nodes[target.node].place == "stream":
            continue  # nothing is below the input
        assert target.r_squared == pytest.approx(1, abs=1e-9)
        assert target.r_squared_kept == pytest.approx(1, abs=1e-9)
        assert target.r_squared_graph <= 1 + 1e-9
        assert math.isnan(target.value)


def test_means_over_offsets_stand_in_for_patterns_and_scales():
    """A pattern of offsets alone, with all its offsets, is its own mean."""
    ones = torch.ones(1, 4 * POSITIONS, 4 * POSITIONS, dtype=torch.float64)
    near = ones.tril() - ones.tril(-3)
    layer = AttentionLayer.from_weights(
        queries=[],
        keys=[],
        value=normal(WIDTH, WIDTH, seed=1) / 3,
        out=normal(WIDTH, WIDTH, seed=2) / 3,
        heads=2,
        positions=4 * POSITIONS,
        mask=near[0] / 3,
    )
    whole = Dictionary.from_matrix(torch.eye(WIDTH, dtype=torch.float64))
    stack = SequenceNetwork([Part(layer, 1.0), Part(mlp(20), 1.0)])
    text, new = normal(20, 4 * POSITIONS, WIDTH, seed=5), normal(20, 4 * POSITIONS, WIDTH, seed=6)
    places = {(0, "stream"): whole, (1, "out"): coder(110)}
    shares = []
    for offsets in (0, 1, 2):
        graph = feature_graph(
            stack, places, (1, "out"), text, mode="averaged", held_out=new, offsets=offsets, features=99, nodes=1
        )
        shares.append(min(target.r_squared for target in graph.targets if graph.nodes[target.node].part == 1))
        edges = [edge for edge in graph.edges if graph.nodes[edge.target].part == 1]
        assert {offset for edge in edges for offset in edge.offsets} == set(range(-offsets, 1))
    assert shares[0] < shares[1] < shares[2]
    assert shares[2] == pytest.approx(1, abs=1e-9)


def test_nodes_and_edges_of_a_graph_are_consistent():
    graph = feature_graph(network(), PLACES["behind MLPs"], (3, "out"), X, position=3, nodes=3, features=3)
    seeds = [node for node in graph.nodes if (node.part, node.place) == (3, "out")]
    assert sum(node.score for node in seeds) == pytest.approx(1)
    assert all(node.position == 3 for node in seeds)
    expanded = [graph.nodes[target.node] for target in graph.targets]
    assert sum((node.part, node.place) == (1, "out") for node in expanded) == 3
    for edge in graph.edges:
        assert len(edge.sources) == len(edge.paths) == len(edge.offsets) in (1, 2)
        for at, offset, path in zip(edge.sources, edge.offsets, edge.paths, strict=True):
            assert graph.nodes[at].part < graph.nodes[edge.target].part
            if not path:
                assert offset == 0
    every = graph.shares(graph.edges)
    assert any(edge.value < 0 for edge in graph.edges)
    for target in graph.targets:  # |values| of all edges of a target share its score
        whole = sum(share for edge, share in zip(graph.edges, every, strict=True) if edge.target == target.node)
        assert whole == pytest.approx(graph.nodes[target.node].score)
    assert min(every) >= 0
    top = graph.top(5)
    assert graph.shares(top) == sorted(graph.shares(top), reverse=True)
    assert len(graph.records()) == len(graph.edges)
    assert "left out" in str(graph)
    assert "FeatureGraph" in repr(graph)


def test_the_share_that_a_dictionary_explains_on_a_prompt():
    """1 - |h - D a|^2 / |h - mean h|^2; the skip of a transcoder counts as what it explains."""
    stack = network()
    trace, streams = stack.trace(X)
    h = trace[3].norm(streams[3])
    graph = feature_graph(stack, ONE_LAYER, (3, "out", 2), X)
    left = h - ONE_LAYER[3, "in"].decode(ONE_LAYER[3, "in"].encode(h))
    expected = 1 - float(left.square().sum() / (h - h.mean(0)).square().sum())
    assert graph.explained["3 in"] == pytest.approx(expected, rel=1e-9)


def test_a_graph_is_saved(tmp_path):
    graph = feature_graph(network(), PLACES["behind MLPs"], [(3, "out"), DIRECTION], X)
    save(graph, tmp_path / "graph.safetensors")
    again = load(tmp_path / "graph.safetensors")
    assert (again.nodes, again.edges, again.mode) == (graph.nodes, graph.edges, graph.mode)
    assert_close(again.directions[0], graph.directions[0])
    finite = [field for field in graph.targets[0]._fields if not field.startswith("r_squared")]
    assert [getattr(again.targets[0], field) for field in finite] == [
        getattr(graph.targets[0], field) for field in finite
    ]


def test_a_dictionary_that_fits_badly_is_named():
    graph = feature_graph(network(), PLACES["behind MLPs"], (3, "out"), X)
    assert graph.explained["3 out"] < 0
    assert "the dictionary at 3 out is worse than the mean" in graph.warnings[0] + graph.warnings[-1]


@pytest.mark.parametrize("mode", ["given", "averaged"])
def test_equal_vectors_have_no_share_of_their_variance(mode):
    """The spread of one token, repeated, is rounding: neither a share of it nor R squared means anything."""
    x = X[:1].expand(POSITIONS, WIDTH) / 3
    options = {"mode": mode} if mode == "given" else {"mode": mode, "held_out": x.expand(2, POSITIONS, WIDTH)}
    places = PLACES["behind MLPs"]
    graph = feature_graph(network(), places, (3, "out"), x if mode == "given" else x.expand(3, -1, -1), **options)
    assert all(math.isnan(share) for share in graph.explained.values())
    assert not graph.warnings
    for target in graph.targets:
        shares = target.r_squared, target.r_squared_kept, target.r_squared_graph
        assert all(map(math.isnan, shares))


def test_a_seed_is_read_where_it_is_most_active_of_either_sign():
    negative = dataclasses.replace(coder(110), k=9, encoder_bias=torch.full((9,), -1e4, dtype=torch.float64))
    places = {(3, "out"): negative}
    stack = network()
    trace, streams = stack.trace(X)
    written = SequenceNetwork([Part(stack[3].map, 0.0, trace[3].norm, stack[3].bias)])(streams[3])
    codes = negative.encode(written)[:, 0]
    assert codes.max() < 0
    assert feature_graph(stack, places, (3, "out", 0), X).nodes[0].position == int(codes.argmin())


QUIET = dataclasses.replace(coder(110), threshold=torch.full((9,), 1e6, dtype=torch.float64))
REFUSED = {
    "another layer": ({(1, "out"): coder(1, point="1-mlp-out")}, {}, r"is of mlp-out of layer 1.*\(3, 'out'\)"),
    "another point": ({(1, "out"): coder(1, point="0-mlp-in")}, {}, r"is of mlp-in of layer 0.*\(1, 'in'\)"),
    "normalisation": ({(1, "in"): coder(1, point="blocks.0.hook_resid_mid")}, {}, r"\(1, 'stream'\).*before"),
    "hook before a norm": ({(1, "in"): coder(1, point="blocks.0.hook_mlp_in")}, {}, r"\(1, 'stream'\).*before"),
    "no such layer": ({(1, "in"): coder(1, point="7-mlp-in")}, {}, "in no part"),
    "two writers": ({(1, "in"): transcoder(1), (1, "out"): coder(1)}, {}, "both say what it writes"),
    "transcoder behind": ({(1, "out"): transcoder(1)}, {}, "give it at"),
    "transcoder of another output": (
        {(1, "in"): dataclasses.replace(transcoder(1), decoder=normal(4, 9), decoder_bias=normal(4), skip=None)},
        {},
        r"mode 'd_out' has size 6 in network but 4 in dictionaries\[1, 'in'\]",
    ),
    "no dictionaries": ({}, {}, "dictionaries is empty"),
    "no such place": ({(1, "mid"): coder(1)}, {}, "stream, in, out"),
    "no seeds": (ONE_LAYER, {"seed": []}, "seed is empty"),
    "zero direction": (ONE_LAYER, {"seed": torch.zeros(VOCABULARY, dtype=torch.float64)}, "seed is empty"),
    "seed without dictionary": (ONE_LAYER, {"seed": (1, "out", 0)}, "has no dictionary"),
    "no such feature": (ONE_LAYER, {"seed": (3, "out", 9)}, "from 0 to 8"),
    "silent prompt": (
        {(3, "out"): QUIET},
        {},
        r"feature 0 of \(3, 'out'\) is not active at position 0; .* nowhere in x",
    ),
    "silent text": (
        {(3, "out"): QUIET},
        {"x": TEXT, "mode": "averaged", "held_out": HELD_OUT},
        "is not active anywhere in x",
    ),
    "too large for edges": (
        PLACES["behind MLPs"],  # 60 numbers for each of 90^2 / 2 pairs of 30 nodes at 2 places
        {"features": 100, "nodes": 30, "hops": 0, "max_elements": 1000},
        r"edges: 1.5e\+07\)",
    ),
    "too large": (ONE_LAYER, {"max_elements": 1000}, r"needs .* numbers in memory, more than max_elements=1e\+03"),
    "no held-out text": (ONE_LAYER, {"x": TEXT, "mode": "averaged"}, "needs held_out"),
    "held-out text of a prompt": (ONE_LAYER, {"held_out": HELD_OUT}, "belongs to"),
    "position of a text": (
        ONE_LAYER,
        {"x": TEXT, "mode": "averaged", "held_out": HELD_OUT, "position": 1},
        "belongs to",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(case):
    places, changed, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        feature_graph(network(), places, **({"seed": (3, "out", 0), "x": X} | changed))


def test_a_graph_of_many_targets_prints_the_first_ones():
    graph = feature_graph(network(), PLACES["before and behind"], (3, "out"), X, features=4, nodes=9)
    lines, more = str(graph).splitlines(), len(graph.targets) - 8
    assert more > 0
    assert sum("of the weights left out" in line for line in lines) == 8
    assert lines[-1 - len(graph.warnings)] == f"and {more} more targets; records() has the edges of all"


def test_places_have_two_items_and_unknown_points_are_taken_as_given():
    with pytest.raises(
        TypeError, match=r"must be \(part, 'stream' \| 'in' \| 'out'\), such as \(1, 'out'\), got '3 out'"
    ):
        feature_graph(network(), {"3 out": coder(110)}, (3, "out", 0), X)
    plain, named = (
        feature_graph(network(), {(3, "out"): coder(110, point=point)}, (3, "out"), X)
        for point in ("", "blocks.9.hook_of_mine")
    )
    assert named.edges == plain.edges
