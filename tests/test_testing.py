"""The shipped check passes for what is right and names what is wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from tensornet_interp import BilinearLayer
from tensornet_interp.decompositions import BUILT_IN
from tensornet_interp.registry import register_decomposition, scratch_registry
from tensornet_interp.testing import check_decomposition

# options without which a method cannot be built; every rank fits the smallest layer of the check
OPTIONS: dict[str, dict[str, object]] = {
    "random_components": {"rank": 2},
    "tensorly_non_negative_parafac": {"rank": 2},
    "tensorly_parafac": {"rank": 3},
    "tensorly_tucker": {"rank": (3, 5, 5)},
}
NO_EXACT_END = {"tensorly_non_negative_parafac", "tensorly_parafac"}


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_built_ins_keep_the_laws(name: str, device: str) -> None:
    report = check_decomposition(name, device=device, **OPTIONS.get(name, {}))
    assert len(report.passed) >= (28 if name in NO_EXACT_END else 30)
    declared = {"the method says that it has no exact end"} if name in NO_EXACT_END else set()
    assert set(report.skipped.values()) == declared


@scratch_registry()
def test_a_broken_decomposition_is_named() -> None:
    @register_decomposition("broken")
    @dataclass(frozen=True)
    class Broken:
        scale: float = 1.1

        @classmethod
        def ladder(cls, layer: BilinearLayer) -> Sequence["Broken"]:
            return [cls()]

        def __call__(self, layer: BilinearLayer) -> BilinearLayer:
            noise = torch.rand(layer.down.shape).to(layer.down)  # unseeded: never the same answer
            return replace(layer, down=self.scale * layer.down + noise)

    with pytest.raises(AssertionError) as caught:
        check_decomposition("broken")
    message = str(caught.value)
    assert "wide: same seed, same answer" in message
    assert "wide: exact end" in message
    assert "wide: same modes" not in message
