"""Figures of results. Each function returns a `matplotlib.figure.Figure`; save it with `figure.savefig(path)`."""

from tensornet_interp.plots.circuits import draw_circuit
from tensornet_interp.plots.components import components, outputs_map
from tensornet_interp.plots.networks import draw_network
from tensornet_interp.plots.spectral import activations, eigenvectors, explanation, spectrum, truncation_curves
from tensornet_interp.plots.sweeps import curves, pareto

__all__ = [
    "activations",
    "components",
    "curves",
    "draw_circuit",
    "draw_network",
    "eigenvectors",
    "explanation",
    "outputs_map",
    "pareto",
    "spectrum",
    "truncation_curves",
]
