"""Circuits across layers: which features of lower layers make a feature, alone and in pairs."""

from tensornet_interp.contents import explain_missing_names
from tensornet_interp.graphs.building import feature_graph
from tensornet_interp.graphs.graph import FeatureGraph, GraphEdge, GraphNode, GraphTarget

__all__ = ["FeatureGraph", "GraphEdge", "GraphNode", "GraphTarget", "feature_graph"]

explain_missing_names(__name__)
