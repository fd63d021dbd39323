"""Figures of results. Each function returns a `matplotlib.figure.Figure`; save it with `figure.savefig(path)`."""

from tensornet_interp.contents import explain_missing_names
from tensornet_interp.plots.attention import draw_composition, head_entries, pattern_by_offset
from tensornet_interp.plots.bonds import bond_curves, bond_spectra
from tensornet_interp.plots.circuits import draw_circuit
from tensornet_interp.plots.decisions import activations, explanation, truncation_curves
from tensornet_interp.plots.factors import components, outputs_map
from tensornet_interp.plots.features import correlation_by_rank, eigenvector_plane, interaction_submatrix
from tensornet_interp.plots.graphs import draw_feature_graph
from tensornet_interp.plots.images import image_cell, to_numpy
from tensornet_interp.plots.matrices import similarity_matrix
from tensornet_interp.plots.networks import draw_network
from tensornet_interp.plots.sequences import draw_sequence
from tensornet_interp.plots.spectral import compared_vectors, eigenvectors, output_directions, spectrum
from tensornet_interp.plots.sweeps import curves, dots, pareto

__all__ = [
    "activations",
    "bond_curves",
    "bond_spectra",
    "compared_vectors",
    "components",
    "correlation_by_rank",
    "curves",
    "dots",
    "draw_circuit",
    "draw_composition",
    "draw_feature_graph",
    "draw_network",
    "draw_sequence",
    "eigenvector_plane",
    "eigenvectors",
    "explanation",
    "head_entries",
    "image_cell",
    "interaction_submatrix",
    "output_directions",
    "outputs_map",
    "pareto",
    "pattern_by_offset",
    "similarity_matrix",
    "spectrum",
    "to_numpy",
    "truncation_curves",
]

explain_missing_names(__name__)
