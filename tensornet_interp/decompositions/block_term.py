"""Block-term decompositions: sums of blocks, each an output vector times a symmetric matrix of low rank."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.checks import check_int, check_kind
from tensornet_interp.decompositions.compress import Compressed, unfolding
from tensornet_interp.decompositions.eigen import eigenpairs, fix_signs
from tensornet_interp.decompositions.parametrize import Tied
from tensornet_interp.decompositions.solve import FitOptions, InitialFit
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.numerics import nonzero
from tensornet_interp.spectral import SpectralResult

_SWEEP_FLOPS = 2e10  # what the alternating sweeps of a start may cost: about a second
_SWEEPS = 10


@dataclass(frozen=True, eq=False, repr=False)
class BlockTerm(FitOptions):
    """Fit a sum of blocks, each an output vector times a symmetric matrix of low rank L: rank-(L, L, 1) terms.

    B[out, i, j] ~ sum_block outputs[out, block] M[block, i, j],
    M[block, i, j] = sum_rank eigenvalue[block, rank] v[block, i, rank] v[block, j, rank]

    The fit starts from the blocks of `OutputSVD` with the same number of blocks and the same ranks. Alternating sweeps
    improve them and can change the sign of an eigenvalue. Gauss-Newton steps on all blocks together finish the fit.
    blocks: the number of blocks, at most out. If it is None, there is one block per number that `rank` lists, or out
    blocks if `rank` is not a list.
    rank: L, one number for all blocks or a list with one number per block, at most min(in, 2 * hidden), where hidden is
    the number of hidden units; None takes that limit. If `blocks` and `rank` are both None, the result is exact;
    without start and priors it needs no fit and is that of `OutputSVD`.
    start: a `SpectralResult` with the same number of blocks and at most L eigenpairs per block. If a block has fewer
    than L eigenpairs, the fit uses only the output vectors of the start and finds the matrices anew.
    Other options: `FitOptions`. Priors act on vectors that span the matrix of a block, and these are not its
    eigenvectors but a rotation of them. What a prior asks of outputs therefore holds in the result; zeros and signs
    that it asks of single input vectors do not.

    Result: a `SpectralResult`. Not differentiable.
    Cost per iteration in flops: about hidden * R * (8 * r + 4 * out) for a gradient, plus at most 40 products of
    6 * R^2 * (min(r, R) + blocks) for a step, in float32; often 5 are enough. Once per call: as for `CP`. R is the sum
    of the ranks L of all blocks, and r is at most min(in, 2 * hidden).
    Raises ValueError if `blocks` or `rank` is above its limit, if `rank` does not list one number per block, or if the
    start or a prior does not fit the layer; TypeError if the start is not a `SpectralResult`.
    Source: De Lathauwer, SIAM J. Matrix Anal. Appl. 30(3), 2008; there the matrices need not be symmetric.
    """

    blocks: int | None = None
    rank: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks is not None:
            check_int("blocks", self.blocks, 1)
        if self.rank is None:
            return
        if isinstance(self.rank, Sequence) and not isinstance(self.rank, str):
            if not self.rank:
                raise ValueError("rank lists no numbers; give one per block, or None")
            for number, rank in enumerate(self.rank):
                check_int(f"rank[{number}]", rank, 1)
            if self.blocks is not None and len(self.rank) != self.blocks:
                raise ValueError(f"rank lists {len(self.rank)} numbers for blocks={self.blocks}")
        else:
            check_int("rank", self.rank, 1)

    @classmethod
    def ladder(cls, layer: BilinearLayer) -> Sequence["BlockTerm"]:
        """Return three decompositions: one block of rank 1, half of all blocks at half the rank, and the exact one."""
        blocks, pairs = layer.shape[0], min(layer.shape[1], 2 * layer.rank)
        steps = sorted({(1, 1), ((blocks + 1) // 2, (pairs + 1) // 2), (blocks, pairs)})
        return [cls(blocks=b, rank=r) for b, r in steps]

    @needs_float64
    def __call__(self, layer: BilinearLayer) -> SpectralResult:
        """Decompose a layer in float64; the result has the dtype of the layer."""
        check_kind("layer", layer, BilinearLayer, "; decompose() takes results and networks")
        n_out, n_in, _ = layer.shape
        pairs = min(n_in, 2 * layer.rank)
        listed = len(self.rank) if isinstance(self.rank, Sequence) else n_out
        blocks = check_int("blocks", self.blocks or listed, 1, n_out, f"out={n_out}")
        rank = pairs if self.rank is None else self.rank
        each = rank if isinstance(rank, Sequence) else [rank] * blocks
        ranks = [check_int("rank", rank, 1, pairs, f"min(in={n_in}, 2 hidden={2 * layer.rank})") for rank in each]
        self.check_layer(layer)
        state = self.compress(layer)
        ranks = [min(rank, state.core.shape[1]) for rank in ranks]
        model, parameters = self._first(state, ranks)
        if self.start is None and not self.priors and _whole(state.core, ranks):
            fit, terms = None, model.components(parameters)
        else:
            starts: list[InitialFit] = [(None, model, parameters)]
            for seed in range(self.seed, self.seed + self.starts - 1):
                starts.append((seed, *_sweep(state.core, _random_outputs(state.core, blocks, seed), ranks)))
            fit = self.run(state, starts)
            terms = fit.terms
        outputs, values, vectors = _eigenbasis(terms, ranks)
        return self.finish(
            SpectralResult,
            layer,
            state,
            fit,
            outputs=outputs,
            eigenvalues=state.scale * values,
            eigenvectors=fix_signs(state.expand(vectors)),
        )

    def _first(self, state: Compressed, ranks: list[int]) -> tuple[Tied, tuple[Tensor, Tensor]]:
        if self.start is None:
            left, values, floor = unfolding(state.core, "out")
            left = left[:, values > floor * values[0]]  # a direction without a singular value is no start
            if left.shape[1] < len(ranks):
                extra = _random_outputs(state.core, len(ranks) - left.shape[1], self.seed)
                left = torch.cat([left, extra], 1)
            return _sweep(state.core, left[:, : len(ranks)], ranks)
        if not isinstance(self.start, SpectralResult):
            raise TypeError(f"start of block_term must be a SpectralResult, got {type(self.start).__name__}")
        outputs, values, vectors = (
            part.to(state.core.down) for part in (self.start.outputs, self.start.eigenvalues, self.start.eigenvectors)
        )
        used = (values != 0).sum(1)  # eigenpairs of each block; zeros fill up where L differs
        order = used.argsort(descending=True, stable=True)  # results are sorted by norm: give the larger blocks more
        ranks.sort(reverse=True)
        if len(used) != len(ranks) or any(int(n) > rank for n, rank in zip(used[order], ranks, strict=True)):
            raise ValueError(
                f"start has blocks of ranks {used[order].tolist()}, which do not fit into the asked {ranks}: give"
                " as many blocks, none of a higher rank"
            )
        outputs, values, vectors = outputs[:, order], values[order] / (state.scale or 1.0), vectors[order]
        vectors = state.project(vectors)
        if any(int(n) < rank for n, rank in zip(used[order], ranks, strict=True)):
            return _sweep(state.core, outputs, ranks)
        chosen = values.abs().argsort(dim=1, descending=True, stable=True)
        return _parameters(
            outputs, [(values[b, chosen[b, :r]], vectors[b][:, chosen[b, :r]]) for b, r in enumerate(ranks)]
        )


def _parameters(outputs: Tensor, matrices: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tied, tuple[Tensor, Tensor]]:
    """Return the model of blocks with these eigenpairs, and its parameters.

    The parameters are the outputs (out, block) and the vectors (in, sum of ranks) of all blocks.
    """
    values = torch.cat([value for value, _ in matrices])
    vectors = torch.cat([vector for _, vector in matrices], 1)
    block = torch.repeat_interleave(
        torch.arange(len(matrices), device=values.device),
        torch.tensor([len(value) for value, _ in matrices], device=values.device),
    )
    signs = torch.zeros(len(matrices), len(values), dtype=values.dtype, device=values.device)
    signs[block, torch.arange(len(values), device=values.device)] = torch.where(values < 0, -1.0, 1.0).to(values.dtype)
    return Tied(signs), (outputs, vectors * values.abs().sqrt())


def _sweep(core: BilinearLayer, outputs: Tensor, ranks: list[int]) -> tuple[Tied, tuple[Tensor, Tensor]]:
    """Return the model and its parameters after sweeps that alternate between output vectors and matrices.

    The first matrices are the truncated interaction matrices of the outputs; if every block has full rank and there is
    one for every output, these are exact and are returned. A sweep first fits all output vectors by least squares. Then
    it replaces the matrix of one block after the other by the best matrix of the same rank for the residual of all
    other blocks; an eigenvalue may change sign. Neither step raises the error except by rounding, so the parameters of
    the best sweep are returned.
    """
    values, vectors = eigenpairs(core, torch.linalg.pinv(outputs), max(ranks))
    matrices = [(values[b, :r], vectors[b, :, :r]) for b, r in enumerate(ranks)]
    if _whole(core, ranks):
        return _parameters(outputs, matrices)
    sweeps = max(1, min(_SWEEPS, int(_SWEEP_FLOPS / (len(ranks) * 9 * core.shape[1] ** 3))))
    best: tuple[float, Tensor, list[tuple[Tensor, Tensor]]] | None = None
    for _ in range(sweeps + 1):
        # matrices of norm 1: a small block is no rounding beside a large one
        norms = nonzero(torch.stack([torch.linalg.vector_norm(value) for value, _ in matrices]))
        matrices = [(value / size, vector) for (value, vector), size in zip(matrices, norms, strict=True)]
        gram = torch.stack([torch.stack([_inner(m, n) for n in matrices]) for m in matrices])
        against = torch.stack(
            [core.down @ (((core.left.T @ v) * (core.right.T @ v)) @ value) for value, v in matrices], 1
        )  # (out, block): <B[out], M[block]>
        outputs = against @ torch.linalg.pinv(gram, rtol=1e-12, hermitian=True)  # blocks may depend on each other
        error = float(1 - 2 * (outputs * against).sum() + ((outputs.T @ outputs) * gram).sum())  # the core has norm 1
        if best is None or error < best[0]:
            best = (error, outputs, list(matrices))
        lengths = outputs.square().sum(0)
        for number, rank in enumerate(ranks):
            own = outputs[:, number]
            if not lengths[number] > 1e-24 * lengths.max():
                continue  # nothing of the residual can go into a block without an output vector
            rest = core.interaction_matrix(own)
            for other, (value, vector) in enumerate(matrices):
                if other != number:
                    rest = rest - (own @ outputs[:, other]) * (vector * value) @ vector.T
            found, basis = torch.linalg.eigh(rest / lengths[number])
            chosen = found.abs().topk(rank).indices
            matrices[number] = (found[chosen], basis[:, chosen])
    _, outputs, matrices = best or (0.0, outputs, matrices)
    return _parameters(outputs, matrices)


def _whole(core: BilinearLayer, ranks: list[int]) -> bool:
    """Return whether there is a block of full rank for every output; such blocks are exact without a fit."""
    return min(ranks) == core.shape[1] and len(ranks) >= core.shape[0]


def _inner(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Return the inner product <M, N> of two symmetric matrices, each given by its eigenvalues and eigenvectors."""
    return first[0] @ (first[1].T @ second[1]).square() @ second[0]


def _random_outputs(core: BilinearLayer, blocks: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(core.shape[0], blocks, generator=generator, dtype=torch.float64, device="cpu").to(core.down)


def _eigenbasis(terms: tuple[Tensor, Tensor, Tensor], ranks: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return outputs (out, block) of unit norm, eigenvalues (block, rank) and eigenvectors (block, in, rank).

    terms: the factors (out, n), (in, n), (in, n) with n = sum(ranks). The output vectors of all terms of a block are
    multiples of one vector; a prior may have changed their signs. The block with the largest norm comes first.
    """
    blocks, rank = [], max(ranks)
    for own, vector in zip(terms[0].split(ranks, 1), terms[1].split(ranks, 1), strict=True):
        output = own[:, 0]
        squared = output.square().sum()
        share = (output @ own) / nonzero(squared)  # (rank,)
        basis, triangle = torch.linalg.qr(vector)
        value, rotation = torch.linalg.eigh(triangle @ (share[:, None] * triangle.T))
        length = output.norm() * output[output.abs().argmax()].sign()
        length = torch.where(length != 0, length, torch.ones_like(length))
        order = value.abs().argsort(descending=True, stable=True)
        room = (0, rank - len(value))
        blocks.append((output / length, pad((value * length)[order], room), pad((basis @ rotation)[:, order], room)))
    blocks.sort(key=lambda block: -float(block[1].norm()))
    return (
        torch.stack([b[0] for b in blocks], 1),
        torch.stack([b[1] for b in blocks]),
        torch.stack([b[2] for b in blocks]),
    )
