"""Layers for laws: small recipes that hypothesis draws and shrinks, and what they make."""

from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st

from tensornet_interp import BilinearLayer, lift

HALF = (torch.bfloat16, torch.float16)
KINDS = ("normal", "deficient", "cancelling", "unbalanced", "repeated", "one output")


@dataclass(frozen=True)
class Recipe:
    """What a layer is made from; `repr` of it is what a failure prints."""

    seed: int
    n_out: int
    n_in: int
    rank: int
    kind: str = "normal"
    dtype: torch.dtype = torch.float64
    power: int = 0  # down is multiplied by 10^power
    view: bool = False  # the weights are strided views of larger arrays
    grad: bool = False
    lifted: bool = False

    def draw(self, *size, seed):
        return torch.randn(size, generator=torch.Generator().manual_seed(1000 * self.seed + seed), dtype=torch.float64)

    def layer(self):
        """The layer of this recipe."""
        n_out = 1 if self.kind == "one output" else self.n_out
        down, left, right = (
            self.draw(n_out, self.rank, seed=0) / self.rank**0.5,
            self.draw(self.n_in, self.rank, seed=1) / self.n_in**0.5,
            self.draw(self.n_in, self.rank, seed=2) / self.n_in**0.5,
        )
        if self.kind == "deficient":  # two inputs and one output direction carry all
            left, right = (self.draw(self.n_in, 2, seed=at) @ self.draw(2, self.rank, seed=at + 1) for at in (3, 5))
            down = self.draw(n_out, 1, seed=7) @ self.draw(1, self.rank, seed=8)
        if self.kind == "cancelling":  # the layer minus itself with moved units and one left factor slightly off
            moved = left + 1e-3 * self.draw(self.n_in, self.rank, seed=9)
            down = torch.cat([down, -down.flip(1)], 1)
            left, right = torch.cat([left, moved.flip(1)], 1), torch.cat([right, right.flip(1)], 1)
        if self.kind == "unbalanced":
            steps = (4.0 if self.dtype == torch.float16 else 1e4) ** torch.linspace(-1, 1, self.rank).double()
            down, left = down * steps, left / steps
        if self.kind == "repeated":
            down, left, right = (torch.cat([part, part[:, :1]], 1) for part in (down, left, right))
        down = down * 10.0**self.power
        parts = {"down": down, "left": left, "right": right}
        if self.view:  # every second row of an array twice as large, transposed
            parts = {name: part.T.repeat_interleave(2, 0)[::2].T for name, part in parts.items()}
        parts = {name: part.to(self.dtype) for name, part in parts.items()}
        if self.lifted and self.kind != "one output":
            parts |= vars(lift(BilinearLayer(**parts), bias=self.draw(n_out, seed=10).to(self.dtype)))
            parts = {name: parts[name] for name in ("down", "left", "right", "constant_in", "constant_out")}
        if self.grad:
            parts |= {name: parts[name].detach().requires_grad_() for name in ("down", "left", "right")}
        return BilinearLayer(name="drawn", **parts)

    def wide(self):
        """The same recipe in float64, without gradients."""
        return replace(self, dtype=torch.float64, grad=False)


def recipes(*, kinds=KINDS, dtypes=(torch.float64, torch.float32, *HALF), powers=True, large=False, lifted=True):
    """Recipes of small layers; with `large`, half-precision layers may have 256 inputs."""

    @st.composite
    def one(draw):
        dtype = draw(st.sampled_from(dtypes))
        most = {torch.float64: 150, torch.float32: 12, torch.bfloat16: 12, torch.float16: 0}[dtype] if powers else 0
        inputs = st.integers(1, 9)
        if large and dtype in HALF:
            inputs = st.one_of(inputs, st.sampled_from((64, 256)))
        return Recipe(
            seed=draw(st.integers(0, 10**6)),
            n_out=draw(st.integers(1, 5)),
            n_in=draw(inputs),
            rank=draw(st.integers(1, 7)),
            kind=draw(st.sampled_from(kinds)),
            dtype=dtype,
            power=draw(st.integers(-most, most)),
            view=draw(st.booleans()),
            grad=draw(st.booleans()),
            lifted=lifted and draw(st.booleans()),
        )

    return one()
