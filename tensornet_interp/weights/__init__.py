"""Weights on disk: layers of checkpoints, dictionaries, single tensors; safetensors only, never a pickle."""

from tensornet_interp.weights.dictionaries import load_dictionary, save_dictionary
from tensornet_interp.weights.files import Source, WeightFiles, load_config, load_tensor, tensor_names
from tensornet_interp.weights.layers import load_layer, save_layer
from tensornet_interp.weights.layouts import PRESETS, PUBLISHED, Names, fill
from tensornet_interp.weights.tensors import pack

__all__ = [
    "PRESETS",
    "PUBLISHED",
    "Names",
    "Source",
    "WeightFiles",
    "fill",
    "load_config",
    "load_dictionary",
    "load_layer",
    "load_tensor",
    "pack",
    "save_dictionary",
    "save_layer",
    "tensor_names",
]
