"""What truncation does to a function, on planted problems where the answer is known."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy, softmax

from tensornet_interp import BilinearLayer, BilinearNetwork, decompose, lift, relative_error
from tensornet_interp.fidelity import (
    COMPONENT_RANKINGS,
    component_ranking,
    components_needed,
    fidelity,
    network_fidelity,
    truncation_curve,
)
from tensornet_interp.testing import random_layer


@pytest.fixture
def layer() -> BilinearLayer:
    return random_layer(4, 9, 6, seed=0)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(50, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_a_network_is_faithful_to_itself(layer: BilinearLayer, x: torch.Tensor) -> None:
    labels = layer(x).argmax(-1)
    same = fidelity(layer, layer, x, labels)
    assert (same.agreement, same.accuracy, same.mse, same.mse_independent) == (1.0, 1.0, 0.0, 0.0)
    assert abs(same.kl) < 1e-14


def test_every_number_equals_its_definition(layer: BilinearLayer, x: torch.Tensor) -> None:
    other = random_layer(4, 9, 5, seed=2)
    labels = torch.randint(0, 4, (50,), generator=torch.Generator().manual_seed(3))
    got = fidelity(other, layer, x, labels, seed=7)
    f, g = layer(x), other(x)
    p, q = softmax(f, -1), softmax(g, -1)
    assert got.kl == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-9)
    assert got.mse == pytest.approx(float(((f - g) ** 2).sum(-1).mean()), rel=1e-12)
    assert got.cross_entropy == pytest.approx(float(cross_entropy(g, labels)), rel=1e-12)
    assert got.reference_accuracy == pytest.approx(float((f.argmax(-1) == labels).double().mean()))
    partner = x[torch.randperm(50, generator=torch.Generator().manual_seed(7))]
    delta = torch.einsum("kij,ni,nj->nk", layer.symmetrize().to_tensor() - other.symmetrize().to_tensor(), x, partner)
    assert got.mse_independent == pytest.approx(float((delta**2).sum(-1).mean()), rel=1e-9)


def test_an_asymmetric_layer_and_its_symmetrization_are_one_function_of_independent_inputs(
    layer: BilinearLayer, x: torch.Tensor
) -> None:
    measured = fidelity(layer.symmetrize(), layer, x)
    assert measured.mse_independent is not None
    # rounding of numbers of size |f|, squared
    assert measured.mse_independent < (1e-13 * float(layer(x).abs().max())) ** 2


def test_networks_of_several_layers_have_no_independent_pairs(x: torch.Tensor) -> None:
    network = BilinearNetwork([random_layer(5, 9, 4, seed=1), random_layer(3, 5, 6, seed=2)])
    assert fidelity(network, network, x).mse_independent is None


@pytest.mark.parametrize("method", ["eigen", "output_svd"])
@pytest.mark.parametrize("by", COMPONENT_RANKINGS)
def test_the_whole_curve_ends_at_the_model(layer: BilinearLayer, x: torch.Tensor, by: str, method: str) -> None:
    result = decompose(layer, method)
    labels = layer(x).argmax(-1)
    records = truncation_curve(result, layer, x, labels, [1, result.rank], by=by, rank_on=(x, labels))
    assert [record["components"] for record in records] == [1, result.rank]
    assert records[-1]["accuracy"] == 1.0
    assert records[-1]["mse"] < 1e-20 * float(layer(x).square().sum(-1).max())


def test_the_curve_by_magnitude_is_truncation(layer: BilinearLayer, x: torch.Tensor) -> None:
    result = decompose(layer, "eigen")
    labels = layer(x).argmax(-1)
    for k, record in zip((1, 3), truncation_curve(result, layer, x, labels, (1, 3)), strict=True):
        cut = fidelity(result.truncate(k), layer, x, labels)
        assert record["accuracy"] == cut.accuracy
        assert record["cross_entropy"] == pytest.approx(cut.cross_entropy, rel=1e-10)
        assert record["kl"] == pytest.approx(cut.kl, rel=1e-8)


def test_rankings_find_what_was_planted() -> None:
    """Pixel 0 has the large eigenvalue but is dark; pixel 1 has a small one and is bright."""
    left = torch.eye(3, dtype=torch.float64)
    layer = BilinearLayer(down=torch.tensor([[10.0, 1.0, 5.0], [10.0, 1.0, -5.0]]).double(), left=left, right=left)
    result = decompose(layer, "eigen")
    x = torch.tensor([[0.01, 9.0, 1.0], [0.01, 9.0, 2.0]]).double()
    labels = torch.tensor([0, 0])
    pixel = result.eigenvectors.abs().argmax(1)  # (block, rank)

    def first(by: str) -> int:
        return int(pixel[0, component_ranking(result, by, x, labels)[0, 0]])

    assert first("magnitude") == 0
    assert first("activation") == 1


def test_ablation_ranking_is_the_rise_of_the_loss(layer: BilinearLayer, x: torch.Tensor) -> None:
    result = decompose(layer, "eigen")
    labels = torch.randint(0, 4, (50,), generator=torch.Generator().manual_seed(3))
    loss = torch.empty(result.eigenvalues.shape, dtype=torch.float64)
    for block in range(loss.shape[0]):
        for rank in range(loss.shape[1]):
            mask = torch.ones_like(result.eigenvalues, dtype=torch.bool)
            mask[block, rank] = False
            loss[block, rank] = cross_entropy(result.keep(mask)(x), labels)
    assert torch.equal(component_ranking(result, "ablation", x, labels), loss.argsort(dim=1, descending=True))


def test_components_needed_are_the_first_that_do_and_those_after_which_it_stays() -> None:
    accuracies = {1: 0.5, 2: 0.9, 3: 0.899, 4: 0.8, 6: 0.8995, 8: 0.95}
    records = [{"ranking": "magnitude", "components": k, "accuracy": share} for k, share in accuracies.items()]
    records = records[::-1]  # in any order
    assert components_needed(records, 0.9, 0.0) == (2, 8)
    assert components_needed(records, 0.9, 0.0005) == (2, 6)  # exactly so much lost is enough
    assert components_needed(records, 0.9, 0.1) == (2, 2)
    assert components_needed(records, 0.96, 0.001) == (None, None)
    assert components_needed([r for r in records if r["components"] < 8], 0.9, 0.0) == (2, None)
    with pytest.raises(ValueError, match="of one ranking, got ablation, magnitude"):
        components_needed([*records, {"ranking": "ablation", "components": 1, "accuracy": 0.5}], 0.9, 0.1)
    with pytest.raises(ValueError, match="records is empty"):
        components_needed([], 0.9, 0.1)


def test_bad_input() -> None:
    layer = random_layer(4, 9, 6, seed=0)
    result = decompose(layer, "eigen")
    x = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.zeros(5, dtype=torch.int64)
    with pytest.raises(ValueError, match="mode 'batch' has size 5 in x but 4 in labels"):
        fidelity(result, layer, x, labels[:4])
    with pytest.raises(TypeError, match="int64 class numbers"):
        fidelity(result, layer, x, labels.double())
    with pytest.raises(ValueError, match="labels must be classes from 0 to 3, got 4 to 4"):
        fidelity(result, layer, x, labels + 4)
    with pytest.raises(ValueError, match="x is empty"):
        fidelity(result, layer, x[:0])
    with pytest.raises(ValueError, match="did you mean 'magnitude'"):
        component_ranking(result, "magnitud")
    with pytest.raises(ValueError, match="by='ablation' needs x"):
        component_ranking(result, "ablation")
    with pytest.raises(ValueError, match="labels need at least 2 outputs to decide between, got 1"):
        fidelity(random_layer(1, 9, 6, seed=0), random_layer(1, 9, 5, seed=1), x, labels)
    with pytest.raises(ValueError, match="mode 'out' has size 4 in reference but 3 in targets"):
        fidelity(result, layer, x, targets=layer(x)[:, :3])
    with pytest.raises(ValueError, match="the accuracy of records is None"):
        components_needed(truncation_curve(result, layer, x), 0.9, 0.1)
    with pytest.raises(ValueError, match="counts must be from 1 to 9"):
        truncation_curve(result, layer, x, labels, [10])


def lifted_stack() -> BilinearNetwork:
    draw = torch.Generator().manual_seed(5)
    layers = []
    for i, n_out in enumerate((5, 5, 3)):
        part = random_layer(n_out, 5, 6, seed=10 + i).change_basis(outputs=0.1 * torch.eye(n_out, dtype=torch.float64))
        bias = torch.randn(n_out, generator=draw, dtype=torch.float64)
        layers.append(lift(part, bias=bias, residual=0.5 if n_out == 5 else 0.0))
    return BilinearNetwork(layers)


def test_network_fidelity_is_the_whole_and_every_part_alone(x: torch.Tensor) -> None:
    reference, x = lifted_stack(), x[:, :5]
    approximation = decompose(reference, {0: "eigen", 1: decomposed_to(2), 2: "eigen"})
    labels = reference(x).argmax(-1)
    measured = network_fidelity(approximation, reference, x, labels)
    assert measured.total == fidelity(approximation, reference, x, labels)
    assert [one.part for one in measured.layers] == [0, 1, 2]
    for one in measured.layers:
        assert one.alone == fidelity(reference.replace(one.part, approximation[one.part]), reference, x, labels)
        assert one.relative_error == relative_error(approximation[one.part], reference[one.part])
    exact, truncated, last = measured.layers
    assert exact.relative_error < 1e-12 < 1e-3 < truncated.relative_error
    assert exact.alone.mse < 1e-20 < 1e-6 < truncated.alone.mse
    assert exact.constant_error is not None
    assert exact.constant_error < 1e-12
    assert last.constant_error is None
    assert "part 1 alone" in str(measured)


def decomposed_to(rank: int):  # type: ignore[no-untyped-def]
    return lambda layer: decompose(layer, "eigen", rank=rank)


def test_network_fidelity_says_by_how_much_the_constant_is_off(x: torch.Tensor) -> None:
    reference, x = lifted_stack(), x[:, :5]
    for part, other in ((0, 1), (1, 0)):
        off = replace(reference.layers[part], down=reference.layers[part].down.clone())
        off.down[0] *= 1.25  # the constant that is handed on is 1.25 for every input
        measured = network_fidelity(reference.replace(part, off), reference, x)
        assert measured.layers[part].constant_error == pytest.approx(0.25, abs=1e-15)
        assert measured.layers[other].constant_error == 0.0  # alone, on the constant of the reference
        assert measured.layers[other].alone.mse == 0.0


def test_network_fidelity_refuses_what_does_not_match(x: torch.Tensor) -> None:
    reference = lifted_stack()
    with pytest.raises(ValueError, match="same depth, got 1 and 3 parts"):
        network_fidelity(BilinearNetwork([random_layer(3, 5, 4, seed=1)]), reference, x[:, :5])
    narrow = BilinearNetwork([random_layer(4, 9, 4, seed=1), random_layer(3, 4, 4, seed=2)])
    wide = BilinearNetwork([random_layer(6, 9, 4, seed=1), random_layer(3, 6, 4, seed=2)])
    with pytest.raises(ValueError, match=r"part 0 .*'out': 4.*the reference .*'out': 6"):
        network_fidelity(narrow, wide, x)
    with pytest.raises(ValueError, match="same depth, got 2 and 1 parts"):
        network_fidelity(narrow, random_layer(3, 9, 4, seed=1), x)
    with pytest.raises(TypeError, match="reference must be a layer, a decomposition of one or a network, got Tensor"):
        network_fidelity(narrow, x, x)  # type: ignore[arg-type]
