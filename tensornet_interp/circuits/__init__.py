"""Ask a network which components produce one output, and what the whole network computes, by degree."""

from tensornet_interp.circuits.head_search import head_circuit
from tensornet_interp.circuits.head_tree import HeadCircuit, HeadLevel
from tensornet_interp.circuits.queries import Query, degree_weights, evaluation, expansion, interaction_tensor, project
from tensornet_interp.circuits.search import circuit
from tensornet_interp.circuits.tree import Circuit, Component, Level
from tensornet_interp.contents import explain_missing_names

__all__ = [
    "Circuit",
    "Component",
    "HeadCircuit",
    "HeadLevel",
    "Level",
    "Query",
    "circuit",
    "degree_weights",
    "evaluation",
    "expansion",
    "head_circuit",
    "interaction_tensor",
    "project",
]

explain_missing_names(__name__)
