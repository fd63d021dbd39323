"""Attention layers and stacks over positions, as networks of named modes: exact analyses of heads from the weights."""

from tensornet_interp.attention.composing import ReadBack, composition, pull_back, read_back
from tensornet_interp.attention.contributions import (
    Contributions,
    leg_contributions,
    path_contributions,
    write_contributions,
)
from tensornet_interp.attention.heads import (
    QueryForm,
    copying_score,
    head_inner,
    head_similarity,
    prefix_matching_score,
    previous_token_score,
    query_form,
)
from tensornet_interp.attention.layer import AttentionLayer
from tensornet_interp.attention.lowrank import SVD, Entry, LowRank
from tensornet_interp.attention.making import causal_mask, rotary_rotation
from tensornet_interp.attention.moments import (
    StreamMoments,
    output_moments,
    position_inner,
    stream_moments,
    update_share,
)
from tensornet_interp.attention.ov_svd import OVSVD
from tensornet_interp.attention.parts import LinearMap, Norm, Part
from tensornet_interp.attention.patching import mean_ablated, path_patched
from tensornet_interp.attention.sequence import SequenceNetwork
from tensornet_interp.contents import explain_missing_names

__all__ = [
    "OVSVD",
    "SVD",
    "AttentionLayer",
    "Contributions",
    "Entry",
    "LinearMap",
    "LowRank",
    "Norm",
    "Part",
    "QueryForm",
    "ReadBack",
    "SequenceNetwork",
    "StreamMoments",
    "causal_mask",
    "composition",
    "copying_score",
    "head_inner",
    "head_similarity",
    "leg_contributions",
    "mean_ablated",
    "output_moments",
    "path_contributions",
    "path_patched",
    "position_inner",
    "prefix_matching_score",
    "previous_token_score",
    "pull_back",
    "query_form",
    "read_back",
    "rotary_rotation",
    "stream_moments",
    "update_share",
    "write_contributions",
]

explain_missing_names(__name__)
