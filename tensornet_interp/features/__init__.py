"""Dictionary features on both sides of a layer: interactions of inputs, eigenpairs of outputs, names of directions.

Dictionaries are plain matrices here: input features are the columns of a decoder (in, feature), output features the
rows of an encoder (feature, out). Where the inputs live, before or after a norm, is stated by the layer's history or by
`space`, never assumed.
"""

from tensornet_interp.features.directions import Label, Overlap, Projection, label_directions, overlap, projections
from tensornet_interp.features.interactions import FeatureInteractions, Interaction, Submatrix, feature_interactions
from tensornet_interp.features.lowrank import low_rank_correlation, rank_by_structure
from tensornet_interp.features.statistics import Statistics

__all__ = [
    "FeatureInteractions",
    "Interaction",
    "Label",
    "Overlap",
    "Projection",
    "Statistics",
    "Submatrix",
    "feature_interactions",
    "label_directions",
    "low_rank_correlation",
    "overlap",
    "projections",
    "rank_by_structure",
]
