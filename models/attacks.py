"""An attack on a classifier by gradient steps, and so the batches of adversarial training."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tensornet_interp.checks import check_iterations, check_number, check_tensor
from tensornet_interp.numerics import nonzero, unit_columns


@dataclass(frozen=True)
class PGD:
    """A `PGD` is an attack by projected gradient descent: it moves every sample to where the loss is higher.

    d <- P(d + s * g / |g|), from d = 0, with g = gradient in d of -log softmax(model(x + d))[label]

    P scales a change d that is longer than `radius` back to this length, so every change stays in a ball (L2 norm). The
    length s of a step is 2.5 * radius / steps, so that a change can reach the border of the ball and still move along
    it. A sample with gradient 0 stays where it is. Nothing is drawn at random, and nothing is clipped to a range of
    pixels. Source: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018, which
    begins at a random place of the ball instead.
    """

    radius: float
    steps: int = 5

    def __post_init__(self) -> None:
        check_number("radius", self.radius, 0.0, low_open=True)
        check_iterations("steps", self.steps)

    def __call__(self, model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        """Return x (batch, in) with the attack's changes, without a graph of gradients.

        labels: (batch,), the classes whose loss rises. The model's gradients, its mode and the grad mode stay as they
        are. Cost: `steps` passes forward, and backward to the inputs.
        """
        check_tensor("x", x, ("batch", "in"), finite=False)
        change = torch.zeros_like(x)
        for _ in range(self.steps):
            with torch.enable_grad():
                moved = (x + change).detach().requires_grad_()
                loss = functional.cross_entropy(model(moved), labels, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, moved)
            change = change + 2.5 * self.radius / self.steps * unit_columns(gradient.T)[0].T
            norms = torch.linalg.vector_norm(change, dim=1, keepdim=True)
            change = change * (self.radius / nonzero(norms)).clamp(max=1)
        return (x + change).detach()
