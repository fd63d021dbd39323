"""Graphs of features across the layers of a model: nodes, first-order and second-order edges, and what is left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from tensornet_interp.checks import check_int, check_kind, check_list
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record

Path = tuple[tuple[int, int], ...]
SHOWN = 8  # targets in the text of a graph


@register_type("GraphNode")
class GraphNode(NamedTuple):
    """A node is a feature at a place of a network, or what is no feature: see `kind`.

    kind: "feature"; "direction", an output direction; "error", what the dictionary of a place does not reconstruct;
    "write", what a part without a dictionary writes; "input", the input of the network; "rest", what arrives through
    more heads than hops; "bias", all biases; "mean", in averaged graphs, the mean of all that is no feature.
    """

    kind: str
    part: int  # number of the part of the network; -1 for a bias, a mean or a direction
    place: str  # "stream", "in" or "out", the place of the dictionary; "" for a bias, a mean or a direction
    feature: int  # of a direction, its number; -1 for other kinds
    position: int  # of the prompt; -1 in averaged graphs and for nodes of all positions
    activation: float  # given: on the prompt; averaged: mean |activation| where active; 1 for others
    score: float  # influence on the seed: a share of the values of all edges, carried from target to source

    @property
    def label(self) -> str:
        """Return a short name, such as "3 out 17 @ 5"."""
        if self.part < 0 or self.kind == "input":
            return self.kind
        name = f"{self.part} {self.place}"
        name += f" {self.feature}" if self.kind == "feature" else f" {self.kind}"
        return name if self.position < 0 else f"{name} @ {self.position}"


@register_type("GraphEdge")
class GraphEdge(NamedTuple):
    """An edge is what one source, or a pair of sources, gives to the pre-activation of a target.

    value = weight * activation of the source, or weight * activation of one * activation of the other

    A pair {i, j} -> g with i != j has weight 2 Q_g[i, j], and i = j has weight Q_g[i, i].
    """

    target: int  # number of a node
    sources: tuple[int, ...]  # numbers of one node, or of the two of a pair
    paths: tuple[Path, ...]  # one per source: the heads (part, head) that it runs through, () is the residual
    offsets: tuple[int, ...]  # one per source: position of the source minus position of the target
    weight: float
    value: float


@register_type("GraphTarget")
class GraphTarget(NamedTuple):
    """A target is a node whose edges are in the graph, with what the graph leaves out.

    value = kept + left_out
    """

    node: int
    value: float  # pre-activation; averaged: NaN
    kept: float  # sum of the values of its edges
    left_out: float  # given: value - kept; averaged: NaN
    from_graph: float  # given: sum of the edges if sources that are targets have the activation that the graph gives
    features: int  # sources that were kept
    share_left_out: float  # 1 - |Q_KK|^2 / |Q|^2 over features, or 1 - |L_K|^2 / |L|^2 of a linear target
    bound: float  # of |change of the pre-activation| if all features that were not kept are removed
    proven: bool  # whether no pair that was not looked at can be stronger than those that decided
    r_squared: float  # averaged: of the pre-activation on held-out text, from all features; else NaN
    r_squared_kept: float  # likewise, from the kept features
    r_squared_graph: float  # likewise, if sources that are targets have the activation that the graph predicts


@register_type("FeatureGraph")
@dataclass(frozen=True, eq=False)
class FeatureGraph:
    """A feature graph holds which features of lower layers make the pre-activations of its targets, and how.

    p_g = c_g + sum_i L_g[i] a_i + sum_ij Q_g[i, j] a_i a_j

    nodes: the seeds come first. edges: those of each target in the order of targets. explained: the share of the
    variance that each dictionary explains, by the place of the dictionary. `mode`: "given" for one prompt, where
    the edges of a target and its left_out sum to its pre-activation; "averaged" for mean patterns and mean scales.
    """

    mode: str
    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]
    targets: tuple[GraphTarget, ...]
    explained: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    directions: tuple[Tensor, ...] = ()  # (out,) of the nodes of kind "direction", by their number
    name: str = ""

    def edges_of(self, node: int) -> list[GraphEdge]:
        """Return the edges that end at a node, largest |value| first."""
        check_int("node", node, 0, len(self.nodes) - 1)
        return sorted((edge for edge in self.edges if edge.target == node), key=lambda edge: -abs(edge.value))

    def top(self, n: int) -> list[GraphEdge]:
        """Return the n edges between features that matter most for the seeds, at most as many as there are.

        An edge counts by its share of the |values| of its target's edges, times the score of the target.
        """
        check_int("n", n, 1)
        between = [edge for edge in self.edges if all(self.nodes[at].kind == "feature" for at in edge.sources)]
        order = sorted(zip(self.shares(between), range(len(between)), strict=True), key=lambda item: -item[0])
        return [between[at] for _, at in order[:n]]

    def shares(self, edges: Sequence[GraphEdge]) -> list[float]:
        """Return how much edges of this graph matter for the seeds: what `top` sorts by."""
        check_edges("edges", edges, self)
        total: dict[int, float] = {}
        for edge in self.edges:
            total[edge.target] = total.get(edge.target, 0.0) + abs(edge.value)
        return [self.nodes[edge.target].score * abs(edge.value) / (total[edge.target] or 1.0) for edge in edges]

    def records(self) -> list[Record]:
        """Return one record per edge, with the labels of its nodes."""
        rows: list[Record] = []
        for edge in self.edges:
            labels = [self.nodes[at].label for at in edge.sources]
            paths = [path_name(path) for path in edge.paths]
            row: Record = {"target": self.nodes[edge.target].label, "source": labels[0], "path": paths[0]}
            row |= {"offset": edge.offsets[0]}
            pair = len(labels) > 1
            row |= {"second": labels[1] if pair else "", "second_path": paths[1] if pair else ""}
            row |= {"second_offset": edge.offsets[1] if pair else None, "weight": edge.weight, "value": edge.value}
            rows.append(row)
        return rows

    def __repr__(self) -> str:
        pairs = sum(len(edge.sources) > 1 for edge in self.edges)
        sizes = f"nodes={len(self.nodes)}, edges={len(self.edges)}, pairs={pairs}, targets={len(self.targets)}"
        return f"FeatureGraph({self.name!r}, {self.mode}, {sizes})"

    def __str__(self) -> str:
        lines = [repr(self)]
        for target in self.targets[:SHOWN]:
            value = f"value {target.value:+.4g}, left out {target.left_out:+.4g}"
            if self.mode == "averaged":
                value = f"R squared {target.r_squared:.3f}, of the kept features {target.r_squared_kept:.3f}"
            lines.append(
                f"{self.nodes[target.node].label}: {value}, {target.share_left_out:.1%} of the weights left out"
            )
            for edge in self.edges_of(target.node)[:5]:
                ends = " x ".join(
                    self.nodes[at].label + ("" if not path else f" ({path_name(path)})")
                    for at, path in zip(edge.sources, edge.paths, strict=True)
                )
                lines.append(f"  {edge.value:+.4g}  {ends}")
        if len(self.targets) > SHOWN:
            lines.append(f"and {len(self.targets) - SHOWN} more targets; records() has the edges of all")
        return "\n".join([*lines, *self.warnings])


def check_edges(name: str, edges: object, graph: FeatureGraph) -> Sequence[GraphEdge]:
    """Return a list of edges between nodes of a graph after checks."""
    listed = check_list(name, edges)
    for number, edge in enumerate(listed):
        check_kind(f"{name}[{number}]", edge, GraphEdge)
        for at in (edge.target, *edge.sources):
            check_int(f"a node of {name}[{number}]", at, 0, len(graph.nodes) - 1, "the nodes of the graph")
    return listed


def path_name(path: Path) -> str:
    """Return a path in words: "residual", or the heads that it runs through, from the target down."""
    return ", ".join(f"part {part} head {head}" for part, head in path) or "residual"
