"""Compare results: find which components are the same, and how similar the components of several runs are."""

from tensornet_interp.compare.components import Matching, match
from tensornet_interp.compare.fits import Stability, stability
from tensornet_interp.compare.nulls import NULLS, Null, null
from tensornet_interp.compare.ranks import RankChoice, choose_rank
from tensornet_interp.compare.runs import (
    EIGENVALUE_RANKINGS,
    Interval,
    OrderedSimilarity,
    jackknife,
    matched_similarity,
    ordered_similarity,
)
from tensornet_interp.compare.trust import AGREES, DETERMINED, ComponentTrust, component_trust
from tensornet_interp.contents import explain_missing_names

__all__ = [
    "AGREES",
    "DETERMINED",
    "EIGENVALUE_RANKINGS",
    "NULLS",
    "ComponentTrust",
    "Interval",
    "Matching",
    "Null",
    "OrderedSimilarity",
    "RankChoice",
    "Stability",
    "choose_rank",
    "component_trust",
    "jackknife",
    "match",
    "matched_similarity",
    "null",
    "ordered_similarity",
    "stability",
]

explain_missing_names(__name__)
