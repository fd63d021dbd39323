"""The checkpoint of which `spectra_at_scale.py` computes a part: its sizes, its layers and its features."""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from examples.benchmarks.spectral import make_layer
from tensornet_interp import BilinearLayer
from tensornet_interp.disk import replace_files
from tensornet_interp.weights import layer_indices, load_dictionary, load_layer


class Sizes(NamedTuple):
    """`Sizes` are those of a model: inputs, outputs and hidden units of its layers, layers, and features per layer."""

    n_in: int
    n_out: int
    hidden: int
    layers: int
    features: int

    @property
    def total(self) -> int:
        """Return the number of all features."""
        return self.layers * self.features

    def grown(self, factor: float) -> "Sizes":
        """Return a model with `factor` times the weights; all sizes grow by the cube root of this factor."""
        return Sizes(*(round(size * factor ** (1 / 3)) for size in self))


class Features(Mapping[int, Tensor]):
    """These are the features (feature, out) of some layers, made or read when they are asked for."""

    def __init__(self, layers: Sequence[int], make: Callable[[int], Tensor]) -> None:
        self._layers, self._make = tuple(layers), lru_cache(maxsize=1)(make)

    def __getitem__(self, layer: int) -> Tensor:
        return self._make(layer)

    def __iter__(self) -> Iterator[int]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


class Model(NamedTuple):
    """A model is a checkpoint, its sizes, and the part to compute: features by layer, and the sizes of this part."""

    source: str
    sizes: Sizes
    part: Sizes
    features: Features


def opened(options: argparse.Namespace, out: Path) -> Model:
    """Return the checkpoint, which is made if none is given, with its sizes and the features to compute."""
    if options.checkpoint is None:
        sizes = Sizes(options.d_model, options.d_model, options.hidden, options.layers, options.features)
        source, layers = str(out / "checkpoint"), list(range(sizes.layers))
    else:
        source, layers = options.checkpoint, layer_indices(options.checkpoint, layout=options.layout)
        first = layer_of(source, layers[0], options, device="cpu", dtype=None)  # for its sizes
        sizes = Sizes(first.shape[1], first.shape[0], first.rank, len(layers), options.features)
    if options.dictionaries is not None:
        sizes = sizes._replace(features=len(encoder(options, layers[0])))
    part = sizes._replace(layers=min(sizes.layers, options.some_layers))
    part = sizes if options.whole else part._replace(features=min(sizes.features, options.some_features))

    def make(layer: int) -> Tensor:
        if options.dictionaries is not None:
            return encoder(options, layer)[: part.features]
        draw = torch.Generator().manual_seed(layer)
        rows = torch.randn(part.features, part.n_out, generator=draw, dtype=torch.float32)
        return torch.nn.functional.normalize(rows, dim=1)

    return Model(source, sizes, part, Features(layers[: part.layers], make))


def layer_of(
    source: str, index: int, options: argparse.Namespace, *, device: torch.device | str, dtype: torch.dtype | None
) -> BilinearLayer:
    """Return a layer of the checkpoint."""
    layout, removed = options.layout, options.gate_removed
    return load_layer(source, index, layout=layout, gate_removed=removed, device=device, dtype=dtype)


def encoder(options: argparse.Namespace, layer: int) -> Tensor:
    """Return the encoder (feature, out) of a layer's dictionary: each row is a feature."""
    place = options.place.format(layer=layer)
    return load_dictionary(options.dictionaries, subfolder=place, dtype=torch.float32).encoder


def write_checkpoint(folder: Path, d: int, hidden: int, layers: int, written: int, decay: str) -> None:
    """Write the first `written` of `layers` layers of random weights, in the published layout; layers on disk are kept.

    The index, which is written last, names the layers that are there.
    """
    about: dict[str, object] = {
        "d_model": d,
        "d_hidden": hidden,
        "n_layer": layers,
        "bilinear": True,
        "gate": None,
        "bias": False,
    }
    about |= {"normalization": True, "decay": decay}
    config, places = folder / "config.json", dict[str, str]()
    if config.exists() and json.loads(config.read_text(encoding="utf-8")) != about:
        raise ValueError(f"{folder} holds a checkpoint of other sizes; choose another folder")
    replace_files([(config, json.dumps(about).encode())])
    for index in range(written):
        names = [f"transformer.h.{index}.mlp.{part}.weight" for part in ("w", "p")]
        path = folder / f"layer-{index:05}.safetensors"
        places |= dict.fromkeys(names, path.name)
        if not path.exists():
            layer = make_layer(d, hidden, d, decay, seed=index)
            both = torch.cat([layer.left, layer.right], 1).T.contiguous()  # (2 hidden, d), left rows above
            replace_files([(path, save({names[0]: both, names[1]: layer.down.contiguous()}))])
    replace_files([(folder / "model.safetensors.index.json", json.dumps({"weight_map": places}).encode())])
