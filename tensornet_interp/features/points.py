"""Where in a model the vectors of a dictionary are taken, and whether a layer reads or writes them there."""

import re
from typing import Any

from tensornet_interp.layer import BilinearLayer

# "3-mlp-in" in the paper's names and `models`, "blocks.3.hook_resid_mid" in TransformerLens's
_POINT = re.compile(r"(?:blocks\.)?(?P<layer>\d+)[-.](?P<place>.+)")
_BEFORE = frozenset(("resid-pre", "resid-mid", "mlp-in", "mlp.in", "ln2.normalized"))
_AFTER = frozenset(("mlp-out", "mlp.out", "resid-post"))
_LAYER = re.compile(r"(?:^|\s)layer (?P<layer>\d+)$")  # how `load_layer` and the models name a layer


def check_points(layer: BilinearLayer, inputs: Any, outputs: Any) -> None:
    """Raise ValueError if a dictionary is from a place in the model that the layer does not read or write.

    This is decided by the `point` of each dictionary. The MLP of layer n reads resid-mid and mlp-in of layer n, and
    writes mlp-out and resid-post of layer n; resid-post of layer n is resid-pre of layer n + 1. Unknown points are not
    checked, and a layer without a number in its name is only checked for two dictionaries of different layers.
    """
    match = _LAYER.search(layer.name)
    known = None if match is None else int(match["layer"])
    sides = [(inputs, "inputs", "read", _BEFORE), (outputs, "outputs", "write", _AFTER)]
    for dictionary, name, verb, places in sides:
        found = None if dictionary is None else parse_point(dictionary.point, before=name == "inputs")
        if found is None:
            continue
        number, place = found
        if place not in places:
            raise ValueError(
                f"{name}={dictionary!r} is of {place} of layer {number}, which the MLP of that layer does not {verb}; "
                f"it reads {', '.join(sorted(_BEFORE))} and writes {', '.join(sorted(_AFTER))}"
            )
        if known is not None and number != known:
            of = f"the layer is {layer.name!r}" if _LAYER.search(layer.name) else f"inputs are of layer {known}"
            raise ValueError(f"{name}={dictionary!r} is of layer {number}, but {of}")
        known = number


def parse_point(point: str, *, before: bool) -> tuple[int, str] | None:
    """Return the layer index and the place that a point names; return None if one of them is unknown.

    before: if True, resid-post of layer n is returned as resid-pre of layer n + 1.
    """
    match = _POINT.fullmatch(point)
    if match is None:
        return None
    number, place = int(match["layer"]), match["place"].replace("hook_", "").replace("_", "-")
    if before and place == "resid-post":
        return number + 1, "resid-pre"
    return (number, place) if place in _BEFORE | _AFTER else None
