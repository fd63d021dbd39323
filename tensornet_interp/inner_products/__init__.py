"""Inner products of layers and networks from their weights, and what follows: similarity, error, difference."""

from tensornet_interp.inner_products.estimate import Estimate
from tensornet_interp.inner_products.pairs import difference, inner, norm, output_similarity, relative_error, similarity

__all__ = [
    "Estimate",
    "difference",
    "inner",
    "norm",
    "output_similarity",
    "relative_error",
    "similarity",
]
