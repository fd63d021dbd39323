"""Compute the singular values of the bonds between layers, and truncate the bonds.

The method is ODT: orthogonalise, diagonalise, truncate.
"""

from tensornet_interp.bonds.grams import Bond
from tensornet_interp.bonds.truncation import ODT, Truncation, odt
from tensornet_interp.contents import explain_missing_names

__all__ = [
    "ODT",
    "Bond",
    "Truncation",
    "odt",
]

explain_missing_names(__name__)
