"""The basis of a layer's inputs, stated by the layer or by the caller, never assumed."""

from tensornet_interp.checks import check_text
from tensornet_interp.layer import AS_GIVEN, CHANGED, BilinearLayer


def stated_basis(layer: BilinearLayer, basis: str | None) -> str:
    """Return the layer's basis, or `basis` if it states none; an error if neither states it or they differ."""
    known = None if layer.basis in (AS_GIVEN, CHANGED) else layer.basis
    if basis is not None:
        check_text("basis", basis)
    if basis is None and known is None:
        raise ValueError(
            f"the layer does not state the basis of its inputs ({layer.basis!r}); give basis=, as 'residual stream"
            " after the norm': the coordinates that layer and vectors must share"
        )
    if basis and known and basis != known:
        raise ValueError(
            f"basis is {basis!r} but the layer's is {known!r}: vectors and layer must share their coordinates;"
            " move one of them with change_basis"
        )
    return basis or known or ""
