"""Dictionary features before and after a layer: interactions of input features, eigenpairs of output features, labels.

Most functions take plain matrices: input features are the columns of a decoder (in, feature), and output features are
the rows of an encoder (feature, out). The layer or the argument "basis" must state the coordinates of the inputs,
before or after a norm; no coordinates are ever assumed.
"""

from tensornet_interp.contents import explain_missing_names
from tensornet_interp.features.dictionary import Dictionary, between
from tensornet_interp.features.directions import (
    Label,
    Overlap,
    Projection,
    label_directions,
    overlap,
    projections,
    token_directions,
)
from tensornet_interp.features.interactions import FeatureInteractions, Interaction, Submatrix, feature_interactions
from tensornet_interp.features.lowrank import low_rank_correlation, rank_by_structure
from tensornet_interp.features.removal import (
    REMOVAL_RULE,
    RemovalRule,
    Verdict,
    circuit_tests,
    plane_part,
    random_part,
    removal_test,
)
from tensornet_interp.features.statistics import Statistics
from tensornet_interp.features.strongest import Strongest, strongest_windows

__all__ = [
    "REMOVAL_RULE",
    "Dictionary",
    "FeatureInteractions",
    "Interaction",
    "Label",
    "Overlap",
    "Projection",
    "RemovalRule",
    "Statistics",
    "Strongest",
    "Submatrix",
    "Verdict",
    "between",
    "circuit_tests",
    "feature_interactions",
    "label_directions",
    "low_rank_correlation",
    "overlap",
    "plane_part",
    "projections",
    "random_part",
    "rank_by_structure",
    "removal_test",
    "strongest_windows",
    "token_directions",
]

explain_missing_names(__name__)
