"""Bad moments, ridges, priors and streams: every error names what is wrong."""

import pytest
import torch
from helpers import layer_of, normal

from tensornet_interp import BilinearNetwork, Moments, decompose, layer_moments, lift
from tensornet_interp.decompositions import CP, AffineResult, NonNegative, Smooth
from tensornet_interp.metric import Metric

LAYER = layer_of(3, 6, 5, 1)
LIFTED = lift(LAYER, bias=normal(3))


def moments_of(size, rank):
    """Moments of 300 inputs that fill `rank` dimensions."""
    return Moments.of(normal(300, rank, seed=7) @ normal(rank, size, seed=8))


BAD = [
    ("moments of another size", lambda: decompose(LAYER, "eigen", moments=moments_of(5, 5)), ValueError, "mode 'in' has size 6 in layer but 5 in moments"),
    ("moments of a lifted layer", lambda: decompose(LIFTED, "eigen", moments=moments_of(7, 7)), ValueError, "mode 'in' has size 6 in layer but 7 in moments"),
    ("no moments", lambda: decompose(LAYER, "eigen", moments=normal(9, 6)), TypeError, "moments must be a Moments object, got Tensor"),
    ("ridge without moments", lambda: decompose(LAYER, "eigen", ridge=0.1), ValueError, r"\['ridge'\] describe a metric, which needs moments"),
    ("negative ridge", lambda: decompose(LAYER, "eigen", moments=moments_of(6, 6), ridge=-1), ValueError, "ridge must be at least 0"),
    ("inputs that are all 0", lambda: decompose(LAYER, "eigen", moments=Moments.of(torch.zeros(9, 6))), ValueError, "the inputs do not vary: they are all 0"),
    ("constant inputs of a lifted layer", lambda: decompose(LIFTED, "eigen", moments=Moments.of(torch.ones(9, 6))), ValueError, "the inputs do not vary: their covariance is 0"),
    ("a rank above that of the metric", lambda: decompose(LAYER, "eigen", rank=6, moments=moments_of(6, 4), ridge=0), ValueError, "rank must be from 1 to 4"),
    ("one moments for two parts", lambda: decompose(BilinearNetwork([layer_of(6, 6, 4), LAYER]), "eigen", moments=moments_of(6, 6)), ValueError, "a network of 2 parts needs one Moments per part, got 1"),
    ("a part that does not exist", lambda: decompose(BilinearNetwork([LAYER]), "eigen", moments={1: moments_of(6, 6)}), ValueError, "part must be from -1 to 0"),
    ("a prior on inputs", lambda: decompose(LAYER, CP(2, priors=[Smooth((2, 3))]), moments=moments_of(6, 6)), ValueError, r"Smooth\(.*\) speaks of the inputs, but the fit runs in whitened coordinates"),
    ("a constraint on inputs", lambda: decompose(LAYER, CP(2, priors=[NonNegative("inputs")]), moments=moments_of(6, 6)), ValueError, "speaks of the inputs"),
    ("a start of another size", lambda: decompose(LAYER, CP(2, start=layer_of(3, 5, 2)), moments=moments_of(6, 6)), ValueError, "mode 'in' has size 5 in layer but 6 in inputs"),
    ("a start in whitened coordinates", lambda: decompose(LAYER, CP(2, start=Metric.of(moments_of(6, 6)).whiten(LAYER)), moments=moments_of(6, 6)), ValueError, "start has the basis 'whitened by the data', and the layer 'as given'"),
    ("an exact linear part of a layer without a constant", lambda: decompose(LAYER, "eigen", moments=moments_of(6, 6), linear="exact"), ValueError, "linear='exact' needs a lifted layer"),
    ("an unknown linear part", lambda: decompose(LIFTED, "eigen", moments=moments_of(6, 6), linear="all"), ValueError, "linear must be one of decomposed, exact"),
    ("a start for the quadratic part", lambda: decompose(LIFTED, CP(2, start=LIFTED), moments=moments_of(6, 6), linear="exact"), ValueError, "linear='exact' decomposes its quadratic part"),
    ("inputs of a network with NaN", lambda: layer_moments(LAYER, torch.full((3, 6), torch.nan).double()), ValueError, "inputs has 3 rows with NaN or infinite entries, the first is row 0"),
    ("inputs of a network of another size", lambda: layer_moments(LIFTED, normal(9, 7)), ValueError, "mode 'in' has size 6 in the layer but 7 in inputs"),
    ("a root with a column of zeros", lambda: Metric(torch.zeros(3, 2)), ValueError, "root has a column of zeros; leave it out"),
    ("an affine result without a constant", lambda: AffineResult(report=decompose(LAYER, "eigen").report, interaction=LAYER, affine=normal(3, 6)), ValueError, "interaction must have a constant input coordinate"),
    ("an unknown option", lambda: decompose(LAYER, "eigen", moments=moments_of(6, 6), ridges=1), TypeError, "'eigen' has no option 'ridges'"),
    ("an empty stream", lambda: Moments.of([]), ValueError, "a covariance needs at least 2 inputs, got 0"),
    ("NaN in a stream", lambda: Moments.of(iter([normal(4, 2), torch.tensor([[1.0, 2.0], [float("nan"), 0.0]]).double()])), ValueError, "batch 1 of x has 1 rows with NaN or infinite entries, the first is row 1"),
    ("batches of two sizes", lambda: Moments.of([normal(4, 2), normal(4, 3)]), ValueError, "mode 'in' has size 2 in the first batch but 3 in batch 1 of x"),
    ("no stream", lambda: Moments.of(3), TypeError, "x must be a torch.Tensor or a stream of them, got int"),
    ("a covariance that is not positive", lambda: Moments(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])), ValueError, r"covariance must be positive semidefinite, its lowest eigenvalue is -1\.000e\+00"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input_is_an_error(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
