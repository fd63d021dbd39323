"""Leading eigenpairs of the interaction matrices of thousands of output directions."""

from tensornet_interp.spectra.leading import Spectra, krylov_flops, spectra

__all__ = [
    "Spectra",
    "krylov_flops",
    "spectra",
]
