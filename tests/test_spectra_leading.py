"""Every bound on a leading eigenvalue holds against the dense interaction matrices; what is said proven is right."""

from dataclasses import replace

import pytest
import torch
from helpers import layer_of, normal, orthonormal, with_spectra

from tensornet_interp import BilinearLayer, decompose, lift, relative_error
from tensornet_interp.spectra import krylov_flops, spectra
from tensornet_interp.testing import random_layer

SIZE, COUNT = 24, 31  # inputs, directions of a family


EPS = torch.finfo(torch.float64).eps


def rows(values, seed, count=COUNT):
    """The same magnitudes in every row, with random signs."""
    return torch.as_tensor(values, dtype=torch.float64) * normal(count, len(values), seed=seed).sign()


INDEX = torch.arange(1, SIZE + 1, dtype=torch.float64)


AT_THE_CUT = torch.tensor([3.0, 1.0, -1.0], dtype=torch.float64)


FAMILIES = {
    "random": lambda s: layer_of(COUNT, SIZE, 40, s),
    "random, few units": lambda s: layer_of(COUNT, SIZE, 5, s),
    "exponential": lambda s: with_spectra(rows(0.6**INDEX, s), s),
    "inverse": lambda s: with_spectra(rows(1 / INDEX, s), s),
    "steep": lambda s: with_spectra(rows(1e-3**INDEX.clamp_max(9), s), s),
    "cluster": lambda s: with_spectra(torch.where(INDEX <= 4, 1 + 1e-5 * normal(COUNT, SIZE, seed=s), 0.5**INDEX), s),
    "equal and opposite": lambda s: with_spectra(torch.where(INDEX <= 2, INDEX * 2 - 3, rows(0.8**INDEX, s)), s),
    "opposite at the cut": lambda s: with_spectra(torch.cat([AT_THE_CUT, 0.5 ** INDEX[3:]]).repeat(COUNT, 1), s),
    "double": lambda s: with_spectra(torch.where(INDEX <= 2, 1.0, rows(0.6**INDEX, s)), s),
    "triple": lambda s: with_spectra(torch.where(INDEX <= 3, 1.0, rows(0.6**INDEX, s)), s),
    "identity": lambda s: with_spectra(torch.ones(COUNT, SIZE, dtype=torch.float64), s),
    "rank one": lambda s: with_spectra(torch.where(INDEX <= 1, rows(INDEX, s), 0), s),
    "rank two": lambda s: with_spectra(torch.where(INDEX <= 2, normal(COUNT, SIZE, seed=s), 0), s),
    "zero": lambda s: with_spectra(torch.zeros(COUNT, SIZE, dtype=torch.float64), s),
}  # fmt: skip


SETTINGS = {  # two that have to stop early among them
    "as it is": {},
    "loose, few steps": {"tolerance": 0.1, "max_steps": 6},
    "strict": {"tolerance": 1e-7},
}


def truth(layer, directions):
    """All eigenvalues (block, in) of the dense matrices of the layer as it is stored, and their sorted magnitudes."""
    exact = layer.to(dtype=torch.float64)
    values = torch.linalg.eigvalsh(exact.interaction_matrix(directions.double()))
    return values, values.abs().sort(dim=1, descending=True).values


def check(found, layer, directions):
    """What `Spectra` promises. The dense values have errors of their own, about in * eps of the largest."""
    values, magnitudes = truth(layer, directions)
    mine = found.eigenvalues.double()
    slack = 10 * values.shape[1] * EPS * magnitudes[:, :1]
    near = (mine[:, :, None] - values[:, None, :]).abs().amin(2)
    assert (near <= found.bounds + slack).all()
    place = (mine.abs() - magnitudes[:, : mine.shape[1]]).abs()
    assert ((place <= found.bounds + slack) | ~found.proven[:, None]).all()
    image = layer.to(dtype=torch.float64).interaction_matrix(directions.double()) @ found.eigenvectors.double()
    precision = 10 * values.shape[1] * torch.finfo(found.eigenvectors.dtype).eps * magnitudes[:, :1]
    off = (image - mine[:, None, :] * found.eigenvectors.double()).norm(dim=1)
    assert (off <= found.residuals + slack + precision).all()
    assert (found.eigenvectors.double().norm(dim=1) - 1).abs().max() <= 10 * torch.finfo(found.eigenvectors.dtype).eps
    assert (mine.abs().diff(dim=1) <= slack).all()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_bounds_hold_against_dense(family, settings, device):
    """14 families of 5 x 31 directions: 2,170 matrices, some with three settings."""
    for seed in range(5) if not settings else (1, 3, 4):
        layer = FAMILIES[family](100 * seed)
        layer = layer.to(device, torch.float32 if seed == 4 and settings.get("tolerance") != 1e-7 else None)
        directions = torch.eye(COUNT).to(layer.down)
        if seed == 3 and family.startswith("random"):
            directions = normal(COUNT, COUNT, seed=9).to(layer.down)
        found = spectra(layer, directions, method="krylov", progress=False, seed=seed, **settings)
        assert (found.method, found.eigenvalues.dtype) == ("krylov", layer.down.dtype)
        check(found, layer, directions)
        if "max_steps" not in settings:  # small enough for the subspace to reach everything
            assert found.proven.all()
            if family not in ("rank one", "steep"):
                assert found.converged.all()
        if family == "zero":
            assert (found.eigenvalues == 0).all()
            assert (found.bounds == 0).all()


@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("family", ["random", "inverse", "triple", "rank two"])
def test_bounds_hold_for_any_number_of_pairs(family, k):
    layer = FAMILIES[family](0)
    directions = torch.eye(COUNT, dtype=torch.float64)
    found = spectra(layer, directions, k, method="krylov", progress=False)
    assert found.eigenvalues.shape == (COUNT, k)
    check(found, layer, directions)
    assert found.proven.all() == (family != "triple" or k > 1)  # of three equal ones one vector sees one


def test_what_is_not_proven_is_said():
    """One vector cannot see the second of two equal eigenvalues, so six steps cannot prove what they found."""
    layer, directions = FAMILIES["double"](0), torch.eye(COUNT, dtype=torch.float64)
    few = spectra(layer, directions, method="krylov", tolerance=0.1, max_steps=6, progress=False)
    assert (few.eigenvalues[:, 1].abs() < 0.9).any()
    assert not few.proven.any()
    assert few.converged.any()  # near an eigenvalue, which says nothing about those not seen
    enough = spectra(layer, directions, method="krylov", progress=False)
    assert enough.proven.all()
    assert (enough.eigenvalues - 1).abs().max() < 1e-3


def test_hard_spectra_stop_without_proof_and_within_tolerance():
    """Gaussian weights: no few eigenvalues hold the norm, so a proof would take nearly all steps; it stops before."""
    layer = layer_of(9, 256, 400, 0)
    directions = torch.eye(9, dtype=torch.float64)
    found = spectra(layer, directions, method="krylov", tolerance=0.02, progress=False)
    assert found.converged.all()
    assert not found.proven.any()
    assert (found.steps < 96).all()  # the most it may take
    values, magnitudes = truth(layer, directions)
    assert ((found.eigenvalues[:, :, None] - values[:, None]).abs().amin(2) <= found.bounds).all()
    assert (found.eigenvalues.abs() / magnitudes[:, :2] > 0.98).all()


@pytest.mark.parametrize(("d", "hidden", "method"), [(24, 40, "dense"), (40, 7, "thin")])
def test_direct_methods(d, hidden, method, device):
    layer = layer_of(5, d, hidden, 0).to(device)
    directions = normal(11, 5, seed=3).to(device)
    found = spectra(layer, directions, 3, progress=False)
    assert found.method == method
    assert found.proven.all()
    assert (found.steps == 0).all()
    assert (found.bounds <= 1e-9 * found.eigenvalues[:, :1].abs()).all()
    check(found, layer, directions)
    other = spectra(layer, directions, 3, method="krylov", progress=False)
    check(other, layer, directions)
    assert ((other.eigenvalues.abs() - found.eigenvalues.abs()).abs() <= other.bounds + found.bounds).all()


def test_method_is_chosen_by_flops():
    big = krylov_flops(512, 2048, 1000, 96)
    assert big == 1000 * (8 * 512 * 2048 * 96 + 4 * 512 * 96**2 + 2 * 2048**2) + 4 * 2048**2 * 512
    layer = layer_of(40, 256, 300, 0)
    many, few = torch.eye(40, dtype=torch.float64), torch.eye(40, dtype=torch.float64)[:1]
    assert spectra(layer, many, max_steps=8, tolerance=0.5, progress=False).method == "krylov"
    assert spectra(layer, few, max_steps=256, progress=False).method == "dense"


@pytest.mark.parametrize("scale", [1e-40, 1e40])
def test_scales_beyond_float32_do_not_matter(scale):
    plain, directions = FAMILIES["inverse"](0), torch.eye(COUNT, dtype=torch.float64)
    layer = BilinearLayer(down=plain.down, left=scale * plain.left, right=scale * plain.right)
    found = spectra(layer, directions, method="krylov", progress=False)
    assert found.proven.all()
    assert found.converged.all()
    expected = spectra(plain, directions, method="krylov", progress=False)
    torch.testing.assert_close(found.eigenvalues / scale**2, expected.eigenvalues, rtol=2e-3, atol=0)


@pytest.mark.parametrize("max_steps", [7, 18, 31, 36, 42])
@pytest.mark.parametrize("family", ["identity", "equal and opposite", "one axis"])
def test_bounds_hold_where_a_subspace_is_exhausted_or_cut(family, max_steps):
    count, size, eps = COUNT, 60, 1e-12
    eigenvalues = torch.ones(count, size, dtype=torch.float64)
    if family == "equal and opposite":
        eigenvalues = normal(count, size, seed=1).clamp(-0.9, 0.9)
        eigenvalues[:, 0], eigenvalues[:, 1] = 2, -2
    layer = with_spectra(eigenvalues, 0)
    if family == "one axis":  # every product is a multiple of one basis vector
        eigenvalues = torch.eye(1, size, dtype=torch.float64).expand(count, -1)
        eye = torch.eye(size, dtype=torch.float64)
        layer = BilinearLayer(down=eigenvalues, left=eye, right=eye)
    directions = torch.eye(count, dtype=torch.float64)[:, : layer.shape[0]]
    for k in (3, 5):
        found = spectra(layer, directions, k, tolerance=1e-5, max_steps=max_steps, method="krylov", progress=False)
        vectors = found.eigenvectors
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(count, k, dtype=torch.float64), rtol=eps, atol=eps)
        near = (found.eigenvalues[..., None] - eigenvalues[:, None, :]).abs().amin(2)
        assert bool((near <= found.bounds).all())
        image = layer.interaction_matrix(directions) @ vectors - vectors * found.eigenvalues[:, None, :]
        assert bool((image.norm(dim=1) <= found.residuals * (1 + eps)).all())


def test_what_float32_cannot_find_is_done_again():
    """The second eigenvalue is a millionth of the first: below the rounding of a float32 product, not of float64."""
    layer = with_spectra(rows([1.0, 1e-6, 1e-7, 0.0], 0), 0)
    directions = torch.eye(COUNT, dtype=torch.float64)
    found = spectra(layer, directions, method="krylov", progress=False)
    check(found, layer, directions)
    assert found.proven.all()
    assert (found.bounds[:, 1] < 1e-6).all()


def test_directions_beyond_what_is_held_at_once_give_the_same():
    """2^25 numbers are held at once: 15 directions of subspaces of up to 1024 vectors."""
    layer = layer_of(17, 1024, 512, 0)
    layer = replace(layer, down=layer.down * 0.5 ** torch.arange(512, dtype=torch.float64))  # found in few steps
    directions = torch.eye(17, dtype=torch.float64)
    found = spectra(layer, directions, method="krylov", max_steps=1024, progress=False)
    alone = spectra(layer, directions[[0, 16]], method="krylov", max_steps=1024, progress=False)
    assert found.proven.all()
    apart = (found.eigenvalues[[0, 16]].abs() - alone.eigenvalues.abs()).abs()
    assert (apart <= found.bounds[[0, 16]] + alone.bounds).all()
    check(alone, layer, directions[[0, 16]])


def test_the_same_seed_gives_the_same():
    layer, directions = FAMILIES["random"](0), torch.eye(COUNT, dtype=torch.float64)
    first, again = (spectra(layer, directions, method="krylov", seed=3, progress=False) for _ in range(2))
    assert torch.equal(first.eigenvectors, again.eigenvectors)
    assert first.report.seed == 3
    assert "k=2" in first.report.method


def test_result_is_the_layer_where_all_eigenpairs_are_taken():
    layer = FAMILIES["random, few units"](0)
    directions = orthonormal(COUNT, COUNT, seed=4)
    result = spectra(layer, directions, 10, method="krylov", tolerance=1e-9, progress=False).to_result()
    assert relative_error(result, layer) < 1e-6
    expected = decompose(layer, "eigen", directions=directions, rank=10)
    torch.testing.assert_close(result.eigenvalues.abs(), expected.eigenvalues.abs())
    lifted = lift(layer, residual=0.0)
    found = spectra(lifted, torch.eye(lifted.shape[0], dtype=torch.float64)[1:], progress=False)
    with pytest.raises(ValueError, match=r"layer\.drop_constant"):
        found.to_result()
    plain = spectra(lifted.drop_constant(), torch.eye(COUNT, dtype=torch.float64), progress=False).to_result()
    assert plain.constant_in
    assert "proven" in repr(found)


@pytest.mark.parametrize("power", [-660, 400])
def test_the_scale_of_the_layer_is_that_of_values_and_bounds(power, device):
    """Powers of two change nothing else, far beyond where squares under- or overflow."""
    layer = random_layer(3, 40, 30, seed=5, device=device)
    directions = torch.eye(3, dtype=torch.float64, device=device)
    scaled = replace(layer, down=torch.ldexp(layer.down, torch.tensor(power, device=device)))
    one, other = (spectra(part, directions, 2, method="krylov", max_steps=20) for part in (layer, scaled))
    for name in ("eigenvalues", "bounds", "residuals"):
        back = torch.ldexp(getattr(other, name), torch.tensor(-power, device=device))
        assert torch.equal(back, getattr(one, name)), name
    assert torch.equal(one.proven, other.proven)
    assert torch.equal(one.eigenvectors, other.eigenvectors)


def test_eigenvalues_that_the_dtype_does_not_hold_are_refused():
    """1e5 is above 65504, the largest number of float16."""
    eye = torch.eye(4, dtype=torch.float16)
    layer = BilinearLayer(down=300 * eye, left=300 * eye, right=2 * eye)
    with pytest.raises(
        ValueError, match=r"the eigenvalues overflow torch\.float16: scale the weights or the directions"
    ):
        spectra(layer, eye, 1, progress=False)
