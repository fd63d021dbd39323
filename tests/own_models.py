"""Ten models as users write them, with their own names, and two that no bilinear network computes.

`python tests/own_models.py` prints how far the network of `from_module` is from each; docs/own_models.md keeps it.
"""

import torch
from torch import nn

from tensornet_interp.weights import from_module, verify


class Mix(nn.Module):
    """A block that adds to its input what two of its readings make together."""

    def __init__(self, width, hidden):
        super().__init__()
        self.query = nn.Linear(width, hidden)
        self.value = nn.Linear(width, hidden)
        self.merge = nn.Linear(hidden, width)

    def forward(self, stream):
        return stream + self.merge(self.query(stream) * self.value(stream))


class Tower(nn.Module):
    """Two residual blocks with biases, between an embedding and a head."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(7, 8)
        self.blocks = nn.ModuleList([Mix(8, 12), Mix(8, 10)])
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class SelfGated(nn.Module):
    """x * W x."""

    def __init__(self):
        super().__init__()
        self.weighting = nn.Linear(6, 6, bias=False)

    def forward(self, x):
        return x * self.weighting(x)


class SumOfSquares(nn.Module):
    """A hidden layer with the square as its activation."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(9, 11)
        self.fc2 = nn.Linear(11, 4)

    def forward(self, x):
        return self.fc2(self.fc1(x) ** 2)


class Pairing(nn.Module):
    """torch's own bilinear layer, of the input and a projection of it."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(6, 4)
        self.pair = nn.Bilinear(6, 4, 5)

    def forward(self, x):
        return self.pair(x, self.project(x))


class Hourglass(nn.Module):
    """A U: narrow, then wide again, with a skip across."""

    def __init__(self):
        super().__init__()
        self.down_a, self.down_b = nn.Linear(10, 6), nn.Linear(10, 6)
        self.waist_a, self.waist_b = nn.Linear(6, 3), nn.Linear(6, 3)
        self.up_a, self.up_b = nn.Linear(3 + 6, 8), nn.Linear(3 + 6, 8)
        self.out = nn.Linear(8 + 10, 10)

    def forward(self, x):
        outer = self.down_a(x) * self.down_b(x)
        inner = self.waist_a(outer) * self.waist_b(outer)
        joined = torch.cat([inner, outer], dim=-1)
        return self.out(torch.cat([self.up_a(joined) * self.up_b(joined), x], dim=-1))


class QuadraticRegression(nn.Module):
    """x Q x + w x + b, one number per sample."""

    def __init__(self):
        super().__init__()
        self.Q = nn.Parameter(torch.randn(8, 8) / 8)
        self.w = nn.Parameter(torch.randn(8))
        self.b = nn.Parameter(torch.randn(()))

    def forward(self, features):
        return torch.einsum("bi,ij,bj->b", features, self.Q, features) + features @ self.w + self.b


class TwoExperts(nn.Module):
    """Two experts, mixed by weights that are learned once for all inputs."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList([Mix(6, 5), Mix(6, 7)])
        self.prior = nn.Parameter(torch.tensor([0.3, -0.4]))

    def forward(self, x):
        share = self.prior.softmax(0)
        return sum(weight * expert(x) for weight, expert in zip(share, self.experts, strict=True))


class TokenMLP(nn.Module):
    """The MLP part of a transformer block: (batch, token, width), the same weights for every token."""

    def __init__(self):
        super().__init__()
        self.w_in = nn.Linear(6, 2 * 9, bias=False)
        self.w_out = nn.Linear(9, 6)
        self.drop = nn.Dropout(0.1)

    def forward(self, stream):
        gate, up = self.w_in(stream).chunk(2, dim=-1)
        return stream + self.drop(self.w_out(gate * up))


class PolynomialNet(nn.Module):
    """Degree 3 by Hadamard products with the input, as polynomial networks (Pi-nets) do."""

    def __init__(self):
        super().__init__()
        self.U1, self.U2, self.U3 = (nn.Linear(7, 9, bias=False) for _ in range(3))
        self.C = nn.Linear(9, 4)

    def forward(self, z):
        x = self.U1(z)
        x = x + self.U2(z) * x
        x = x + self.U3(z) * x
        return self.C(x)


class SmallConvNet(nn.Module):
    """Convolution, BatchNorm, square, pooling, a bilinear convolution, a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.pool = nn.AvgPool2d(2)
        self.conv_l, self.conv_r = nn.Conv2d(4, 3, 2), nn.Conv2d(4, 3, 2)
        self.classify = nn.Linear(3 * 2 * 2, 5)
        with torch.no_grad():  # as after some training
            self.stem[1].running_mean.normal_()
            self.stem[1].running_var.uniform_(0.5, 2)

    def forward(self, image):
        image = self.pool(self.stem(image).square())
        image = self.conv_l(image) * self.conv_r(image)
        return self.classify(image.flatten(1))


class WithReLU(nn.Module):
    """Two products with a ReLU between them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Mix(6, 5), Mix(6, 5)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.second(self.act(self.first(x)))


class Normed(nn.Module):
    """A block behind an RMSNorm."""

    def __init__(self):
        super().__init__()
        self.ln = nn.RMSNorm(6)
        self.mlp = Mix(6, 5)

    def forward(self, x):
        return self.mlp(self.ln(x))


TAKEN = {  # what it is: the class, the shape of one input
    "two residual blocks with biases": (Tower, (7,)),
    "x * W x": (SelfGated, (6,)),
    "squares": (SumOfSquares, (9,)),
    "nn.Bilinear": (Pairing, (6,)),
    "U with skips": (Hourglass, (10,)),
    "quadratic regression": (QuadraticRegression, (8,)),
    "two experts, fixed weights": (TwoExperts, (6,)),
    "MLP of a transformer block": (TokenMLP, (3, 6)),
    "degree 3, Hadamard products": (PolynomialNet, (7,)),
    "convolutional": (SmallConvNet, (1, 6, 6)),
}
REFUSED = {"a ReLU in the middle": (WithReLU, (6,)), "an RMSNorm": (Normed, (6,))}


def built(kind, dtype):
    """A model of a class, in evaluation mode; its weights are the same in every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind().eval().to(dtype)


def inputs(count, shape, dtype, seed=1):
    numbers = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return numbers.to(dtype)


def main():
    print("| model | relative difference, float32 | float64 | hidden units per layer |\n|---|---|---|---|")
    for name, (kind, shape) in (TAKEN | REFUSED).items():
        found = []
        for dtype in (torch.float32, torch.float64):
            model, x = built(kind, dtype), inputs(100, shape, dtype)
            try:
                network = from_module(model, x)
                found.append(f"{verify(network, model, x).relative:.0e}")
            except ValueError as error:
                print(f"| {name} | refused: {str(error).split(', /')[0].partition(': ')[2]} | | |")
                break
        else:
            print(f"| {name} | {found[0]} | {found[1]} | {', '.join(str(part.rank) for part in network.layers)} |")


if __name__ == "__main__":
    main()
