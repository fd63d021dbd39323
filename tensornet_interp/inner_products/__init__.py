"""Inner products of layers and networks from their weights, and what follows: similarity, error, difference."""

from tensornet_interp.inner_products.estimate import Estimate
from tensornet_interp.inner_products.pairs import difference, inner, norm, output_similarity, relative_error, similarity
from tensornet_interp.pages import explain_missing_names

__all__ = [
    "Estimate",
    "difference",
    "inner",
    "norm",
    "output_similarity",
    "relative_error",
    "similarity",
]

explain_missing_names(__name__)
