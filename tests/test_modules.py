"""Networks and layers as torch modules: the same function, with parameters that train."""

import pytest
import torch
from helpers import layer_of, normal, stack
from torch import nn

from tensornet_interp import BilinearNetwork, decompose, lift
from tensornet_interp.modules import LayerModule
from tensornet_interp.weights import from_module, verify

LIFTED = lift(
    layer_of(5, 5, 4), left_bias=normal(4), right_bias=normal(4, seed=1), bias=normal(5, seed=2), residual=0.5
)
PLAIN_STACK, LIFTED_STACK = stack((5, 6, 3), (4, 7), seed=0), stack((5, 5, 3), (4, 7), seed=0, lifted=True)
MAPS = {
    "layer": layer_of(3, 5, 4),
    "lifted layer": LIFTED,
    "last layer of a network": LIFTED_STACK[1],
    "result": decompose(layer_of(3, 5, 4), "eigen").truncate(2),
    "lifted result": decompose(LIFTED, "cp", rank=3, max_iterations=2),
    "network": PLAIN_STACK,
    "lifted network": LIFTED_STACK,
    "network of results": decompose(LIFTED_STACK, "eigen", rank=4),
    "network whose constant is approximate": decompose(LIFTED_STACK, "cp", rank=3, max_iterations=2),
    "network of one": BilinearNetwork([LIFTED]),
}


@pytest.mark.parametrize("name", MAPS)
def test_a_module_computes_what_its_map_does_and_reads_back_as_a_network(name):
    given, x = MAPS[name], normal(2, 6, 5, seed=7)
    module = given.to_module()
    torch.testing.assert_close(module(x), given(x), rtol=1e-12, atol=1e-12 * float(given(x).abs().max()))
    again = from_module(module.eval(), x[0])
    # the check of from_module itself is by magnitudes; here both are float64
    assert verify(again, given, x[0]).relative < 1e-11


def test_the_constant_of_a_lifted_network_is_biases_and_no_coordinate():
    module = LIFTED_STACK.to_module()
    assert [(part.left.in_features, part.down.out_features) for part in module] == [(5, 5), (5, 3)]
    assert all(linear.bias is not None for part in module for linear in (part.left, part.right, part.down))
    assert [linear.bias for part in PLAIN_STACK.to_module() for linear in (part.left, part.down)] == [None] * 4


def test_units_biases_and_residual_are_where_a_user_would_write_them():
    layer, bias = layer_of(3, 5, 4), normal(3, seed=9)
    module = lift(layer, left_bias=normal(4), bias=bias).to_module()
    assert isinstance(module, LayerModule)
    assert torch.equal(module.left.weight, layer.left.T)
    assert torch.equal(module.left.bias, normal(4))
    assert torch.equal(module.down.bias, bias)
    assert torch.equal(module.down.weight, layer.down)


def test_training_moves_the_copy_alone():
    network = decompose(PLAIN_STACK, "eigen").replace(0, decompose(PLAIN_STACK[0], "output_svd", blocks=2))
    module, x, y = network.to_module(), normal(40, 5, seed=3), PLAIN_STACK(normal(40, 5, seed=3))
    before = network(x)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    losses = []
    for _ in range(30):
        loss = (module(x) - y).square().mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    assert torch.equal(network(x), before)
    assert isinstance(module, nn.Sequential)
    biased, inputs = LIFTED.to_module(), normal(3, 5)
    before = LIFTED(inputs)
    with torch.no_grad():
        for parameter in biased.parameters():
            parameter.zero_()
    assert torch.equal(LIFTED(inputs), before)
    tuned = from_module(module.eval(), x)
    assert verify(tuned, module, x).relative < 1e-12
