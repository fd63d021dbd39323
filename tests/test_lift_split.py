"""A lifted layer taken apart by order is what `lift` joined."""

import pytest
import torch

from tensornet_interp import BilinearLayer, decompose, lift
from tensornet_interp.circuits import degree_weights
from tensornet_interp.lifting import split

OUT, IN, RANK = 3, 4, 6
TOLERANCE = 1e-12


def tensor(*shape, seed, device="cpu"):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)


def make(device="cpu"):
    return BilinearLayer.from_cp(
        (None, [tensor(size, RANK, seed=i, device=device) for i, size in enumerate((OUT, IN, IN))])
    )


def close(value, reference):
    assert value.shape == reference.shape
    assert (value - reference).abs().max() <= TOLERANCE * max(1.0, float(reference.abs().max()))


@pytest.mark.parametrize("lifted", [True, False])
def test_split_is_what_lift_joined(lifted, device):
    layer = make(device=device)
    if lifted:
        a, b, c = (tensor(size, seed=seed, device=device) for size, seed in ((RANK, 60), (RANK, 61), (OUT, 62)))
        layer = lift(layer, left_bias=a, right_bias=b, bias=c)
    form = split(layer)
    x = tensor(6, IN, seed=63, device=device)
    close(form.interaction(x) + x @ form.linear.T + form.constant, layer(x))
    parts = [degree_weights(layer.drop_constant(), degree) for degree in range(3)]
    close(form.constant, parts[0])
    close(form.linear, parts[1])
    close(form.interaction.interaction_matrix(torch.eye(OUT).to(x)), parts[2])
    assert not form.interaction.constant_in
    assert ("interaction part, without biases" in form.interaction.history) == lifted


def test_split_wants_a_layer():
    with pytest.raises(TypeError, match="layer must be a BilinearLayer, got SpectralResult; see to_layer"):
        split(decompose(make(), "eigen"))
