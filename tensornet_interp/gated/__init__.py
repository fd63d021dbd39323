"""Gated layers, which most language models have, and the bilinear layers that are nearest to them."""

from tensornet_interp.contents import explain_missing_names
from tensornet_interp.gated.fitting import GateFit, gate_fit
from tensornet_interp.gated.gates import GATES, Gate, check_gate
from tensornet_interp.gated.layer import GatedLayer
from tensornet_interp.gated.linearizing import linearization_error, linearize

__all__ = ["GATES", "Gate", "GateFit", "GatedLayer", "check_gate", "gate_fit", "linearization_error", "linearize"]

explain_missing_names(__name__)
