"""Graphs of features as files that circuit-tracer shows: one JSON file per graph, and the list of all graphs."""

import json
import math
import os
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tensornet_interp.checks import (
    check_bool,
    check_int,
    check_kind,
    check_list,
    check_mapping,
    check_names,
    check_path,
    check_text,
)
from tensornet_interp.disk import read_json, replace_files
from tensornet_interp.graphs.graph import FeatureGraph, GraphNode, GraphTarget
from tensornet_interp.graphs.places import PLACES, Place

_LIST = "graph-metadata.json"
_FEATURE, _ERROR, _LOGIT = "cross layer transcoder", "mlp reconstruction error", "logit"  # circuit-tracer's words
Fields = dict[str, Any]


def write_circuit_tracer(
    graph: FeatureGraph,
    folder: str | os.PathLike[str],
    tokens: Sequence[str],
    *,
    slug: str = "graph",
    names: Mapping[Place, Sequence[str]] | None = None,
    directions: Sequence[str] | None = None,
    scan: str = "tensornet_interp",
    pairs: int = 10,
    overwrite: bool = False,
) -> None:
    """Write the graph of a prompt in the format of circuit-tracer, so that its page shows the graph and edits it.

    Two files are written to `folder`: slug.json with the graph, and graph-metadata.json, which lists all graphs of the
    folder; graphs that are listed there already stay. The function serve of circuit_tracer.frontend opens the folder.

    A link has the value of an edge; links along several paths are summed. circuit-tracer knows no second order, so each
    of the `pairs` strongest pairs of two features of a target is a node of its own: half of its value comes from either
    feature. All that is not shown is one node per target, drawn as an error, so the links of a target sum to its
    pre-activation. The layers of the page are the places of features, counted from the input; an output direction
    is a logit, whose p is its share of the seeds and no probability.

    graph: of one prompt, as `feature_graph` returns it; an averaged graph has no positions and is refused. tokens: the
    tokens of the prompt. slug: the name of the file, of letters, digits, "-" and "_". names: the names of features, by
    place; by default the label of the node. directions: one name per output direction among the seeds. scan: where the
    page looks for examples of features on the hub; by default, there are none. overwrite: whether an existing graph of
    this name is replaced.
    Raises FileExistsError if the graph exists and overwrite is False; ValueError for an averaged graph, or for fewer
    tokens than positions. Size: about 100 bytes per link.
    """
    check_kind("graph", graph, FeatureGraph)
    place = check_path("folder", folder)
    check_names("tokens", tokens)
    check_text("slug", slug)
    check_text("scan", scan)
    check_int("pairs", pairs, 0)
    known = {} if names is None else check_mapping("names", names)
    for at, listed in known.items():
        check_names(f"names[{at!r}]", listed)
    wanted = sum(node.kind == "direction" for node in graph.nodes)
    if directions is not None:
        check_names("directions", directions, wanted, "output direction")
    _check_graph(graph, tokens, slug)
    file = place / f"{slug}.json"
    if file.exists() and not check_bool("overwrite", overwrite):
        raise FileExistsError(f"{file} exists; pass overwrite=True to replace it")
    writer = _Writer(graph, known, directions, pairs)
    writer.write()
    metadata = {
        "slug": slug,
        "scan": scan,
        "transcoder_list": [],
        "prompt_tokens": list(tokens),
        "prompt": "".join(tokens),
        "node_threshold": None,
        "schema_version": 1,
    }
    content = {
        "metadata": metadata,
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": writer.nodes,
        "links": [{"source": a, "target": b, "weight": weight} for (a, b), weight in writer.links.items()],
    }
    listing = {"graphs": [*_others(place / _LIST, slug), metadata]}
    replace_files([(file, json.dumps(content, indent=1).encode()), (place / _LIST, json.dumps(listing).encode())])


def _check_graph(graph: FeatureGraph, tokens: Sequence[str], slug: str) -> None:
    if re.fullmatch(r"[A-Za-z0-9_-]+", slug) is None or f"{slug}.json" == _LIST:
        raise ValueError(f"slug must have only letters, digits, '-' and '_', and not name the list, got {slug!r:.60}")
    if graph.mode != "given":
        raise ValueError(f"graph must be of one prompt (mode 'given'), got mode {graph.mode!r}: it has no positions")
    last = max(node.position for node in graph.nodes)
    if last >= len(tokens):
        raise ValueError(
            f"tokens must be those of the prompt: the graph has position {last}, and there are {len(tokens)}"
        )


def _others(file: Path, slug: str) -> list[Fields]:
    """Return the other graphs that a folder lists."""
    if not file.exists():
        return []
    listed = check_list(f"the graphs in {file}", check_mapping(str(file), read_json(file)).get("graphs"))
    return [item for item in listed if check_mapping(f"a graph in {file}", item).get("slug") != slug]


@dataclass(frozen=True, eq=False)
class _Writer:
    """Turns the nodes and edges of a graph into those of circuit-tracer."""

    graph: FeatureGraph
    names: Mapping[Place, Sequence[str]]
    directions: Sequence[str] | None
    pairs: int
    nodes: list[Fields] = field(default_factory=list)
    links: dict[tuple[str, str], float] = field(default_factory=dict)
    _scores: dict[str, float] = field(default_factory=dict)

    @cached_property
    def _layers(self) -> list[tuple[int, int]]:
        """Return the places of features, from the input up."""
        features = [node for node in self.graph.nodes if node.kind in ("feature", "error")]
        return sorted({(node.part, PLACES.index(node.place)) for node in features})

    def write(self) -> None:
        """Fill in nodes and links."""
        position = self.graph.nodes[0].position  # of the seeds, which come first
        ids = [self._node(number, node, position) for number, node in enumerate(self.graph.nodes)]
        for target in self.graph.targets:
            self._target(target, ids)
        self._influences()

    def _node(self, number: int, node: GraphNode, position: int) -> str:
        """Add a node of the graph, and return its id."""
        at = node.position if node.position >= 0 else position
        listed = self.names.get((node.part, node.place), ())
        more: Fields = {"activation": node.activation}
        if node.kind == "feature":
            layer = self._layers.index((node.part, PLACES.index(node.place)))
            name = f" {listed[node.feature]}" if node.feature < len(listed) else ""
            key, kind, feature = f"{layer}_{node.feature}_{at}", _FEATURE, _paired(layer, node.feature)
            text, more["jsNodeId"] = f"{node.label}{name}", f"{layer}_{node.feature}-0"
        elif node.kind == "direction":
            layer, key, kind, feature = len(self._layers) + 1, f"direction_{node.feature}_{at}", _LOGIT, node.feature
            name = f"direction {node.feature}" if self.directions is None else self.directions[node.feature]
            quoted = name.replace('"', "'")  # the page looks for the name between quotation marks
            text = f'Output "{quoted}" (p={node.score:.3f})'
            more |= {"token_prob": node.score, "is_target_logit": True}
        elif node.part < 0 or node.kind == "input":
            layer, key, kind, feature, text = -1, f"{node.kind}_{number}", node.kind, -1 - number, node.label
        else:
            above = bisect_left(self._layers, (node.part, PLACES.index(node.place)))
            layer = min(above, len(self._layers) - 1)
            key, kind, feature, text = f"{node.kind}_{number}", _ERROR, -1 - number, node.label
        return self._add(key, "E" if layer < 0 else str(layer), at, kind, feature, text, node.score, more)

    def _add(
        self, key: str, layer: str, at: int, kind: str, feature: int, text: str, score: float, more: Fields
    ) -> str:
        node = {"node_id": key, "feature": feature, "layer": layer, "ctx_idx": at, "feature_type": kind}
        node |= {"token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0}
        node |= {"jsNodeId": key, "clerp": text, "influence": 0.0, "activation": None}
        self.nodes.append(node | more)
        self._scores[key] = score
        return key

    def _target(self, target: GraphTarget, ids: Sequence[str]) -> None:
        """Add the links of a target: single sources, the strongest pairs, and the rest as one node."""
        own = ids[target.node]
        at = next(node for node in self.nodes if node["node_id"] == own)
        singles, doubles = dict[str, float](), dict[tuple[str, str], float]()
        for edge in self.graph.edges_of(target.node):
            ends = tuple(dict.fromkeys(ids[source] for source in edge.sources))
            if len(ends) == 1:
                singles[ends[0]] = singles.get(ends[0], 0.0) + edge.value
            else:
                pair = min(ends), max(ends)
                doubles[pair] = doubles.get(pair, 0.0) + edge.value
        best = sorted(doubles, key=lambda pair: -abs(doubles[pair]))[: self.pairs]
        shown = math.fsum([*singles.values(), *(doubles[pair] for pair in best)])
        rest = target.value - shown
        total = math.fsum(map(abs, [*singles.values(), *(doubles[pair] for pair in best), rest])) or 1.0
        score = self.graph.nodes[target.node].score
        self.links.update({(source, own): value for source, value in singles.items() if value})
        text = {node["node_id"]: node["clerp"] for node in self.nodes}
        layer = at["layer"] if at["feature_type"] == _FEATURE else str(len(self._layers) - 1)

        def extra(kind: str, key: str, clerp: str, value: float) -> str:
            number = -1 - len(self.nodes)
            return self._add(key, layer, at["ctx_idx"], kind, number, clerp, score * abs(value) / total, {})

        for pair in best:
            both = " × ".join(text[end] for end in pair)
            key = extra("pair", f"pair_{target.node}_{len(self.nodes)}", both, doubles[pair])
            for source in pair:
                self.links[source, key] = doubles[pair] / 2
            self.links[key, own] = doubles[pair]
        if rest:
            key = extra(_ERROR, f"rest_{target.node}", f"not in the graph: rest of {at['clerp']}", rest)
            self.links[key, own] = rest

    def _influences(self) -> None:
        """Give each node the share of the scores of all nodes with at least its score, by which the page prunes."""
        order = sorted(range(len(self.nodes)), key=lambda at: -self._scores[self.nodes[at]["node_id"]])
        total = math.fsum(self._scores.values()) or 1.0
        so_far = 0.0
        for at in order:
            so_far += self._scores[self.nodes[at]["node_id"]]
            self.nodes[at]["influence"] = so_far / total


def _paired(a: int, b: int) -> int:
    """Return Cantor's number of a pair of whole numbers, by which circuit-tracer names a feature of a layer."""
    return (a + b) * (a + b + 1) // 2 + b
