"""Projections, labels and overlaps against their definitions."""

import math

import pytest
import torch
from helpers import normal

from models.transformer import TransformerConfig, build_transformer
from tensornet_interp import decompose
from tensornet_interp.features import feature_interactions, label_directions, overlap, projections, token_directions
from tensornet_interp.testing import random_layer

EYE = torch.eye(6, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_projections_are_products_and_cosines(dtype, device):
    vectors, eigenvectors = (
        normal(6, 5, seed=0, device=device, dtype=dtype),
        normal(6, 2, seed=1, device=device, dtype=dtype),
    )
    vectors[:, 3] = 0
    found = projections(vectors, eigenvectors)
    torch.testing.assert_close(found.coordinates, vectors.T.double() @ eigenvectors.double())
    for at in range(5):
        for rank in range(2):
            pair = vectors[:, at].double(), eigenvectors[:, rank].double()
            expected = torch.cosine_similarity(*pair, dim=0)
            torch.testing.assert_close(found.cosines[at, rank], expected, atol=1e-12, rtol=0)
    inside = eigenvectors.double() @ torch.linalg.lstsq(eigenvectors.double(), vectors.double()).solution
    expected = inside.square().sum(0) / vectors.double().square().sum(0).clamp(min=1e-30)
    torch.testing.assert_close(found.captured, expected, atol=1e-12, rtol=0)


def test_activations_follow_from_coordinates():
    layer = random_layer(3, 6, 4, seed=0)
    result = decompose(layer, "eigen")
    x = normal(6, 9, seed=2)
    coordinates = projections(x, result.eigenvectors[1]).coordinates
    torch.testing.assert_close(coordinates.square() @ result.eigenvalues[1], layer(x.T)[:, 1])
    torch.testing.assert_close(projections(x, result.eigenvectors[1]).captured, torch.ones(9).double())


def test_labels_are_the_nearest_by_magnitude_with_their_sign(device):
    directions = torch.stack([EYE[0] + 0.1 * EYE[1], 5 * EYE[2]]).to(device)
    vectors = torch.stack([-3 * EYE[0], EYE[1], EYE[2] + EYE[0], 0 * EYE[0]]).to(device)
    first, second = label_directions(directions, vectors, ["minus", "one", "sum", "zero"], n=2)
    norm = math.sqrt(1.01)
    assert [label.name for label in first] == ["minus", "sum"]
    assert [label.cosine for label in first] == pytest.approx([-1 / norm, 1 / norm / math.sqrt(2)])
    assert second[0] == ("sum", pytest.approx(1 / math.sqrt(2)))
    everything = label_directions(directions, vectors, n=4)[1]
    assert {label.name: label.cosine for label in everything} == {"0": 0, "1": 0, "2": pytest.approx(2**-0.5), "3": 0}


def test_overlap_gives_the_principal_angles(device):
    angle = 0.3
    a = torch.stack([2 * EYE[0], EYE[0] + EYE[1]]).to(device)  # the plane of 0 and 1
    b = torch.stack([EYE[0], math.cos(angle) * EYE[1] + math.sin(angle) * EYE[2], EYE[4]]).to(device)
    found = overlap(a, b)
    assert found.cosines.tolist() == pytest.approx([1, math.cos(angle)])
    assert found.first_in_second == pytest.approx((1 + math.cos(angle) ** 2) / 2)
    assert found.second_in_first == pytest.approx((1 + math.cos(angle) ** 2) / 3)
    assert overlap(a[:1], torch.stack([EYE[3], EYE[5]]).to(device)).first_in_second == pytest.approx(0, abs=1e-30)


def test_directions_that_depend_on_each_other_count_once():
    a = normal(2, 6, seed=0)
    same = torch.cat([a, a @ torch.eye(6).double() * 3, a[:1] - a[1:]])
    found = overlap(same, a)
    assert found.cosines.tolist() == pytest.approx([1, 1])
    assert (found.first_in_second, found.second_in_first) == (pytest.approx(1), pytest.approx(1))


def test_random_spans_share_what_their_sizes_say():
    shares = [overlap(normal(2, 6, seed=seed), normal(3, 6, seed=100 + seed)).first_in_second for seed in range(400)]
    # mean 3/6; a share has a deviation below 1/2, the mean of 400 below 1/40: four of them
    assert sum(shares) / 400 == pytest.approx(0.5, abs=0.1)


def test_pairs_of_features_sum_to_what_a_layer_adds_to_the_difference_of_two_logits():
    """A one-layer model: (logit difference) * s = direction . (stream before the MLP + MLP), s = rms of the stream."""
    model = build_transformer(TransformerConfig(11, 8, 12, 1, 2, 6), seed=0).double().requires_grad_(False)
    tokens = torch.arange(18).reshape(3, 6) % 11
    seen = {}
    with model.hooked({(0, point): lambda x, p=point: seen.update({p: x}) for point in ("resid-mid", "mlp-in")}):
        logits = model(tokens)
    (direction,) = token_directions(model.head.weight, [3], [7])
    layer = model.mlp(0).layer()
    decoder = torch.linalg.qr(normal(8, 8)).Q
    bias = normal(8, seed=1)
    found = feature_interactions(layer, direction, decoder, bias=bias, basis="after the norm")
    pairs = found((seen["mlp-in"] - bias) @ decoder)  # the codes of an exact dictionary
    after = seen["resid-mid"] + layer(seen["mlp-in"])
    s = (after.square().mean(-1) + 1e-8).sqrt()
    difference = (logits[..., 3] - logits[..., 7]) * s - seen["resid-mid"] @ direction
    torch.testing.assert_close(pairs, difference, atol=1e-10, rtol=0)
    assert float(pairs.abs().max()) > 1e-2


@pytest.mark.parametrize("kind", [torch.nn.RMSNorm, torch.nn.LayerNorm])
def test_the_final_norm_of_torch_is_folded_up_to_its_scalar(kind, device):
    head, layer = normal(9, 6, device=device), random_layer(6, 5, 7, seed=2)
    norm = kind(6, eps=0.0, dtype=torch.float64, device=device).requires_grad_(False)
    norm.weight.copy_(normal(6, seed=3, device=device))
    x, stream = normal(20, 5, seed=4), normal(20, 6, seed=5)
    y = layer(x).to(device)
    after = stream.to(device) + y
    centered = kind is torch.nn.LayerNorm
    directions = token_directions(head, [1, 2], [4, 0], norm_weight=norm.weight, centered=centered)
    logits = norm(after) @ head.T
    s = after.std(-1, correction=0) if centered else after.square().mean(-1).sqrt()
    said = torch.stack([logits[:, 1] - logits[:, 4], logits[:, 2] - logits[:, 0]], 1) * s[:, None]
    rest = stream.to(device) @ directions.T
    torch.testing.assert_close(y @ directions.T, said - rest, atol=1e-10, rtol=0)


def test_single_tokens_are_rows_of_the_unembedding_in_its_dtype():
    head = normal(5, 3).float()
    assert torch.equal(token_directions(head, [4, 0]), head[[4, 0]])
    close = (head[4].double() - head[0].double()).float()
    assert torch.equal(token_directions(head, [4], [0])[0], close)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tokens": []}, "tokens is empty: give the numbers of tokens"),
        ({"tokens": [5]}, r"tokens\[0\] must be from 0 to 4"),
        ({"tokens": [0, 1], "instead_of": [2]}, "mode 'direction' has size 2 in tokens but 1 in instead_of"),
        ({"tokens": [0, 1], "instead_of": [2, 1]}, r"tokens\[1\] and instead_of\[1\] are both 1"),
        ({"tokens": [0], "norm_weight": normal(4)}, "mode 'out' has size 3 in unembedding but 4 in norm_weight"),
    ],
)
def test_wrong_tokens_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        token_directions(normal(5, 3), **options)
