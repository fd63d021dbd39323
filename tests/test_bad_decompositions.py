"""Bad options of decompositions are clear errors before any work: a table as in `test_bad_input`."""

import pytest
import torch
from bad_input import cases, check

from tensornet_interp import BilinearLayer, BilinearNetwork, decompose, lift
from tensornet_interp.decompositions import Eigen, NonNegative, Prior, Smooth, Sparse
from tensornet_interp.testing import random_layer

LAYER = random_layer(3, 5, 4, seed=1)
LIFTED = lift(random_layer(5, 5, 4, seed=1))
OTHER = random_layer(3, 6, 4, seed=1)
CP2 = decompose(LAYER, "cp", rank=2, max_iterations=2)
BLOCKS = decompose(LAYER, "block_term", blocks=2, rank=2, max_iterations=2)


class NotANumber(Prior):
    def penalty(self, factors):
        return factors.outputs.sum() * float("nan")


def given(method, **options):
    return lambda: decompose(LAYER, method, **options)


TABLE = [
    # ranks
    ("svd blocks", given("output_svd", blocks=4), ValueError, r"blocks must be from 1 to 3 \(out=3\), got 4"),
    ("svd blocks 0", given("output_svd", blocks=0), ValueError, "blocks must be at least 1, got 0"),
    ("svd rank", given("output_svd", rank=6), ValueError, r"rank must be from 1 to 5 \(min\(in=5, 2 hidden\)\), got 6"),
    ("svd rank float", given("output_svd", rank=2.0), TypeError, r"rank must be a whole number, got 2\.0"),
    ("hosvd output rank", given("hosvd", ranks=(4, 2)), ValueError, r"output rank must be from 1 to 3 \(mode 'out' has size 3\), got 4"),
    ("hosvd input rank", given("hosvd", ranks=(2, 6)), ValueError, r"input rank must be from 1 to 5 \(modes 'in1' and 'in2' have size 5\), got 6"),
    ("tucker input rank", given("tucker", ranks=(2, 6)), ValueError, r"input rank must be from 1 to 5 .*got 6"),
    ("hosvd one rank", given("hosvd", ranks=2), TypeError, r"ranks must be a pair \(output rank, input rank\), got 2"),
    ("hosvd three ranks", given("hosvd", ranks=(2, 2, 2)), TypeError, "ranks must be a pair"),
    ("hosvd rank 0", given("hosvd", ranks=(0, 2)), ValueError, "output rank must be at least 1, got 0"),
    ("cp rank", given("cp", rank=5), ValueError, r"rank must be from 1 to 4 \(the layer 'random 1' has 4 hidden units\), got 5"),
    ("cp rank 0", given("cp", rank=0), ValueError, "rank must be at least 1, got 0"),
    ("cp rank boolean", given("cp", rank=True), TypeError, "rank must be a whole number, got True"),
    ("symmetric_cp rank", given("symmetric_cp", rank=9), ValueError, r"rank must be from 1 to 8 \(two for each of 4 hidden units\), got 9"),
    ("blocks", given("block_term", blocks=4), ValueError, r"blocks must be from 1 to 3 \(out=3\), got 4"),
    ("block rank", given("block_term", rank=6), ValueError, r"rank must be from 1 to 5 \(min\(in=5, 2 hidden=8\)\), got 6"),
    ("block ranks", given("block_term", rank=(2, 6)), ValueError, "rank must be from 1 to 5 .*got 6"),
    ("block rank 0 in a list", given("block_term", rank=(2, 0)), ValueError, r"rank\[1\] must be at least 1, got 0"),
    ("block ranks and blocks", given("block_term", blocks=3, rank=(2, 1)), ValueError, "rank lists 2 numbers for blocks=3"),
    ("too many block ranks", given("block_term", rank=(1, 1, 1, 1)), ValueError, r"blocks must be from 1 to 3 \(out=3\), got 4"),
    ("no block ranks", given("block_term", rank=()), ValueError, "rank lists no numbers; give one per block, or None"),
    ("block rank a word", given("block_term", rank="2"), TypeError, "rank must be a whole number, got '2'"),
    # contradicting options
    ("ranks and energy", given("hosvd", ranks=(1, 1), energy=0.5), ValueError, "give one of ranks, energy and error, got ranks and energy"),
    ("energy and error", given("tucker", energy=0.5, error=0.1), ValueError, "give one of ranks, energy and error, got energy and error"),
    ("energy 0", given("hosvd", energy=0.0), ValueError, r"energy must be in \(0, 1\], got 0\.0"),
    ("energy NaN", given("hosvd", energy=float("nan")), ValueError, r"energy must be in \(0, 1\], got nan"),
    ("error 1", given("hosvd", error=1), ValueError, r"error must be in \[0, 1\), got 1"),
    ("error a word", given("hosvd", error="small"), TypeError, "error must be a number, got 'small'"),
    ("tucker tolerance", given("tucker", ranks=(1, 1), tolerance=1.0), ValueError, r"tolerance must be in \[0, 1\), got 1\.0"),
    ("tucker iterations", given("tucker", ranks=(1, 1), max_iterations=0), ValueError, "max_iterations must be at least 1, got 0"),
    # fits
    ("tolerance negative", given("cp", tolerance=-1e-3), ValueError, r"tolerance must be in \[0, 1\), got -0\.001"),
    ("tolerance a word", given("cp", tolerance="fine"), TypeError, "tolerance must be a number, got 'fine'"),
    ("tolerance that no float holds", given("cp", tolerance=10**400), ValueError, "tolerance must be a number that float64 holds"),
    ("negative tolerance that no float holds", given("cp", tolerance=-(10**400)), ValueError, "tolerance must be a number that float64 holds"),
    ("a mapping with a part twice", lambda: decompose(BilinearNetwork([LAYER]), {0: Eigen(), -1: Eigen()}), ValueError, r"the mapping names a part twice: \[0, -1\] of 1 parts"),
    ("a strategy that returns a number", lambda: decompose(LAYER, lambda layer: 3), TypeError, "returned int, not a TensorNetwork"),
    ("starts 0", given("cp", starts=0), ValueError, "starts must be at least 1, got 0"),
    ("seed negative", given("cp", seed=-1), ValueError, "seed must be at least 0, got -1"),
    ("iterations 0", given("cp", max_iterations=0), ValueError, "max_iterations must be at least 1, got 0"),
    # starts
    ("start of other inputs", given("cp", rank=2, start=OTHER), ValueError, "start has modes of sizes .*'in1': 6.* the layer .*'in1': 5"),
    ("start of other inputs symmetric_cp", given("symmetric_cp", rank=2, start=OTHER), ValueError, "start has modes of sizes .*'in1': 6.* the layer .*'in1': 5"),
    ("start of other inputs block_term", given("block_term", blocks=1, rank=2, start=OTHER), ValueError, "start has modes of sizes .*'in1': 6.* the layer .*'in1': 5"),
    ("start too large", given("cp", rank=1, start=CP2), ValueError, "start has 2 components, more than rank=1"),
    ("start a tensor", given("cp", rank=2, start=LAYER.down), TypeError, "start must be a result or a layer, got Tensor"),
    ("start not tied", given("symmetric_cp", rank=4, start=CP2), ValueError, "start of symmetric_cp must have equal left and right factors"),
    ("start of blocks", given("block_term", blocks=2, rank=2, start=CP2), TypeError, "start of block_term must be a SpectralResult, got CPResult"),
    ("start of more blocks", given("block_term", blocks=1, rank=2, start=BLOCKS), ValueError, r"start has blocks of ranks \[2, 2\], .* asked \[2\]"),
    ("start of larger blocks", given("block_term", blocks=2, rank=(2, 1), start=BLOCKS), ValueError, r"start has blocks of ranks \[2, 2\], .* asked \[2, 1\]"),
    # priors
    ("prior on a mode", lambda: Sparse("output"), ValueError, r"mode must be one of inputs, left, outputs, right; got 'output'; did you mean 'outputs'\?"),
    ("prior on no mode", lambda: NonNegative(None), ValueError, "mode must be one of inputs, left, outputs, right; got None"),
    ("strength negative", lambda: Sparse("outputs", -0.1), ValueError, r"strength must be at least 0, got -0\.1"),
    ("strength NaN", lambda: Sparse("outputs", float("nan")), ValueError, "strength must be finite"),
    ("strength a word", lambda: Smooth((2, 3), "much"), TypeError, "strength must be a number, got 'much'"),
    ("one prior", given("cp", rank=2, priors=Sparse("outputs")), TypeError, r"priors must be a list of Prior objects"),
    ("prior by name", given("cp", rank=2, priors=["sparse"]), TypeError, r"priors must be a list of Prior objects"),
    ("priors of a generator", given("cp", rank=2, priors=(p for p in [Sparse("outputs")])), TypeError, r"priors must be a list of Prior objects"),
    ("priors None", given("cp", rank=2, priors=None), TypeError, r"priors must be a list of Prior objects.*got None"),
    ("grid too large", given("cp", rank=2, priors=[Smooth((2, 3))]), ValueError, r"an image of shape \(2, 3\) has 6 pixels, but mode 'in' has size 5"),
    ("grid one short", given("cp", rank=2, priors=[Smooth((2, 2))]), ValueError, r"an image of shape \(2, 2\) has 4 pixels, but mode 'in' has size 5"),
    ("grid of a lifted layer", lambda: decompose(LIFTED, "cp", rank=2, priors=[Smooth((2, 3))]), ValueError, "has 6 pixels, but mode 'in' has size 5"),
    ("grid one number", lambda: Smooth(4), TypeError, r"shape must be a pair \(height, width\), got 4"),
    ("grid of no height", lambda: Smooth((0, 5)), ValueError, "height of shape must be at least 1, got 0"),
    ("grid of floats", lambda: Smooth((5.0, 1)), TypeError, r"height of shape must be a whole number, got 5\.0"),
    ("penalty NaN", given("cp", rank=2, priors=[NotANumber()]), ValueError, "not finite at the start: check the penalties"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), cases(TABLE))
def test_bad_options_are_clear_errors(call, kind, message):
    check(call, kind, message)


@pytest.mark.parametrize("options", [{"rank": 9}, {"rank": 2, "priors": [Smooth((9, 9))]}, {"rank": 2, "start": OTHER}])
def test_errors_come_before_work(options, monkeypatch):
    def work(*arguments, **keywords):
        raise AssertionError("worked before looking at the options")

    monkeypatch.setattr(torch.linalg, "eigh", work)
    monkeypatch.setattr(torch.linalg, "qr", work)
    layer = BilinearLayer(down=LAYER.down, left=LAYER.left, right=LAYER.right)
    with pytest.raises(ValueError, match=r"must be|pixels|sizes"):
        decompose(layer, "cp", **options)
