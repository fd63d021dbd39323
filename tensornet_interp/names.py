"""Names of inputs and outputs: what the coordinates of a layer are called, and whether its inputs are an image."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, cast

from tensornet_interp.cards import Card, Shown, map_card
from tensornet_interp.checks import check_bool, check_int, check_names, check_notes, check_text
from tensornet_interp.store import register_type

__all__ = ["AS_GIVEN", "CHANGED", "Named", "Names", "Shape", "check_description", "check_shape"]

AS_GIVEN, CHANGED = "as given", "changed"  # names of bases whose coordinates are not known

Shape = tuple[int, int]


def check_shape(shape: Shape, size: int | None = None, name: str = "shape") -> Shape:
    """Return (height, width) of an image after a check; if `size` is given, the image must have `size` pixels."""
    if not isinstance(shape, tuple | list) or len(shape) != 2:
        raise TypeError(f"{name} must be a pair (height, width), got {shape!r:.60}")
    height, width = (check_int(f"{side} of {name}", n, 1) for side, n in zip(("height", "width"), shape, strict=True))
    pixels = height * width
    if size is not None and size != pixels:
        raise ValueError(f"an image of {name} {(height, width)} needs {pixels} pixels, but the input has {size}")
    return height, width


@register_type("Names")
@dataclass(frozen=True)
class Names:
    """Names label the inputs and outputs of a layer, without the constant coordinate; unknown fields are None.

    `input_names`, `output_names`: one name per coordinate, all different. `input_shape`: (height, width) if the inputs
    are the pixels of an image, row after row.
    Raises TypeError for values of a wrong type, and ValueError for a name that appears twice.
    """

    input_names: tuple[str, ...] | None = None
    output_names: tuple[str, ...] | None = None
    input_shape: Shape | None = None

    def __post_init__(self) -> None:
        for field in ("input_names", "output_names"):
            if getattr(self, field) is not None:
                names = tuple(check_names(field, getattr(self, field)))
                for name, times in Counter(names).most_common(1):
                    if times > 1:
                        raise ValueError(f"{field} must all be different, but {name!r} appears {times} times")
                object.__setattr__(self, field, names)
        if self.input_shape is not None:
            object.__setattr__(self, "input_shape", check_shape(self.input_shape, name="input_shape"))

    def check(self, *, inputs: int, outputs: int) -> None:
        """Raise ValueError unless there is one name per coordinate (without the constant) and one pixel per input."""
        for field, count in (("input_names", inputs), ("output_names", outputs)):
            if getattr(self, field) is not None:
                check_names(field, getattr(self, field), count, field.removesuffix("_names"))
        if self.input_shape is not None:
            check_shape(self.input_shape, inputs, "input_shape")

    def without(self, *, inputs: bool = False, outputs: bool = False) -> "Names":
        """Return the names that still hold after a change of the input or the output coordinates."""
        kept = replace(self, input_names=None, input_shape=None) if inputs else self
        return replace(kept, output_names=None) if outputs else kept


def check_description(layer: Any, *, inputs: int, outputs: int) -> None:
    """Check the fields of a layer that describe it: name, basis, history, constant coordinates and names.

    inputs, outputs: the numbers of coordinates, with the constant ones.
    """
    check_text("name", layer.name, empty=True)
    check_text("basis", layer.basis)
    object.__setattr__(layer, "history", check_notes("history", layer.history))
    check_bool("constant_in", layer.constant_in)
    check_bool("constant_out", layer.constant_out)
    layer.names.check(inputs=inputs - layer.constant_in, outputs=outputs - layer.constant_out)


class Named(Shown):
    """A named map is a layer, a result or a network with names of inputs and outputs."""

    @property
    def names(self) -> Names:
        """Return the names of inputs and outputs."""
        return Names()

    @property
    def input_names(self) -> tuple[str, ...] | None:
        """Return one name per input without the constant; None if the names are not known."""
        return self.names.input_names

    @property
    def output_names(self) -> tuple[str, ...] | None:
        """Return one name per output without the constant; None if the names are not known."""
        return self.names.output_names

    @property
    def input_shape(self) -> Shape | None:
        """Return (height, width) if the inputs are the pixels of an image, else None."""
        return self.names.input_shape

    def with_names(
        self,
        *,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        input_shape: Shape | None = None,
    ) -> Self:
        """Return the same map with these names; arguments that are not given leave the present names.

        Results, tables and figures use the names. A change of basis drops the names of the side that it changes.
        input_names, output_names: one name per coordinate, without the constant coordinate of a lifted layer. A string
        counts as one name per letter. input_shape: (height, width) if the inputs are the pixels of an image, row after
        row.
        Raises ValueError for a wrong number of names, or for a name that appears twice.

        Example:
        >>> layer = BilinearLayer.from_weights(left=torch.eye(2), right=torch.eye(2), down=torch.ones(1, 2))
        >>> layer.with_names(input_names=["height", "weight"]).input_names
        ('height', 'weight')
        """
        given: dict[str, Any] = {"input_names": input_names, "output_names": output_names, "input_shape": input_shape}
        return self._renamed(replace(self.names, **{k: v for k, v in given.items() if v is not None}))

    def _card(self) -> Card:
        """Return the card of a layer; results and networks have their own."""
        layer = cast(Any, self).to_layer()
        about = [("rank", str(layer.rank)), ("basis", layer.basis), ("history", "; ".join(layer.history))]
        units = layer.down.norm(dim=0) * layer.left.norm(dim=0) * layer.right.norm(dim=0)
        title = f"{type(self).__name__} {layer.name!r}"
        caption = "sizes of the hidden units, |down| |left| |right|"
        return map_card(self, title, about, values=units.detach().tolist(), caption=caption)

    def _renamed(self, names: Names) -> Self:
        return cast(Self, replace(cast(Any, self), names=names))
