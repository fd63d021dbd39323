"""What bonds between layers carry, and networks with truncated bonds (ODT: orthogonalise, diagonalise, truncate)."""

from tensornet_interp.bonds.grams import Bond
from tensornet_interp.bonds.truncation import ODT, Truncation, odt

__all__ = [
    "ODT",
    "Bond",
    "Truncation",
    "odt",
]
