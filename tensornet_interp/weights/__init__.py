"""Weights of others: modules as networks, and layers, dictionaries and tensors in safetensors files.

Pickles are never opened, because they can run code.
"""

from tensornet_interp.contents import explain_missing_names
from tensornet_interp.tensorfile import pack
from tensornet_interp.weights.attention import load_attention
from tensornet_interp.weights.dictionaries import load_cross_layer, load_dictionary, save_dictionary
from tensornet_interp.weights.files import WeightFiles, load_config, load_tensor, tensor_names
from tensornet_interp.weights.inspection import InspectedFile, Inspection, inspect_files, layer_indices
from tensornet_interp.weights.layers import load_layer
from tensornet_interp.weights.layouts import LAYOUTS, Layout
from tensornet_interp.weights.modules import from_module, polynomial_parts
from tensornet_interp.weights.networks import load_network
from tensornet_interp.weights.norms import fold_norm, load_norm
from tensornet_interp.weights.sources import Source
from tensornet_interp.weights.verification import Verification, verify

__all__ = [
    "LAYOUTS",
    "InspectedFile",
    "Inspection",
    "Layout",
    "Source",
    "Verification",
    "WeightFiles",
    "fold_norm",
    "from_module",
    "inspect_files",
    "layer_indices",
    "load_attention",
    "load_config",
    "load_cross_layer",
    "load_dictionary",
    "load_layer",
    "load_network",
    "load_norm",
    "load_tensor",
    "pack",
    "polynomial_parts",
    "save_dictionary",
    "tensor_names",
    "verify",
]

explain_missing_names(__name__)
