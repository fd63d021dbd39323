"""What the bonds between layers carry, and networks with bonds cut (ODT: orthogonalise, diagonalise, truncate)."""

from tensornet_interp.bonds.grams import Bond
from tensornet_interp.bonds.truncation import ODT, Truncation, odt

__all__ = [
    "ODT",
    "Bond",
    "Truncation",
    "odt",
]
