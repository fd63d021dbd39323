"""What eigenvectors look like as images: random vectors of the same power spectrum, roughness, shifted copies."""

import torch
from torch import Tensor

Shape = tuple[int, int]


def surrogates(vector: Tensor, shape: Shape, draws: int, draw: torch.Generator) -> Tensor:
    """Return random vectors (draw, in) with the power spectrum of an image (in,): its phases are drawn at random."""
    noise = torch.fft.rfft2(torch.randn(draws, *shape, generator=draw, dtype=torch.float64).to(vector.device))
    spectrum = torch.fft.rfft2(vector.reshape(shape)).abs()
    return torch.fft.irfft2(spectrum * noise / noise.abs(), s=shape).flatten(1)


def roughness(vectors: Tensor, shape: Shape) -> Tensor:
    """Return the mean squared difference of neighbouring pixels of vectors (..., in), over twice their mean square.

    It is 1 on average for independent pixels of mean 0, and near 0 for smooth images.
    """
    images = vectors.unflatten(-1, shape)
    steps = [images.diff(dim=dim).square().flatten(-2).mean(-1) for dim in (-2, -1)]
    return torch.stack(steps).mean(0) / (2 * vectors.square().mean(-1))


def shifted_cosines(vectors: Tensor, shape: Shape, reach: int) -> tuple[Tensor, Tensor]:
    """Return |cosine| of all pairs of vectors (..., vector, in), in place and at the best shift.

    in place[i, j] = |v_i . v_j| / (|v_i| |v_j|)
    shifted[i, j] = max over (dy, dx) != 0 of |sum_yx v_i[y, x] v_j[y - dy, x - dx]| / (|v_i| |v_j|)

    Shifts are whole pixels from -reach to reach in both directions, and pixels beyond the border count as 0. Both
    results are (..., vector, vector).
    """
    images = vectors.double().unflatten(-1, shape)
    images = images / images.square().sum((-2, -1), keepdim=True).sqrt()
    room = tuple(size + reach for size in shape)  # so that nothing comes in at the other side
    spectrum = torch.fft.rfft2(images, s=room)
    products = spectrum[..., :, None, :, :] * spectrum[..., None, :, :, :].conj()
    near = torch.fft.irfft2(products, s=room).abs()
    rows, columns = (torch.tensor([*range(reach + 1), *range(-reach, 0)]) % size for size in room)
    near = near[..., rows[:, None], columns]  # (..., vector, vector, 2 reach + 1, 2 reach + 1)
    in_place = near[..., 0, 0].clone()
    near[..., 0, 0] = 0
    return in_place, near.flatten(-2).amax(-1)
