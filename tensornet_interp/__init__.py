"""Decompose, compare and explain bilinear layers from their weights, as tensor networks.

This page holds the names that most work begins with: layers and networks, decompositions and their results, contraction
and inner products. Every folder is a room with its own page, such as `tensornet_interp.features`; import it by its full
name.
"""

from typing import TYPE_CHECKING

import tensorly

from tensornet_interp.attention import AttentionLayer, SequenceNetwork
from tensornet_interp.bonds import odt
from tensornet_interp.contents import explain_missing_names
from tensornet_interp.contraction import Term, contract, plan, rename
from tensornet_interp.decompositions import (
    CP,
    HOSVD,
    BlockTerm,
    Decomposition,
    Eigen,
    OutputSVD,
    SymmetricCP,
    Tucker,
    Whitened,
    decompose,
)
from tensornet_interp.factored import CPResult, TuckerResult
from tensornet_interp.inner_products import Estimate, difference, inner, norm, relative_error, similarity
from tensornet_interp.layer import BilinearLayer, BilinearMap, TensorNetwork
from tensornet_interp.lifting import lift
from tensornet_interp.moments import Moments
from tensornet_interp.network import BilinearNetwork
from tensornet_interp.planning import Plan
from tensornet_interp.registry import list_decompositions, register_decomposition
from tensornet_interp.report import Report, package_version
from tensornet_interp.results import Result
from tensornet_interp.saving import load, save
from tensornet_interp.spectral import SpectralResult
from tensornet_interp.stack_moments import layer_moments
from tensornet_interp.store import register_type

if TYPE_CHECKING:  # at run time the page is imported when a report is written
    from tensornet_interp.pages import write_report

__version__ = package_version()
tensorly.set_backend("pytorch")  # set only here: layers pass torch tensors to TensorLy

__all__ = [
    "CP",
    "HOSVD",
    "AttentionLayer",
    "BilinearLayer",
    "BilinearMap",
    "BilinearNetwork",
    "BlockTerm",
    "CPResult",
    "Decomposition",
    "Eigen",
    "Estimate",
    "Moments",
    "OutputSVD",
    "Plan",
    "Report",
    "Result",
    "SequenceNetwork",
    "SpectralResult",
    "SymmetricCP",
    "TensorNetwork",
    "Term",
    "Tucker",
    "TuckerResult",
    "Whitened",
    "__version__",
    "contract",
    "decompose",
    "difference",
    "inner",
    "layer_moments",
    "lift",
    "list_decompositions",
    "load",
    "norm",
    "odt",
    "plan",
    "register_decomposition",
    "register_type",
    "relative_error",
    "rename",
    "save",
    "similarity",
    "write_report",
]

explain_missing_names(__name__, lazy={"write_report": "tensornet_interp.pages"})
