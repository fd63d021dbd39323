"""Dense float64 references for single layers and what stands for them."""

import torch

from tensornet_interp import BilinearLayer


def dense(part):
    """The symmetrized tensor (out, in, in) of a layer or a result whose arrays are taken as they are, in float64."""
    layer = part.to(dtype=torch.float64).to_layer()
    tensor = torch.einsum("or,ir,jr->oij", layer.down, layer.left, layer.right)
    return (tensor + tensor.mT) / 2


def dense_error(part, layer):
    return float((dense(part) - dense(layer)).norm() / dense(layer).norm())


def unfold(tensor, mode):
    """(out, in in) or (in, out in)."""
    return tensor.flatten(1) if mode == "out" else tensor.transpose(0, 1).flatten(1)


def normal(*shape, seed, device="cpu"):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)


def orthonormal(size, rank, *, seed, device="cpu"):
    return torch.linalg.qr(normal(size, rank, seed=seed)).Q.to(device)


def scaled(layer, factor):
    return BilinearLayer(down=layer.down * factor, left=layer.left, right=layer.right, name=layer.name)
