"""Measure what a decomposition does to the function: accuracy, squared error, proofs and refitted coefficients."""

from tensornet_interp.contents import explain_missing_names
from tensornet_interp.fidelity.certificates import certificate, difference_certificate
from tensornet_interp.fidelity.curves import (
    COMPONENT_RANKINGS,
    component_ranking,
    components_needed,
    truncation_curve,
)
from tensornet_interp.fidelity.measures import Fidelity, LayerFidelity, NetworkFidelity, fidelity, network_fidelity
from tensornet_interp.fidelity.refitting import keep_first, refit

__all__ = [
    "COMPONENT_RANKINGS",
    "Fidelity",
    "LayerFidelity",
    "NetworkFidelity",
    "certificate",
    "component_ranking",
    "components_needed",
    "difference_certificate",
    "fidelity",
    "keep_first",
    "network_fidelity",
    "refit",
    "truncation_curve",
]

explain_missing_names(__name__)
