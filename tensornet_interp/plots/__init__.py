"""Figures of results. Each function returns a `matplotlib.figure.Figure`; save it with `figure.savefig(path)`."""

from tensornet_interp.plots.spectral import activations, eigenvectors, explanation, spectrum, truncation_curves

__all__ = ["activations", "eigenvectors", "explanation", "spectrum", "truncation_curves"]
