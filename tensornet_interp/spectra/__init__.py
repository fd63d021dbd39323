"""Compute leading eigenpairs of the interaction matrices of thousands of output directions, with error bounds."""

from tensornet_interp.contents import explain_missing_names
from tensornet_interp.spectra.checkpoint import checkpoint_spectra
from tensornet_interp.spectra.leading import Spectra, krylov_flops, spectra
from tensornet_interp.spectra.norms import Invariants, invariants
from tensornet_interp.spectra.table import SpectraTable, open_spectra

__all__ = [
    "Invariants",
    "Spectra",
    "SpectraTable",
    "checkpoint_spectra",
    "invariants",
    "krylov_flops",
    "open_spectra",
    "spectra",
]

explain_missing_names(__name__)
