"""Layers whose interaction matrices have spectra that decay."""

import torch

from tensornet_interp import BilinearLayer

DECAYS = ("exponential", "inverse", "flat")


def make_layer(n_in: int, hidden: int, n_out: int, decay: str, seed: int) -> BilinearLayer:
    """Return a float32 layer whose left and right have the input scales s of `decay` in one shared basis."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float32)

    index = torch.arange(1, n_in + 1, dtype=torch.float32)
    s = {"exponential": 0.9**index, "inverse": 1 / index, "flat": torch.ones(n_in)}[decay]
    basis = torch.linalg.qr(draw(n_in, n_in)).Q * s
    left, right = (basis @ draw(n_in, hidden) / n_in**0.5 for _ in range(2))
    return BilinearLayer(down=draw(n_out, hidden) / hidden**0.5, left=left, right=right, name=f"{decay} decay")
