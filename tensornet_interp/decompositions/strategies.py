"""Strategies: a registered name with options, or an object that is called on a layer."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, cast, runtime_checkable

from tensornet_interp.checks import check_mapping, suggestion
from tensornet_interp.layer import BilinearLayer, BilinearMap, TensorNetwork
from tensornet_interp.network import BilinearNetwork
from tensornet_interp.registry import Listed, decomposition_problems, get_decomposition, list_decompositions

Strategy = str | Callable[[BilinearLayer], TensorNetwork]


@runtime_checkable
class Decomposition(Protocol):
    """A decomposition is an object, such as a frozen dataclass, whose fields are options; it is called on a layer.

    Any object with these two methods is one. Its class may declare what holds for the steps of its ladder:
    `nested = True`, the error never rises along the ladder; `fitted = True`, no scalar times the result fits the layer
    better; `odd = True`, the decomposition of -layer is minus that of the layer. What a class does not declare counts
    as False. `check_decomposition` tests what is declared.
    """

    def __call__(self, layer: BilinearLayer) -> TensorNetwork:
        """Return a network with modes (out, in1, in2) that approximates the layer, or equals it."""

    @classmethod
    def ladder(cls, layer: BilinearLayer) -> Sequence["Decomposition"]:
        """Return decompositions of this layer, from a small one to an exact one.

        The sequence is empty if the method cannot reproduce a layer exactly.
        """


def own_options(method: Strategy) -> tuple[str, ...]:
    """Return the names of the options of a registered decomposition; an object takes none."""
    return tuple(inspect.signature(get_decomposition(method)).parameters) if isinstance(method, str) else ()


def plain_strategy(method: Strategy, options: Mapping[str, object]) -> Callable[[BilinearLayer], TensorNetwork]:
    """Return the decomposition with this registered name and these options; an object is returned unchanged.

    Raises TypeError if the decomposition has no such option, and ValueError if options are given together with an
    object.
    """
    if not isinstance(method, str):
        if not callable(method) or isinstance(method, type):
            raise TypeError(f"method must be a registered name or a decomposition object, got {method!r}")
        if options:
            raise ValueError(f"options {sorted(options)} go with a name only; {method!r} has its own options")
        return method
    factory = get_decomposition(method)
    known = own_options(method)
    for option in check_mapping("options", options):
        if option not in known:
            hint = suggestion(option, known)
            raise TypeError(f"'{method}' has no option '{option}'; it has: {', '.join(known) or 'none'}{hint}")
    return cast(Callable[[BilinearLayer], TensorNetwork], factory(**options))


def apply_strategy(strategy: Callable[[BilinearLayer], TensorNetwork], layer: BilinearLayer) -> BilinearMap:
    """Call a strategy on a layer; check that the result has the same open modes, and return it as a bilinear map."""
    result = strategy(layer)
    if not isinstance(result, TensorNetwork):
        raise TypeError(f"{strategy!r} returned {type(result).__name__}, not a TensorNetwork")
    if result.sizes != layer.sizes:
        raise ValueError(f"{strategy!r} changed the open modes from {layer.sizes} to {result.sizes}")
    if isinstance(result, BilinearMap):
        return result
    history = (*layer.history, repr(strategy))
    made = result.to_layer()
    return dataclasses.replace(layer, down=made.down, left=made.left, right=made.right, history=history)


def check_acts_on(strategy: object, part: TensorNetwork) -> None:
    """Raise TypeError unless the strategy acts on networks of this kind; it lists the strategies that do."""
    own, bilinear = getattr(strategy, "acts_on", None), isinstance(part, BilinearMap | BilinearNetwork)
    if bilinear if own is None else isinstance(part, own):
        return
    declared = {listed.name: getattr(get_decomposition(listed.name), "acts_on", None) for listed in _usable()}
    fitting = [name for name, other in declared.items() if other is not None and isinstance(part, other)]
    if own is None and not fitting:
        return
    fitting = fitting or [name for name, other in declared.items() if other is None]
    wanted = BilinearLayer if own is None else own
    raise TypeError(
        f"{strategy!r} acts on {wanted.__name__}, not on {type(part).__name__}; these do: {', '.join(fitting)}"
    )


def _usable() -> list[Listed]:
    broken = decomposition_problems()
    return [listed for listed in list_decompositions() if listed.name not in broken]
