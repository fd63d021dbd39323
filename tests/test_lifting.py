"""`lift` makes biases and residuals part of a layer, exactly; `split` takes them apart again."""

import itertools

import pytest
import torch
from helpers import assert_close, layer_of, normal, unsymmetrized

from tensornet_interp import decompose, lift
from tensornet_interp.circuits import degree_weights
from tensornet_interp.lifting import split

OUT, IN, RANK = 3, 4, 6


@pytest.mark.parametrize("options", list(itertools.product([True, False], repeat=4)))
def test_change_of_basis_of_a_lifted_layer_takes_biases(options, device):
    inputs, outputs, input_bias, output_bias = options
    layer = lift(
        layer_of(OUT, IN, RANK, 1, device=device),
        left_bias=normal(RANK, seed=11, device=device),
        right_bias=normal(RANK, seed=12, device=device),
        bias=normal(OUT, seed=13, device=device),
    )
    before = normal(IN, 5, seed=7, device=device) if inputs else None
    after = normal(2, OUT, seed=8, device=device) if outputs else None
    shift = normal(IN, seed=9, device=device) if input_bias else None
    added = normal(2 if outputs else OUT, seed=10, device=device) if output_bias else None
    changed = layer.change_basis(before, after, input_bias=shift, output_bias=added)
    x = normal(7, 5 if inputs else IN, seed=14, device=device)
    h = x if before is None else x @ before.T
    y = layer(h if shift is None else h + shift)
    y = y if after is None else y @ after.T
    assert_close(changed(x), y if added is None else y + added)
    ones = torch.ones_like(x[:, :1])
    assert_close(changed.multilinear(torch.cat([ones, x], 1))[:, :1], ones)  # the constant is handed on


@pytest.mark.parametrize("residual", [0.0, 0.7])
def test_a_linear_part_is_added(residual, device):
    plain = layer_of(IN if residual else OUT, IN, RANK, 1, device=device)
    linear = normal(plain.shape[0], IN, seed=40, device=device)
    layer = lift(plain, linear=linear, residual=residual)
    x = normal(5, IN, seed=41, device=device)
    assert_close(layer(x), plain(x) + x @ linear.T + (residual * x if residual else 0))
    assert layer.rank == RANK + 1 + IN
    with pytest.raises(ValueError, match="mode 'in'"):
        lift(plain, linear=linear[:, 1:])


def test_biases_need_a_lifted_layer():
    with pytest.raises(ValueError, match="input_bias needs a lifted layer"):
        layer_of(OUT, IN, RANK, 1).change_basis(input_bias=normal(IN, seed=1))
    with pytest.raises(ValueError, match="output_bias needs a lifted layer"):
        layer_of(OUT, IN, RANK, 1).change_basis(output_bias=normal(OUT, seed=1))


@pytest.mark.parametrize("residual", [0.0, 1.0, -0.3])
@pytest.mark.parametrize("biases", list(itertools.product([True, False], repeat=3)))
def test_lifted_layer_is_the_formula(biases, residual, device):
    n_out = IN if residual else OUT
    plain = layer_of(n_out, IN, RANK, 1, device=device)
    sizes = {"left_bias": RANK, "right_bias": RANK, "bias": n_out}
    given = {
        name: normal(size, seed=20 + i, device=device) for i, (name, size) in enumerate(sizes.items()) if biases[i]
    }
    layer = lift(plain, **given, residual=residual)
    x = normal(2, 5, IN, seed=30, device=device)
    hidden = (x @ plain.left + given.get("left_bias", 0)) * (x @ plain.right + given.get("right_bias", 0))
    formula = hidden @ plain.down.T + given.get("bias", 0) + (residual * x if residual else 0)
    assert_close(layer(x), formula)
    lifted = torch.cat([torch.ones_like(x[..., :1]), x], -1)
    assert_close(torch.einsum("oij,...i,...j->...o", unsymmetrized(layer), lifted, lifted)[..., 1:], formula)
    assert layer.shape == (n_out + 1, IN + 1, IN + 1)
    assert layer.rank == RANK + 1 + (IN if residual else 0)


def test_lift_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="lifted already"):
        lift(lift(layer_of(OUT, IN, RANK, 1)))
    with pytest.raises(ValueError, match="as many outputs as inputs"):
        lift(layer_of(OUT, IN, RANK, 1), residual=1.0)
    with pytest.raises(ValueError, match="mode 'rank' has size 6 in layer but 5 in left_bias"):
        lift(layer_of(OUT, IN, RANK, 1), left_bias=normal(5, seed=1))
    with pytest.raises(TypeError, match="residual"):
        lift(layer_of(IN, IN, RANK, 1), residual=True)


def test_a_lifted_layer_of_two_inputs_lifts_both(device):
    layer = lift(layer_of(OUT, IN, RANK, 1, device=device), left_bias=normal(RANK, seed=1, device=device))
    x1, x2 = normal(5, IN, seed=2, device=device), normal(5, IN, seed=3, device=device)
    one = torch.ones_like(x1[:, :1])
    inputs = (torch.cat([one, x1], 1), torch.cat([one, x2], 1))
    assert_close(layer(x1, x2), torch.einsum("oij,bi,bj->bo", unsymmetrized(layer), *inputs)[:, 1:])


def test_dropping_the_constant_keeps_the_function():
    layer, x = lift(layer_of(OUT, IN, RANK, 1), bias=normal(OUT, seed=1)), normal(5, IN, seed=2)
    dropped = layer.drop_constant()
    assert_close(dropped(x), layer(x))
    assert dropped.shape == (OUT, IN + 1, IN + 1)
    assert (dropped.constant_in, dropped.constant_out) == (True, False)
    assert dropped.drop_constant() is dropped
    plain = layer_of(OUT, IN, RANK, 1)
    assert plain.drop_constant() is plain


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
