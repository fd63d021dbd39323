"""A lifted layer taken apart by order is what `lift` joined."""

import pytest
import torch
from helpers import assert_close, layer_of, normal

from tensornet_interp import decompose, lift
from tensornet_interp.circuits import degree_weights
from tensornet_interp.lifting import split

OUT, IN, RANK = 3, 4, 6


@pytest.mark.parametrize("lifted", [True, False])
def test_split_is_what_lift_joined(lifted, device):
    layer = layer_of(OUT, IN, RANK, 0, device)
    if lifted:
        a, b, c = (normal(size, seed=seed, device=device) for size, seed in ((RANK, 60), (RANK, 61), (OUT, 62)))
        layer = lift(layer, left_bias=a, right_bias=b, bias=c)
    form = split(layer)
    x = normal(6, IN, seed=63, device=device)
    assert_close(form.interaction(x) + x @ form.linear.T + form.constant, layer(x))
    parts = [degree_weights(layer.drop_constant(), degree) for degree in range(3)]
    assert_close(form.constant, parts[0])
    assert_close(form.linear, parts[1])
    assert_close(form.interaction.interaction_matrix(torch.eye(OUT).to(x)), parts[2])
    assert not form.interaction.constant_in
    assert ("interaction part, without biases" in form.interaction.history) == lifted


def test_split_wants_a_layer():
    with pytest.raises(TypeError, match="layer must be a BilinearLayer, got SpectralResult; see to_layer"):
        split(decompose(layer_of(OUT, IN, RANK), "eigen"))
