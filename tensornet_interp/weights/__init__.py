"""Weights on disk: layers of checkpoints, feature dictionaries and single tensors, in safetensors files only.

Pickles are never opened, because they can run code.
"""

from tensornet_interp.pages import explain_missing_names
from tensornet_interp.tensorfile import pack
from tensornet_interp.weights.dictionaries import load_dictionary, save_dictionary
from tensornet_interp.weights.files import Source, WeightFiles, load_config, load_tensor, tensor_names
from tensornet_interp.weights.layers import load_layer
from tensornet_interp.weights.layouts import LAYOUTS, Layout

__all__ = [
    "LAYOUTS",
    "Layout",
    "Source",
    "WeightFiles",
    "load_config",
    "load_dictionary",
    "load_layer",
    "load_tensor",
    "pack",
    "save_dictionary",
    "tensor_names",
]

explain_missing_names(__name__)
