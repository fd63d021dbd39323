"""Bilinear layers and their decompositions as tensor networks. The contents page: start here."""

import tensorly

from tensornet_interp.bonds.truncation import odt
from tensornet_interp.contraction import TensorNetwork, Term, contract, plan, rename
from tensornet_interp.decompositions import Decomposition, decompose
from tensornet_interp.inner_products.distance import difference, norm, relative_error
from tensornet_interp.inner_products.estimate import Estimate
from tensornet_interp.inner_products.pairs import inner, similarity
from tensornet_interp.layer import BilinearLayer, BilinearMap
from tensornet_interp.lifting import lift
from tensornet_interp.moments import Moments
from tensornet_interp.network import BilinearNetwork
from tensornet_interp.planning import Plan
from tensornet_interp.registry import list_decompositions, register_decomposition
from tensornet_interp.report import Report
from tensornet_interp.results import CPResult, SpectralResult, TuckerResult

tensorly.set_backend("pytorch")  # the one place: layers hand torch tensors to TensorLy

__all__ = [
    "BilinearLayer",
    "BilinearMap",
    "BilinearNetwork",
    "CPResult",
    "Decomposition",
    "Estimate",
    "Moments",
    "Plan",
    "Report",
    "SpectralResult",
    "TensorNetwork",
    "Term",
    "TuckerResult",
    "contract",
    "decompose",
    "difference",
    "inner",
    "lift",
    "list_decompositions",
    "norm",
    "odt",
    "plan",
    "register_decomposition",
    "relative_error",
    "rename",
    "similarity",
]
