"""Check the operands of inner products: networks or layers with equal depth, inputs and outputs."""

from collections.abc import Mapping, Sequence

from tensornet_interp.attention.sequence import SequenceNetwork
from tensornet_interp.checks import check_size
from tensornet_interp.layer import BilinearLayer, TensorNetwork
from tensornet_interp.network import BilinearNetwork, as_network, check_network

Comparable = TensorNetwork | SequenceNetwork
Networks = Comparable | Sequence[Comparable]


def name_networks(a: Networks, b: Comparable | None) -> dict[str, Comparable]:
    """Return the networks to compare by the names that errors use: "a" and "b", or list positions "0", "1", ...

    Raises TypeError unless the arguments are two networks or one list of networks. Raises ValueError if the list is
    empty.
    """
    if b is not None:
        if not isinstance(a, Comparable):
            raise TypeError(f"similarity takes two networks, or one list of them; got {type(a).__name__} and a second")
        return {"a": a, "b": b}
    if isinstance(a, Comparable) or not isinstance(a, Sequence) or isinstance(a, str):
        raise TypeError(f"similarity takes two networks, or one list of them; got one {type(a).__name__}")
    if not a:
        raise ValueError("similarity of an empty list is undefined; give at least one network")
    return {str(i): part for i, part in enumerate(a)}


def as_networks(named: Mapping[str, Comparable]) -> list[BilinearNetwork]:
    """Return all operands as networks; raise ValueError if their depth, inputs, outputs or devices differ."""
    networks = {name: as_network(check_network(name, part), name) for name, part in named.items()}
    first = next(iter(networks))
    for name, network in networks.items():
        if len(network) != len(networks[first]):
            raise ValueError(f"networks must have the same depth, got {len(networks[first])} and {len(network)} layers")
        check_comparable({at: networks[at].layers[0] for at in (first, name)}, outputs=False)
        check_comparable({at: networks[at].layers[-1] for at in (first, name)}, inputs=False)
    return list(networks.values())


def check_comparable(layers: dict[str, BilinearLayer], *, inputs: bool = True, outputs: bool = True) -> None:
    """Raise ValueError unless all named layers have the same inputs, the same outputs and the same device.

    inputs, outputs: whether the sizes of the inputs and of the outputs are compared.
    """
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
