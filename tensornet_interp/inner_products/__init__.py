"""Compute inner products, cosines, norms, relative errors and differences of layers and networks from their weights.

There are three kinds of inner product (`Tree`, `Symmetric`, `Gaussian`). They give different values for networks of
two or more layers.
"""

from tensornet_interp.contents import explain_missing_names
from tensornet_interp.inner_products.distance import difference, norm, relative_error
from tensornet_interp.inner_products.estimate import Estimate
from tensornet_interp.inner_products.kinds import Gaussian, Symmetric, Tree
from tensornet_interp.inner_products.pairs import (
    inner,
    inner_by_output,
    output_similarity,
    similarity,
    similarity_by_output,
)

__all__ = [
    "Estimate",
    "Gaussian",
    "Symmetric",
    "Tree",
    "difference",
    "inner",
    "inner_by_output",
    "norm",
    "output_similarity",
    "relative_error",
    "similarity",
    "similarity_by_output",
]

explain_missing_names(__name__)
