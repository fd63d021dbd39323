"""Names of inputs and outputs travel with a layer as long as they hold."""

import pytest
import torch
from helpers import normal

from tensornet_interp import BilinearNetwork, decompose, difference, lift, load, odt, save
from tensornet_interp.testing import random_layer

INPUTS = ("a", "b", "c", "d", "e", "f")
OUTPUTS = ("x", "y", "z")


def named():
    return random_layer(3, 6, 4, seed=0).with_names(input_names=INPUTS, output_names=OUTPUTS, input_shape=(2, 3))


def seen(part):
    return part.input_names, part.output_names, part.input_shape


ALL = (INPUTS, OUTPUTS, (2, 3))


@pytest.mark.parametrize("method", ["eigen", "output_svd", "hosvd", "cp", "block_term"])
def test_results_have_the_names_of_their_layer_and_give_them_on(method):
    options = {"cp": {"rank": 2}, "block_term": {"blocks": 2, "rank": 1}}.get(method, {})
    result = decompose(named(), method, **options)
    assert seen(result) == seen(result.to_layer()) == seen(result.to(dtype=torch.float32)) == ALL


def test_what_keeps_the_coordinates_keeps_the_names():
    layer = named()
    for kept in (
        layer.symmetrize(),
        layer.to(dtype=torch.float32),
        lift(layer, bias=normal(3, seed=1)),
        lift(layer, bias=normal(3, seed=1)).drop_constant(),
        lift(layer).change_basis(input_bias=normal(6, seed=2), output_bias=normal(3, seed=3)),
        difference(layer, layer.symmetrize()),
        decompose(layer, "eigen").truncate(1),
        decompose(lift(layer, bias=normal(3, seed=1)), "eigen"),
        decompose(lift(layer), "hosvd").drop_constant(),
        odt(BilinearNetwork([layer])).network,
    ):
        assert seen(kept) == ALL, kept


def test_a_change_of_basis_drops_the_names_of_its_side():
    layer = named()
    assert seen(layer.change_basis(inputs=normal(6, 6, seed=1))) == (None, OUTPUTS, None)
    assert seen(layer.change_basis(outputs=normal(3, 3, seed=1))) == (INPUTS, None, (2, 3))
    assert seen(decompose(layer, "eigen").change_basis(normal(6, 5, seed=1))) == (None, OUTPUTS, None)


def test_a_network_has_the_inputs_of_its_first_part_and_the_outputs_of_its_last():
    first, last = named(), random_layer(2, 3, 5, seed=1).with_names(input_names=OUTPUTS, output_names="uv")
    network = BilinearNetwork([first, last])
    assert seen(network) == (INPUTS, ("u", "v"), (2, 3))
    assert seen(decompose(network, "eigen")) == (INPUTS, ("u", "v"), (2, 3))
    again = network.with_names(output_names=["p", "q"])
    assert seen(again) == (INPUTS, ("p", "q"), (2, 3))
    assert [seen(part) for part in again] == [ALL, (OUTPUTS, ("p", "q"), None)]


def test_what_is_not_given_stays():
    layer = named().with_names(output_names=["p", "q", "r"])
    assert seen(layer) == (INPUTS, ("p", "q", "r"), (2, 3))
    assert seen(random_layer(3, 6, 4, seed=0)) == (None, None, None)


@pytest.mark.parametrize("make", [named, lambda: decompose(named(), "eigen"), lambda: BilinearNetwork([named()])])
@pytest.mark.parametrize(
    ("names", "kind", "message"),
    [
        ({"input_names": INPUTS[:2]}, ValueError, "input_names must be one per input, got 2 for 6 inputs"),
        ({"output_names": INPUTS}, ValueError, "output_names must be one per output, got 6 for 3 outputs"),
        ({"output_names": ["a", "b", "a"]}, ValueError, "output_names must all be different, but 'a' appears 2 times"),
        ({"output_names": ["a", "b", 3]}, TypeError, r"output_names\[2\] must be a text, got 3"),
        ({"output_names": 3}, TypeError, "output_names must be a list or a tuple, got 3"),
        ({"input_shape": (2, 2)}, ValueError, r"an image of input_shape \(2, 2\) needs 4 pixels, but the input has 6"),
        ({"input_shape": 6}, TypeError, r"input_shape must be a pair \(height, width\), got 6"),
        ({"input_shape": (0, 6)}, ValueError, "height of input_shape must be at least 1, got 0"),
    ],
)
def test_wrong_names_are_one_clear_error_everywhere(make, names, kind, message):
    with pytest.raises(kind, match=message):
        make().with_names(**names)


def test_names_are_kept_in_files(tmp_path):
    kept = {"layer": named(), "result": decompose(named(), "eigen"), "network": BilinearNetwork([named()])}
    save(kept, tmp_path / "all.safetensors")
    assert [seen(part) for part in load(tmp_path / "all.safetensors").values()] == [ALL, ALL, ALL]
