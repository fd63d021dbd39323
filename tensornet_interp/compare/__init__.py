"""Compare results: find which components are the same, and how similar the components of several runs are."""

from tensornet_interp.compare.components import Matching, Stability, match, stability
from tensornet_interp.compare.runs import (
    EIGENVALUE_RANKINGS,
    Interval,
    OrderedSimilarity,
    jackknife,
    matched_similarity,
    ordered_similarity,
)
from tensornet_interp.contents import explain_missing_names

__all__ = [
    "EIGENVALUE_RANKINGS",
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
