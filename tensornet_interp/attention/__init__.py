"""Attention layers and stacks over positions, as networks of named modes: exact analyses of heads from the weights."""

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
from tensornet_interp.attention.making import rotary_rotation
from tensornet_interp.attention.ov_svd import OVSVD
from tensornet_interp.attention.parts import LinearMap, Norm, Part
from tensornet_interp.attention.sequence import SequenceNetwork
from tensornet_interp.pages import explain_missing_names

__all__ = [
    "OVSVD",
    "SVD",
    "AttentionLayer",
    "Entry",
    "LinearMap",
    "LowRank",
    "Norm",
    "Part",
    "QueryForm",
    "SequenceNetwork",
    "copying_score",
    "head_inner",
    "head_similarity",
    "prefix_matching_score",
    "previous_token_score",
    "query_form",
    "rotary_rotation",
]

explain_missing_names(__name__)
