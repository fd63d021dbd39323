"""Bad input is a clear error where it enters: a table of calls, the kind of error and what the message says."""

import pytest
import torch
from bad_input import (
    DOWN,
    INF,
    LAYER,
    LEFT,
    LIFTED,
    NAN,
    RESULT,
    RIGHT,
    SQUARE,
    STACK,
    ZERO,
    X,
    cases,
    check,
    covariance,
    spoiled,
)
from helpers import layer_of, normal

from tensornet_interp import (
    BilinearLayer,
    BilinearNetwork,
    Moments,
    decompose,
    difference,
    inner,
    lift,
    norm,
    relative_error,
    similarity,
)
from tensornet_interp.decompositions import Eigen
from tensornet_interp.inner_products import Gaussian, Symmetric, Tree, similarity_by_output

ORIGIN, IDENTITY = torch.zeros(5, dtype=torch.float64), torch.eye(5, dtype=torch.float64)


def gaussian(covariance):
    return inner(LAYER, LAYER, kind=Gaussian(Moments(torch.zeros(5), covariance)))


def moments(mean=ORIGIN, covariance=IDENTITY, **about):
    return Moments(mean, covariance, **about)


DEAD = BilinearLayer(down=DOWN * torch.tensor([[1.0], [1.0], [0.0]]).double(), left=LEFT, right=RIGHT)


def make_with(**options):
    return BilinearLayer(down=DOWN, left=LEFT, right=RIGHT, **options)


DEEP = BilinearNetwork([SQUARE, SQUARE, LAYER])

TABLE = [
    # weights
    ("rank sizes", lambda: BilinearLayer(down=DOWN, left=LEFT, right=normal(5, 6)), ValueError, "mode 'rank' has size 4 in left but 6 in right"),
    ("down size", lambda: BilinearLayer(down=normal(3, 2), left=LEFT, right=RIGHT), ValueError, "mode 'rank' has size 4 in left but 2 in down"),
    ("in sizes", lambda: BilinearLayer(down=DOWN, left=LEFT, right=normal(6, 4)), ValueError, "mode 'in' has size 5 in left but 6 in right"),
    ("1 dimension", lambda: BilinearLayer(down=DOWN, left=LEFT[0], right=RIGHT), ValueError, r"left must have 2 dimensions \('in', 'rank'\), got shape \(4,\)"),
    ("3 dimensions", lambda: BilinearLayer(down=DOWN[None], left=LEFT, right=RIGHT), ValueError, r"down must have 2 dimensions .*\(1, 3, 4\)"),
    ("integer weights", lambda: BilinearLayer(down=DOWN.long(), left=LEFT, right=RIGHT), TypeError, r"down must be real floating point, got torch\.int64"),
    ("complex weights", lambda: BilinearLayer(down=DOWN, left=LEFT + 0j, right=RIGHT), TypeError, r"left must be real floating point, got torch\.complex128"),
    ("boolean weights", lambda: BilinearLayer(down=DOWN, left=LEFT, right=RIGHT > 0), TypeError, r"right must be real floating point, got torch\.bool"),
    ("lists", lambda: BilinearLayer(down=DOWN.tolist(), left=LEFT, right=RIGHT), TypeError, r"down must be a torch\.Tensor, got list"),
    ("numpy", lambda: BilinearLayer(down=DOWN, left=LEFT.numpy(), right=RIGHT), TypeError, r"left must be a torch\.Tensor, got ndarray"),
    ("NaN", lambda: BilinearLayer(down=DOWN, left=spoiled(NAN), right=RIGHT), ValueError, "left has 1 entries that are NaN or infinite"),
    ("infinity", lambda: BilinearLayer(down=DOWN, left=LEFT, right=spoiled(-INF)), ValueError, "right has 1 entries that are NaN or infinite"),
    ("no hidden units", lambda: BilinearLayer(down=DOWN[:, :0], left=LEFT[:, :0], right=RIGHT[:, :0]), ValueError, r"down is empty: shape \(3, 0\)"),
    ("dtypes", lambda: BilinearLayer(down=DOWN, left=LEFT.float(), right=RIGHT), ValueError, r"share one dtype; got down torch\.float64, left torch\.float32"),
    ("devices", lambda: BilinearLayer(down=DOWN, left=LEFT.to("meta"), right=RIGHT), ValueError, "share one device; got down cpu, left meta, right cpu"),
    ("from_weights list", lambda: BilinearLayer.from_weights(left=[[1.0]], right=LEFT.T, down=DOWN), TypeError, "left must be a torch.Tensor, got list"),
    ("from_weights sizes", lambda: BilinearLayer.from_weights(left=LEFT, right=RIGHT, down=DOWN), ValueError, "mode 'rank' has size 5 in left but 4 in down"),
    ("from_weights 1 dimension", lambda: BilinearLayer.from_weights(left=LEFT.T, right=RIGHT[0], down=DOWN), ValueError, "right must have 2 dimensions"),
    ("from_tensor matrix", lambda: BilinearLayer.from_tensor(DOWN), ValueError, r"tensor must have 3 dimensions .*\(3, 4\)"),
    ("from_tensor sizes", lambda: BilinearLayer.from_tensor(normal(3, 4, 5)), ValueError, "mode 'in' has size 4 in in1 but 5 in in2"),
    ("from_cp a list", lambda: BilinearLayer.from_cp((None, [DOWN, LEFT.tolist(), RIGHT])), TypeError, "left must be a .*Tensor"),
    ("from_cp two factors", lambda: BilinearLayer.from_cp((None, [DOWN, LEFT])), ValueError, "3 factors .* got 2"),
    ("from_cp weights size", lambda: BilinearLayer.from_cp((normal(6), [DOWN, LEFT, RIGHT])), ValueError, "mode 'rank' has size .*weights"),
    ("from_cp weights of one", lambda: BilinearLayer.from_cp((normal(1), [DOWN, LEFT, RIGHT])), ValueError, "mode 'rank' has size .*weights"),
    # inputs
    ("x size", lambda: LAYER(normal(2, 6)), ValueError, "mode 'in' has size 5 in the layer but 6 in x1$"),
    ("x2 size", lambda: LAYER(X, normal(2, 6)), ValueError, "mode 'in' has size 5 in the layer but 6 in x2"),
    ("x with the constant", lambda: LIFTED(normal(2, 6)), ValueError, "size 5 .* but 6 in x1 .*the call adds the constant coordinate of a lifted layer"),
    ("x of a network", lambda: STACK(normal(2, 6)), ValueError, "mode 'in' has size 5 in the layer but 6 in x"),
    ("empty batch", lambda: LAYER(X[:0]), ValueError, r"x1 is empty: shape \(0, 5\)"),
    ("empty batch, network", lambda: STACK(X[:0]), ValueError, r"x is empty: shape \(0, 5\)"),
    ("empty batch, contributions", lambda: RESULT.contributions(X[:0]), ValueError, "x1 is empty"),
    ("empty batch, activations", lambda: RESULT.activations(X[:0]), ValueError, "x is empty"),
    ("integer x", lambda: LAYER(torch.ones(2, 5, dtype=torch.int64)), TypeError, r"x1 must be real floating point, got torch\.int64"),
    ("integer x2", lambda: LAYER(X, X.int()), TypeError, r"x2 must be real floating point, got torch\.int32"),
    ("x of a list", lambda: LAYER([1.0] * 5), TypeError, "x1 must be a tensor .*got list"),
    ("x scalar", lambda: LAYER(X[0, 0]), TypeError, "x1 must be a tensor"),
    ("x dtype", lambda: LAYER(X.float()), ValueError, r"share one dtype; got layer torch\.float64, x1 torch\.float32"),
    ("x device", lambda: LAYER(X.to("meta")), ValueError, "share one device; got layer cpu, x1 meta"),
    ("x device, result", lambda: RESULT(X.to("meta")), ValueError, "share one device; got layer cpu, x1 meta"),
    ("direction size", lambda: LAYER.interaction_matrix(normal(4)), ValueError, "mode 'out' has size 3 in layer but 4 in direction"),
    ("direction list", lambda: LAYER.interaction_matrix([1.0, 0.0, 0.0]), TypeError, "direction must be a tensor"),
    ("direction integer", lambda: LAYER.interaction_matrix(torch.ones(3, dtype=torch.int64)), TypeError, "direction must be real floating point"),
    ("direction NaN", lambda: LAYER.interaction_matrix(DOWN[:, 0] * NAN), ValueError, "direction has 3 entries that are NaN"),
    # change of basis, lift, network
    ("history one text", lambda: make_with(history="scaled"), TypeError, "history must be a sequence of texts, .* got 'scaled'"),
    ("history of a number", lambda: make_with(history=(1,)), TypeError, "history must be a sequence of texts"),
    ("constant in a number", lambda: make_with(constant_in=1), TypeError, "constant_in must be True or False, got 1"),
    ("constant out a text", lambda: make_with(constant_out="False"), TypeError, "constant_out must be True or False, got 'False'"),
    ("name None", lambda: make_with(name=None), TypeError, "name must be a text, got None"),
    ("basis empty", lambda: make_with(basis=" "), ValueError, "basis must say something, got ' '"),
    ("basis None", lambda: make_with(basis=None), TypeError, "basis must be a text, got None"),
    ("basis of the outputs", lambda: LAYER.change_basis(outputs=normal(2, 3), basis="x"), ValueError, "basis='x' names the coordinates of new inputs"),
    ("basis size", lambda: LAYER.change_basis(inputs=normal(6, 2)), ValueError, "mode 'in' has size 5 in layer but 6 in inputs"),
    ("basis size, lifted", lambda: LIFTED.change_basis(inputs=normal(6, 2)), ValueError, "mode 'in' has size 5 in layer but 6 in inputs"),
    ("output basis size", lambda: LAYER.change_basis(outputs=normal(2, 4)), ValueError, "mode 'out' has size 3 in layer but 4 in outputs"),
    ("basis dtype", lambda: LAYER.change_basis(inputs=normal(5, 2).float()), ValueError, "share one dtype.*inputs"),
    ("bias not lifted", lambda: LAYER.change_basis(input_bias=normal(5)), ValueError, r"input_bias needs a lifted layer.*lift\(\)"),
    ("output bias not lifted", lambda: LAYER.change_basis(output_bias=normal(3)), ValueError, "output_bias needs a lifted layer"),
    ("bias of basis, size", lambda: LIFTED.change_basis(normal(5, 2), input_bias=normal(4)), ValueError, "has size 5 in inputs but 4 in input_bias"),
    ("lifted twice", lambda: lift(LIFTED), ValueError, "the layer is lifted already"),
    ("bias size", lambda: lift(LAYER, bias=normal(4)), ValueError, "mode 'out' has size 3 in layer but 4 in bias"),
    ("left bias size", lambda: lift(LAYER, left_bias=normal(3)), ValueError, "mode 'rank' has size 4 in layer but 3 in left_bias"),
    ("bias dimensions", lambda: lift(LAYER, right_bias=normal(4, 1)), ValueError, "right_bias must have 1 dimensions"),
    ("bias dtype", lambda: lift(LAYER, bias=normal(3).float()), ValueError, "share one dtype.*bias"),
    ("bias list", lambda: lift(LAYER, bias=[1.0, 2.0, 3.0]), TypeError, r"bias must be a torch\.Tensor, got list"),
    ("residual sizes", lambda: lift(LAYER, residual=1.0), ValueError, "as many outputs as inputs, got out=3 and in=5"),
    ("residual boolean", lambda: lift(SQUARE, residual=True), TypeError, "residual must be a number, got True"),
    ("residual tensor", lambda: lift(SQUARE, residual=X[0, 0]), TypeError, "residual must be a number"),
    ("residual NaN", lambda: lift(SQUARE, residual=NAN), (TypeError, ValueError), "residual must be .*nan"),
    ("residual infinite", lambda: lift(SQUARE, residual=INF), (TypeError, ValueError), "residual must be .*inf"),
    ("no parts", lambda: BilinearNetwork([]), ValueError, "at least one part"),
    ("parts do not meet", lambda: BilinearNetwork([LAYER, LAYER]), ValueError, "part 0 has 3 outputs but part 1 takes 5 inputs"),
    ("one part lifted", lambda: BilinearNetwork([lift(SQUARE), LAYER]), ValueError, "part 0 has the constant .* part 1 does not take; lift every layer or none"),
    ("other part lifted", lambda: BilinearNetwork([SQUARE, LIFTED]), ValueError, "part 0 lacks the constant .* part 1 expects"),
    ("part dtype", lambda: BilinearNetwork([SQUARE, LAYER.to(dtype=torch.float32)]), ValueError, "share one dtype; got part 0 .*part 1"),
    ("part is a tensor", lambda: BilinearNetwork([DOWN]), TypeError, "part 0 must be a layer, a decomposition of one or a network, got Tensor"),
    ("no such part", lambda: STACK[2], ValueError, "part must be from -2 to 1, got 2"),
    ("replace no such part", lambda: STACK.replace(-3, LAYER), ValueError, "part must be from -2 to 1, got -3"),
    ("replace with another size", lambda: STACK.replace(0, LAYER), ValueError, "part 0 has 3 outputs but part 1 takes 5"),
    # decompose
    ("rank 0", lambda: decompose(LAYER, "eigen", rank=0), ValueError, "rank must be at least 1, got 0"),
    ("rank negative", lambda: decompose(LAYER, "eigen", rank=-2), ValueError, "rank must be at least 1, got -2"),
    ("rank float", lambda: decompose(LAYER, "eigen", rank=2.0), TypeError, r"rank must be a whole number, got 2\.0 \(float\)"),
    ("rank string", lambda: decompose(LAYER, "eigen", rank="2"), TypeError, r"rank must be a whole number, got '2' \(str\)"),
    ("rank boolean", lambda: decompose(LAYER, "eigen", rank=True), TypeError, r"rank must be a whole number, got True \(bool\)"),
    ("rank too large", lambda: decompose(LAYER, "eigen", rank=6), ValueError, r"rank must be from 1 to 5 \(min\(in=5, 2 hidden=8\)\), got 6"),
    ("truncate too large", lambda: RESULT.truncate(6), ValueError, "rank must be from 1 to 5, got 6"),
    ("truncate 0", lambda: RESULT.truncate(0), ValueError, "rank must be from 1 to 5, got 0"),
    ("keep, mask size", lambda: RESULT.keep(torch.ones(3, 4) > 0), ValueError, r"mask must be boolean of shape \(3, 5\)"),
    ("keep, integer mask", lambda: RESULT.keep(torch.ones(3, 5)), TypeError, r"mask must be a boolean tensor \(block, rank\), got torch\.float32"),
    ("keep, list", lambda: RESULT.keep([True]), TypeError, r"mask must be a (torch\.|boolean )?[Tt]ensor"),
    ("group of no block", lambda: RESULT.groups(3), ValueError, "block must be from 0 to 2, got 3"),
    ("unknown method", lambda: decompose(LAYER, "eigne"), ValueError, r"no decomposition named 'eigne'; available: .*eigen.*; did you mean 'eigen'\?"),
    ("unknown option", lambda: decompose(LAYER, "eigen", rnak=2), TypeError, r"'eigen' has no option 'rnak'; it has: directions, rank; did you mean 'rank'\?"),
    ("class for object", lambda: decompose(LAYER, Eigen), TypeError, "method must be a registered name or a decomposition object, got <class"),
    ("number for method", lambda: decompose(LAYER, 3), TypeError, "method must be a registered name or a decomposition object, got 3"),
    ("None for method", lambda: decompose(LAYER, None), TypeError, "method must be a registered name or a decomposition object, got None"),
    ("options with object", lambda: decompose(LAYER, Eigen(), rank=2), ValueError, r"options \['rank'\] go with a name"),
    ("mapping on a layer", lambda: decompose(LAYER, {0: "eigen"}), TypeError, "a mapping of methods needs a BilinearNetwork"),
    ("mapping, options", lambda: decompose(STACK, {0: "eigen"}, rank=2), ValueError, r"options \['rank'\] with a mapping"),
    ("mapping, no such part", lambda: decompose(STACK, {2: "eigen"}), ValueError, "part must be from -2 to 1, got 2"),
    ("mapping, unknown method", lambda: decompose(STACK, {0: "eigne"}), ValueError, "no decomposition named 'eigne'"),
    ("decompose a tensor", lambda: decompose(DOWN, "eigen"), TypeError, "part must be a layer, a decomposition of one or a network, got Tensor"),
    ("directions size", lambda: decompose(LAYER, "eigen", directions=normal(2, 4)), ValueError, "mode 'out' has size 3 in layer but 4 in directions"),
    ("directions dimensions", lambda: decompose(LAYER, "eigen", directions=normal(3)), ValueError, "directions must have 2 dimensions"),
    ("directions NaN", lambda: Eigen(directions=normal(2, 3) * NAN), ValueError, "directions has 6 entries that are NaN"),
    ("directions integer", lambda: Eigen(directions=torch.eye(3).int()), TypeError, "directions must be real floating point"),
    ("directions list", lambda: Eigen(directions=[[1.0, 0.0, 0.0]]), TypeError, r"directions must be a torch\.Tensor, got list"),
    ("directions dtype", lambda: decompose(LAYER, "eigen", directions=normal(2, 3).float()), ValueError, "share one dtype.*directions"),
    # inner products
    ("unknown kind", lambda: inner(LAYER, LAYER, kind="gausian"), ValueError, r"kind must be one of gaussian, symmetric, tree; got 'gausian'; did you mean 'gaussian'\?"),
    ("unknown kind, similarity", lambda: similarity_by_output([LAYER], kind="simmetric"), ValueError, "got 'simmetric'; did you mean 'symmetric'"),
    ("kind None", lambda: inner(LAYER, LAYER, kind=None), TypeError, r"kind must be Tree\(\), Symmetric\(\.\.\.\), Gaussian\(\.\.\.\) or a name \(tree, symmetric, gaussian\), got None"),
    ("kind a class", lambda: inner(LAYER, LAYER, kind=Symmetric), TypeError, r"got the class Symmetric; add \(\)"),
    ("moments as kind", lambda: inner(LAYER, LAYER, kind=Moments.standard(5)), TypeError, r"kind must be Tree\(\), .* got Moments\(in=5"),
    ("unknown method of a kind", lambda: Gaussian(method="sample"), ValueError, r"method must be one of auto, closure, exact, sampled; got 'sample'; did you mean 'sampled'\?"),
    ("method of tree", lambda: Tree(method="sampled"), TypeError, "unexpected keyword argument 'method'"),
    ("samples of tree", lambda: Tree(samples=3), TypeError, "unexpected keyword argument 'samples'"),
    ("samples beside a kind", lambda: inner(LAYER, LAYER, kind="tree", samples=3), TypeError, "unexpected keyword argument 'samples'"),
    ("moments of symmetric", lambda: Symmetric(moments=Moments.standard(5)), TypeError, "unexpected keyword argument 'moments'"),
    ("moments beside a kind", lambda: similarity(LAYER, LAYER, kind="gaussian", moments=Moments.standard(5)), TypeError, "unexpected keyword argument 'moments'"),
    ("per output by a flag", lambda: inner(LAYER, LAYER, per_output=True), TypeError, "unexpected keyword argument 'per_output'"),
    ("closure of symmetric", lambda: Symmetric(method="closure"), ValueError, "method must be one of auto, exact, sampled; got 'closure'"),
    ("exact symmetric, deep", lambda: inner(DEEP, DEEP, kind=Symmetric("exact")), ValueError, "no exact 'symmetric' product is known beyond two layers, and these networks have 3 layers; use an estimate: method='sampled'"),
    ("exact gaussian, deep", lambda: similarity([DEEP], kind=Gaussian(method="exact")), ValueError, "beyond two layers, and these networks have 3 layers; use an estimate: method='closure' or 'sampled'"),
    ("samples 1", lambda: Symmetric(samples=1), ValueError, r"samples must be at least 2 \(a standard error needs two\), got 1"),
    ("samples float", lambda: Symmetric(samples=1e4), TypeError, r"samples must be a whole number, got 10000\.0"),
    ("seed negative", lambda: Gaussian(seed=-1), ValueError, "seed must be at least 0, got -1"),
    ("progress None", lambda: similarity(LAYER, LAYER, progress=None), TypeError, "progress must be True or False, got None"),
    ("similarity of one", lambda: similarity(LAYER), TypeError, "similarity takes two networks, or one list of them; got one BilinearLayer"),
    ("similarity of a list and one", lambda: similarity([LAYER], LAYER), TypeError, "two networks, or one list of them; got list and a second"),
    ("similarity of none", lambda: similarity([]), ValueError, "similarity of an empty list"),
    ("similarity of a word", lambda: similarity("layers"), TypeError, "got one str"),
    ("similarity with a tensor", lambda: similarity([LAYER, DOWN]), TypeError, "1 must be a layer, a decomposition of one or a network, got Tensor"),
    ("depths in a list", lambda: similarity([LAYER, LAYER, STACK]), ValueError, "networks must have the same depth, got 1 and 2 layers"),
    ("inputs in a list", lambda: similarity([LAYER, LAYER, layer_of(3, 6, 4)]), ValueError, "mode 'in' has size 5 in 0 but 6 in 2"),
    ("one of a list lifted", lambda: similarity([LAYER, lift(layer_of(3, 4, 4))]), ValueError, "only one of the two has a constant coordinate in mode 'in'; lift both or neither"),
    # moments of inputs
    ("moments of another size", lambda: inner(LAYER, LAYER, kind=Gaussian(Moments.standard(4))), ValueError, "mode 'in' has size 5 in network but 4 in moments"),
    ("moments with the constant", lambda: inner(LIFTED, LIFTED, kind=Gaussian(Moments.standard(6))), ValueError, "mode 'in' has size 5 in network but 6 in moments"),
    ("moments on another device", lambda: inner(LAYER, LAYER, kind=Gaussian(Moments.standard(5).to("meta"))), ValueError, "share one device; got network cpu, moments meta"),
    ("mean as moments", lambda: Gaussian(ORIGIN), TypeError, r"moments must be a Moments object, got Tensor; make one with Moments\(mean, covariance\), Moments.of\(x\)"),
    ("a pair as moments", lambda: Gaussian((ORIGIN, covariance())), TypeError, "moments must be a Moments object, got tuple"),
    ("mean NaN", lambda: moments(ORIGIN * NAN), ValueError, "mean has 5 entries that are NaN"),
    ("mean a matrix", lambda: moments(X), ValueError, "mean must have 1 dimensions"),
    ("mean and covariance", lambda: moments(normal(4)), ValueError, "mode 'in' has size 4 in mean but 5 in covariance"),
    ("mean on another device", lambda: moments(ORIGIN.to("meta")), ValueError, "share one device; got mean meta, covariance cpu"),
    ("covariance not PSD", lambda: moments(covariance=covariance(_22=-0.5)), ValueError, "covariance must be positive semidefinite, its lowest eigenvalue is -5.000e-01"),
    ("covariance negative", lambda: moments(covariance=-covariance()), ValueError, "covariance must be positive semidefinite"),
    ("covariance asymmetric", lambda: moments(covariance=covariance(_01=0.5)), ValueError, "covariance must be symmetric, entries differ from their mirror image by 5.000e-01"),
    ("covariance infinite", lambda: moments(covariance=INF * covariance()), ValueError, "covariance has 25 entries that are NaN or infinite"),
    ("covariance not square", lambda: moments(covariance=normal(5, 4)), ValueError, "mode 'in' has size 5 in mean but 4 in covariance"),
    ("covariance a vector", lambda: moments(covariance=normal(5)), ValueError, "covariance must have 2 dimensions"),
    ("covariance integer", lambda: moments(covariance=torch.eye(5).int()), TypeError, "covariance must be real floating point"),
    ("count 0", lambda: moments(count=0), ValueError, "count must be at least 1, got 0"),
    ("note None", lambda: moments(note=None), TypeError, "note must be a text, got None"),
    ("moments of one input", lambda: Moments.of(X[:1]), ValueError, "a covariance needs at least 2 inputs, got 1"),
    ("moments of a vector", lambda: Moments.of(X[0]), ValueError, "x must have 2 dimensions"),
    ("moments of NaN", lambda: Moments.of(X * NAN), ValueError, "x has 2 rows with NaN or infinite entries, the first is row 0"),
    ("moments of integers", lambda: Moments.of(X.long()), TypeError, "x must be real floating point"),
    ("standard moments of nothing", lambda: Moments.standard(0), ValueError, "size must be at least 1, got 0"),
    ("depths", lambda: inner(STACK, LAYER), ValueError, "networks must have the same depth, got 2 and 1 layers"),
    ("inputs differ", lambda: inner(LAYER, layer_of(3, 6, 4)), ValueError, "mode 'in' has size 5 in a but 6 in b"),
    ("outputs differ", lambda: inner(LAYER, layer_of(4, 5, 4)), ValueError, "mode 'out' has size 3 in a but 4 in b"),
    ("one is lifted", lambda: inner(lift(layer_of(3, 4, 4)), LAYER), ValueError, "only one of the two has a constant coordinate in mode 'in'; lift both or neither"),
    ("inner of a tensor", lambda: inner(LAYER, DOWN), TypeError, "b must be a layer, a decomposition of one or a network, got Tensor"),
    ("similarity of zero", lambda: similarity(LAYER, ZERO), ValueError, "similarity is undefined: network b is zero"),
    ("error to zero", lambda: relative_error(LAYER, ZERO), ValueError, "relative error is undefined: the reference is zero"),
    ("norm of a network", lambda: norm(STACK), ValueError, "a network of 2 parts is no single layer; take its parts one by one"),
    ("dead output", lambda: similarity_by_output([LAYER, DEAD]), ValueError, "the similarity is undefined: network 1 is zero in output 2"),
    ("error of networks", lambda: relative_error(STACK, STACK), ValueError, "a network of 2 parts is no single layer"),
    ("difference of sizes", lambda: difference(LAYER, layer_of(3, 6, 4)), ValueError, "mode 'in' has size 5 in before but 6 in after"),
    ("difference of dtypes", lambda: difference(LAYER, LAYER.to(dtype=torch.float32)), ValueError, "share one dtype; got before .*after"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), cases(TABLE))
def test_bad_input_is_a_clear_error(call, kind, message):
    check(call, kind, message)


def rotated(dtype):
    basis, _ = torch.linalg.qr(normal(5, 5))
    return (basis @ torch.eye(5, dtype=torch.float64) @ basis.T).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("samples", [3, 50])
def test_a_covariance_estimated_from_data_is_accepted(samples, dtype):
    """Rounding is not bad input: singular where samples < in, symmetric and semidefinite to the dtype's precision."""
    x = normal(samples, 5).to(dtype)
    value = float(gaussian(x.T @ x / samples))
    wide = x.double()
    assert value == pytest.approx(float(gaussian(wide.T @ wide / samples)), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_covariance_that_is_symmetric_up_to_rounding_is_accepted(dtype):
    wobbly = rotated(dtype)
    wobbly[0, 1] += torch.finfo(dtype).eps
    assert float(gaussian(wobbly)) == pytest.approx(float(inner(LAYER, LAYER, kind="gaussian")), rel=1e-5)
