"""Top-down tracing: the tree of components that make one output of a network, `circuit(network, direction)`."""

from tensornet_interp.circuit.search import circuit
from tensornet_interp.circuit.tree import Circuit, Component, Level

__all__ = ["Circuit", "Component", "Level", "circuit"]
