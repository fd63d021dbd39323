"""Projections, labels and overlaps against their definitions."""

import math

import pytest
import torch
from helpers import normal

from tensornet_interp import decompose
from tensornet_interp.features import label_directions, overlap, projections
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
