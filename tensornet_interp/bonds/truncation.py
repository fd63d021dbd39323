"""Truncate the bonds of networks: singular values of every bond, and guaranteed and measured errors of a cut."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import torch
from torch import Tensor

from tensornet_interp.bonds.grams import Bond, make_bonds, upward
from tensornet_interp.checks import check_int, check_share
from tensornet_interp.float64 import needs_float64
from tensornet_interp.inner_products.stack import as_stack
from tensornet_interp.layer import BilinearLayer, BilinearMap, TensorNetwork
from tensornet_interp.moments import Moments, input_moments
from tensornet_interp.network import BilinearNetwork, as_network
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record

Maps = Mapping[int, tuple[Tensor, Tensor]]  # per cut bond: encoder and decoder


@register_type("Truncation")
@dataclass(frozen=True, eq=False)
class Truncation:
    """A truncation holds a network with cut bonds, and its relative distance from the original network in tree norm."""

    network: BilinearNetwork
    ranks: Mapping[int, int]  # per cut bond: coordinates kept, without the constant
    bound: float  # upper bound on the relative error: sqrt(sum over cut bonds of occurrences * discarded)
    measured: float  # exact relative error in float64, before the weights are rounded to the network's dtype
    gaps: Mapping[int, float]  # per cut bond: last kept singular value divided by the first discarded one
    clusters: tuple[int, ...]  # bonds that are cut between equal singular values; other cuts are equally good

    def records(self) -> list[Record]:
        """Return one record per cut bond, with the relative error of the whole truncation."""
        errors = {"relative_error": self.measured, "relative_error_bound": self.bound}
        return [
            {"bond": bond, "rank": rank, "gap": self.gaps[bond], "in_cluster": bond in self.clusters} | errors
            for bond, rank in self.ranks.items()
        ]

    def __repr__(self) -> str:
        cuts = "".join(f"  bond {bond}: rank {rank}, gap {self.gaps[bond]:.4g}\n" for bond, rank in self.ranks.items())
        clusters = f"  cut within a cluster at bonds {self.clusters}\n" if self.clusters else ""
        return f"Truncation(relative error {self.measured:.3e}, at most {self.bound:.3e}\n{cuts}{clusters})"


@register_type("ODT")
@dataclass(frozen=True, eq=False)
class ODT:
    """An ODT holds a network and its bonds with their singular values, input first; call `odt` to create one."""

    network: BilinearNetwork
    bonds: tuple[Bond, ...]
    input_moment: Tensor  # X_0 (in, in), float64, the constant coordinate included

    def records(self) -> list[Record]:
        """Return one record per bond and singular value, largest first; None if there are fewer of one kind."""
        return [
            {"bond": bond.index, "number": number, "singular_value": whole, "singular_value_without_constant": plain}
            for bond in self.bonds
            for number, (whole, plain) in enumerate(
                zip_longest(bond.singular_values.tolist(), bond.singular_values_without_constant.tolist())
            )
        ]

    def __repr__(self) -> str:
        def leading(values: Tensor) -> str:
            return " ".join(f"{value:.3g}" for value in values[:4].tolist())

        rows = "".join(
            f"  bond {bond.index}: size {bond.size}, rank {bond.rank}, occurrences {bond.occurrences},"
            f" singular values {leading(bond.singular_values)} ...,"
            f" without the constant {leading(bond.singular_values_without_constant)} ...\n"
            for bond in self.bonds
        )
        return f"ODT(log norm {self.bonds[0].log_norm:.6g}, singular values relative to it\n{rows})"

    @needs_float64
    @torch.no_grad()
    def truncate(self, ranks: int | Mapping[int, int] | None = None, *, error: float | None = None) -> Truncation:
        """Return the network with bonds cut to given ranks, or with the smallest ranks for a given error.

        P_l <- enc_l P_l, and in layer l + 1: W <- W dec_l, V <- V dec_l

        This is a cut at bond l, with the bond's encoder enc_l and decoder dec_l. Inputs and outputs keep their sizes: a
        cut at bond 0 or L projects onto the kept coordinates. A lifted bond keeps its constant exactly: it carries [1,
        enc (h - center)].
        ranks: the number of coordinates to keep besides the constant: one number for all inner bonds (1 ... L - 1), or
        {bond: rank}; bonds that are not named stay unchanged. A rank above the bond's own rank is lowered to that rank.
        error: given instead of `ranks`. The inner bonds then keep as few coordinates in total as `bound` <= error
        allows. Errors below 1e-8 are not resolved.
        Raises ValueError unless exactly one of `ranks` and `error` is given, or if a bond or a rank is out of range.
        Cost in flops: about rank^2 * (152 * in + 38 * out) + 76 * rank * in^2 per layer, where rank counts
        hidden units. This measures the error, on a network with 3 * rank hidden units and twice the width.
        """
        if (ranks is None) == (error is None):
            raise ValueError(f"give either ranks or error, got ranks={ranks!r} and error={error!r}")
        wanted = self._ranks_for(error) if error is not None else self._check_ranks(ranks)
        kept = {index: min(rank, self.bonds[index].rank) for index, rank in sorted(wanted.items())}
        cut = [(self.bonds[index], rank) for index, rank in kept.items()]
        maps = {bond.index: bond.maps(rank) for bond, rank in cut}
        return Truncation(
            BilinearNetwork(_cut(self.network, maps)),
            kept,
            math.sqrt(sum(bond.occurrences * bond.discarded(rank) for bond, rank in cut)),
            self._measure(maps),
            {bond.index: bond.gap(rank) for bond, rank in cut},
            tuple(bond.index for bond, rank in cut if bond.in_cluster(rank)),
        )

    def _inner(self) -> Sequence[Bond]:
        """Return the bonds between layers; ValueError if there is only one layer."""
        if len(self.bonds) == 2:
            raise ValueError("a network of one layer has no inner bond; name a bond: ranks={0: ...} cuts the input")
        return self.bonds[1:-1]

    def _check_ranks(self, ranks: object) -> dict[int, int]:
        """Return the rank to keep per bond, after checking bonds and ranks."""
        named = ranks if isinstance(ranks, Mapping) else {bond.index: ranks for bond in self._inner()}
        checked = {}
        for index, rank in named.items():
            bond = self.bonds[check_int("bond", index, 0, len(self.bonds) - 1, "0 is the input")]
            lowest = 1 if bond.center is None else 0
            checked[bond.index] = check_int("rank", rank, lowest, bond.size, f"the size of bond {bond.index}")
        return checked

    def _ranks_for(self, error: object) -> dict[int, int]:
        """Return the ranks that remain after discarding the cheapest coordinates of all inner bonds.

        A coordinate with singular value s costs occurrences * s^2. The costs of the discarded coordinates sum to at
        most error^2.
        """
        error = check_share("error", error, low_open=False, high_open=True)  # of the norm of the network
        costs = []
        for bond in self._inner():
            values = bond.singular_values_without_constant.tolist()
            costs += [(bond.occurrences * value**2, -place, bond.index) for place, value in enumerate(values)]
        ranks = {bond.index: len(bond.singular_values_without_constant) for bond in self._inner()}
        spent = 0.0
        for cost, _, index in sorted(costs):
            spent += cost
            if spent > error**2:
                break
            ranks[index] -= 1
        return ranks

    def _measure(self, maps: Maps) -> float:
        """Return the relative error of the cut in tree norm."""
        layers = as_stack(self.network).layers  # a relative error does not see the scales of layers
        (whole, log_whole), (lost, log_lost) = (
            upward(stack, self.input_moment)[-1] for stack in (layers, _difference(layers, maps))
        )
        return math.sqrt(float((lost.trace() / whole.trace()).clamp_min(0))) * math.exp((log_lost - log_whole) / 2)


@needs_float64
@torch.no_grad()
def odt(network: TensorNetwork, moments: Moments | None = None) -> ODT:
    """Compute the singular values of all bonds of a network; `result.truncate` then cuts bonds.

    The method is ODT: orthogonalise, diagonalise, truncate. At bond l the squared singular values s^2 are

    s^2 = eigenvalues of X_l N_l, X_l = P_l C(X_(l-1)) P_l^T, N_(l-1) = 1/4 Z^T G(N_l) Z

    X_l is the Gram matrix of the tree below one occurrence of the bond, and N_l is the Gram matrix of the tree outside
    this occurrence. X_0 is the second moment of the input and N_L the identity. P_l is the down factor of layer l,
    and C(X) is the Gram matrix of its hidden units for an input with second moment X (cross_gram in moments.py);
    input_gram in moments.py defines G and Z.

    Errors are relative to the tree norm: the norm of the network (or layer) as a tree of symmetrized layers. A cut of
    one occurrence of bond l has a squared error of exactly the sum of the discarded s^2. A cut of all 2^(L-l)
    occurrences has at most 2^(L-l) times this squared error. If several bonds are cut, the squared error is at most the
    sum over these bonds. These are errors of the tree tensor; measure the loss of accuracy separately.
    moments: the moments of the plain input, for example `Moments.of(x)` of the training data. At every leaf of the
    tree, independently, their second moment E[x x^T] replaces the identity. The cut then keeps what such inputs use.
    Each s is accurate to 1.5e-8 of the largest s. Smaller s are always dropped, so Gram matrices may be singular. The
    computation uses float64 and logarithmic scales. Raises ValueError if the network is zero on the moments.
    Cost: O(rank^2 * in + in^3) per layer; no layer is made dense.

    Example:
    >>> layer = BilinearLayer.from_weights(left=torch.eye(2), right=torch.eye(2), down=torch.eye(2))
    >>> bonds = odt(BilinearNetwork([layer, layer])).bonds
    >>> [round(value, 3) for value in bonds[1].singular_values.tolist()]
    [0.707, 0.707]
    """
    stack = as_network(network)
    moment = input_moments(stack.layers[0], moments).second_moment
    return ODT(stack, make_bonds(as_stack(stack), moment), moment)


def _cut(network: BilinearNetwork, maps: Maps) -> list[BilinearMap]:
    """Return the parts of the network with cut bonds, in the network's dtype.

    The layer below a cut bond absorbs the encoder, and the layer above absorbs the decoder.
    """
    parts = list(network.parts)
    for i, layer in enumerate(network.to(dtype=torch.float64).layers):
        if i not in maps and i + 1 not in maps:
            continue
        down, left, right = layer.down, layer.left, layer.right
        if i in maps:
            encoder, decoder = maps[i]
            back = (decoder @ encoder).T if i == 0 else decoder.T
            left, right = back @ left, back @ right
        if i + 1 in maps:
            encoder, decoder = maps[i + 1]
            down = (decoder @ encoder if i + 1 == len(parts) else encoder) @ down
        cut = replace(layer, down=down, left=left, right=right, history=(*layer.history, "bonds cut"))
        parts[i] = cut.to(dtype=parts[i].to_layer().down.dtype)
    return parts


def _difference(layers: Sequence[BilinearLayer], maps: Maps) -> list[BilinearLayer]:
    """Return layers whose tree is that of (network - cut network).

    Each layer carries pairs (u, d): u is the output of the network at this layer, and d is u minus the output of the
    cut network. The next d is linear in d, so a small error keeps its digits:

    P((Wu)(Vu)) - P((W(u-d))(V(u-d))) = P((Wu)(Vd) + (Wd)(V(u-d)))
    """
    stack = []
    for i, layer in enumerate(layers):
        left, right, down = layer.left, layer.right, layer.down
        zero, none = torch.zeros_like(left), torch.zeros_like(down)
        lefts = torch.cat([torch.cat([left, left, zero], 1), torch.cat([zero, zero, left], 1)])  # (2 in, 3 rank)
        rights = torch.cat([torch.cat([right, zero, right], 1), torch.cat([zero, right, -right], 1)])
        if i == 0:  # u = x, d = (1 - dec enc) x
            lost = _lost(torch.eye(len(left), dtype=left.dtype, device=left.device), maps.get(0))
            lefts, rights = (both[: len(left)] + lost.T @ both[len(left) :] for both in (lefts, rights))
        lost = _lost(down, maps.get(i + 1))
        downs = torch.cat([lost, down - lost, down - lost], 1)  # d
        if i < len(layers) - 1:
            downs = torch.cat([torch.cat([down, none, none], 1), downs])  # (u, d)
        stack.append(BilinearLayer(down=downs, left=lefts, right=rights))
    return stack


def _lost(rows: Tensor, maps: tuple[Tensor, Tensor] | None) -> Tensor:
    """Return (1 - decoder encoder) rows, or zeros if the bond is not cut."""
    return torch.zeros_like(rows) if maps is None else rows - maps[1] @ (maps[0] @ rows)
