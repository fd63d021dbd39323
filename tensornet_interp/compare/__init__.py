"""Which components of two results are the same ones, and how alike the components of several runs are."""

from tensornet_interp.compare.components import LEVELS, Matching, Stability, match, stability
from tensornet_interp.compare.runs import (
    ORDERS,
    Interval,
    OrderedSimilarity,
    jackknife,
    matched_similarity,
    ordered_similarity,
)
from tensornet_interp.pages import explain_missing_names

__all__ = [
    "LEVELS",
    "ORDERS",
    "Interval",
    "Matching",
    "OrderedSimilarity",
    "Stability",
    "jackknife",
    "match",
    "matched_similarity",
    "ordered_similarity",
    "stability",
]

explain_missing_names(__name__)
