"""Bilinear layers and their decompositions as tensor networks. The contents page: start here."""

import tensorly

from tensornet_interp.bonds.truncation import odt
from tensornet_interp.contraction import TensorNetwork, Term, contract, plan, rename
from tensornet_interp.decompositions import Decomposition, decompose
from tensornet_interp.inner_products.estimate import Estimate
from tensornet_interp.inner_products.pairs import difference, inner, norm, relative_error, similarity
from tensornet_interp.layer import BilinearLayer, BilinearMap
from tensornet_interp.lifting import lift
from tensornet_interp.network import BilinearNetwork
from tensornet_interp.planning import Plan
from tensornet_interp.registry import list_decompositions, register_decomposition
from tensornet_interp.report import Report, package_version
from tensornet_interp.results import CPResult, SpectralResult, TuckerResult

__version__ = package_version()
tensorly.set_backend("pytorch")  # the one place: layers hand torch tensors to TensorLy

__all__ = [
    "BilinearLayer",
    "BilinearMap",
    "BilinearNetwork",
    "CPResult",
    "Decomposition",
    "Estimate",
    "Plan",
    "Report",
    "SpectralResult",
    "TensorNetwork",
    "Term",
    "TuckerResult",
    "__version__",
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
