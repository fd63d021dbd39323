"""Circuits across layers: which features of lower layers make a feature, alone and in pairs."""

from tensornet_interp.contents import explain_missing_names
from tensornet_interp.graphs.building import feature_graph
from tensornet_interp.graphs.circuit_tracer import write_circuit_tracer
from tensornet_interp.graphs.graph import FeatureGraph, GraphEdge, GraphNode, GraphTarget
from tensornet_interp.graphs.interventions import edge_tests, random_edges
from tensornet_interp.graphs.verdicts import EDGE_RULE, EdgeRule, EdgeVerdict

__all__ = [
    "EDGE_RULE",
    "EdgeRule",
    "EdgeVerdict",
    "FeatureGraph",
    "GraphEdge",
    "GraphNode",
    "GraphTarget",
    "edge_tests",
    "feature_graph",
    "random_edges",
    "write_circuit_tracer",
]

explain_missing_names(__name__)
