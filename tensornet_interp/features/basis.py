"""The basis of the inputs of a layer, which the layer or the caller must state; no basis is ever assumed."""

from tensornet_interp.checks import check_text
from tensornet_interp.layer import AS_GIVEN, CHANGED, BilinearLayer


def stated_basis(layer: BilinearLayer, basis: str | None) -> str:
    """Return the basis that the layer states; if it states none, return `basis`.

    Raises ValueError if neither states a basis, or if the two differ.
    """
    known = None if layer.basis in (AS_GIVEN, CHANGED) else layer.basis
    if basis is not None:
        check_text("basis", basis)
    if basis is None and known is None:
        raise ValueError(
            f"the layer does not state the basis of its inputs ({layer.basis!r}); give basis=, such as"
            " 'residual stream after the norm': the layer and the vectors must be in the same coordinates"
        )
    if basis and known and basis != known:
        raise ValueError(
            f"basis is {basis!r} but the layer's basis is {known!r}: vectors and layer must share their coordinates;"
            " transform one of them with change_basis"
        )
    return basis or known or ""
