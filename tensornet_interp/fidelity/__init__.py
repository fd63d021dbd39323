"""What a decomposition does to the function: accuracy, cross-entropy, proofs, refitted coefficients."""

from tensornet_interp.fidelity.certificates import certificate, difference_certificate
from tensornet_interp.fidelity.curves import (
    ORDERS,
    Fidelity,
    LayerFidelity,
    NetworkFidelity,
    component_order,
    components_needed,
    fidelity,
    network_fidelity,
    truncation_curve,
)
from tensornet_interp.fidelity.refitting import leading, refit
from tensornet_interp.pages import explain_missing_names

__all__ = [
    "ORDERS",
    "Fidelity",
    "LayerFidelity",
    "NetworkFidelity",
    "certificate",
    "component_order",
    "components_needed",
    "difference_certificate",
    "fidelity",
    "leading",
    "network_fidelity",
    "refit",
    "truncation_curve",
]

explain_missing_names(__name__)
