"""What the verbs of this room compare: networks of one depth, or single layers, with the same inputs and outputs."""

from collections.abc import Mapping, Sequence

import torch

from tensornet_interp.checks import check_size
from tensornet_interp.contraction import TensorNetwork
from tensornet_interp.layer import BilinearLayer, BilinearMap, as_layer, as_wide_layer
from tensornet_interp.network import BilinearNetwork

Networks = TensorNetwork | Sequence[TensorNetwork]


def name_networks(a: Networks, b: TensorNetwork | None) -> dict[str, TensorNetwork]:
    """Return the networks to compare by the names that errors use: a and b, or places in a list."""
    if b is not None:
        if not isinstance(a, TensorNetwork):
            raise TypeError(f"similarity takes two networks, or one list of them; got {type(a).__name__} and a second")
        return {"a": a, "b": b}
    if isinstance(a, TensorNetwork) or not isinstance(a, Sequence) or isinstance(a, str):
        raise TypeError(f"similarity takes two networks, or one list of them; got one {type(a).__name__}")
    if not a:
        raise ValueError("similarity of an empty list: it takes at least one network")
    return {str(i): part for i, part in enumerate(a)}


def as_networks(named: Mapping[str, TensorNetwork]) -> list[BilinearNetwork]:
    """Return all as networks of one depth, with the same inputs and outputs."""
    networks = {name: as_network(part) for name, part in named.items()}
    first = next(iter(networks))
    for name, network in networks.items():
        if len(network) != len(networks[first]):
            raise ValueError(f"networks must have the same depth, got {len(networks[first])} and {len(network)} layers")
        check_comparable({at: networks[at].layers[0] for at in (first, name)}, outputs=False)
        check_comparable({at: networks[at].layers[-1] for at in (first, name)}, inputs=False)
    return list(networks.values())


def as_network(part: TensorNetwork) -> BilinearNetwork:
    """Return a network unchanged, and anything else as a network of one layer."""
    if isinstance(part, BilinearNetwork):
        return part
    return BilinearNetwork([part if isinstance(part, BilinearMap) else as_layer(part)])


def as_single_layer(part: TensorNetwork) -> BilinearLayer:
    """Return a layer, a decomposition of one, or a network of one layer as a layer."""
    if isinstance(part, BilinearNetwork) and len(part) > 1:
        raise ValueError(f"expected a single layer, got a network of {len(part)}; compare its parts one by one")
    return part.layers[0] if isinstance(part, BilinearNetwork) else as_layer(part)


def as_wide_single_layer(part: TensorNetwork) -> BilinearLayer:
    """Return the same in float64: the arrays of a decomposition are converted before they are multiplied."""
    if isinstance(part, BilinearNetwork):
        return as_single_layer(part.to(dtype=torch.float64))
    return as_wide_layer(part)


def check_comparable(layers: dict[str, BilinearLayer], *, inputs: bool = True, outputs: bool = True) -> None:
    """Check that named layers have the same inputs, the same outputs (if asked) and the same device."""
    for mode, axis, wanted in (("in", 1, inputs), ("out", 0, outputs)):
        if wanted:
            check_size(mode, **{name: layer.shape[axis] for name, layer in layers.items()})
            if len({layer.constant_in if mode == "in" else layer.constant_out for layer in layers.values()}) > 1:
                raise ValueError(
                    f"only one of the two has a constant coordinate in mode '{mode}'; lift both or neither"
                )
    devices = {name: layer.down.device for name, layer in layers.items()}
    if len(set(devices.values())) > 1:
        listing = ", ".join(f"{name} {device}" for name, device in devices.items())
        raise ValueError(f"tensors must share one device; got {listing}")
