"""Bad input is a clear error where it enters: a table of calls, the kind of error and what the message says."""

import re

import pytest
import torch

from tensornet_interp import (
    BilinearLayer,
    BilinearNetwork,
    contract,
    decompose,
    difference,
    inner,
    lift,
    odt,
    plan,
    relative_error,
    similarity,
)
from tensornet_interp.checkpoints import load_config, load_layer, save_layer
from tensornet_interp.circuit import circuit
from tensornet_interp.contraction import Term
from tensornet_interp.decompositions.eigen import Eigen
from tensornet_interp.dictionaries import Dictionary, between, load_dictionary
from tensornet_interp.features import (
    feature_interactions,
    label_directions,
    low_rank_correlation,
    overlap,
    projections,
    rank_by_structure,
)
from tensornet_interp.plots import (
    bond_curves,
    bond_spectra,
    correlation_by_rank,
    draw_circuit,
    draw_network,
    eigenvector_plane,
    interaction_submatrix,
    similarity_matrix,
)
from tensornet_interp.queries import evaluation, expansion, interaction_tensor, order_weights, project
from tensornet_interp.spectra import spectra


def tensor(*size, seed=0, dtype=torch.float64):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make(out=3, size=5, rank=4, seed=0):
    return BilinearLayer(tensor(out, rank, seed=seed), tensor(size, rank, seed=seed + 1), tensor(size, rank, seed=9))


def spoiled(value):
    bad = tensor(5, 4)
    bad[1, 2] = value
    return bad


def covariance(**entries):
    matrix = torch.eye(5, dtype=torch.float64)
    for place, value in entries.items():
        matrix[int(place[1]), int(place[2])] = value
    return matrix


def interactions(**options):
    given = {"layer": LAYER, "direction": U, "decoder": tensor(5, 6), "space": "inputs in x"} | options
    return feature_interactions(given.pop("layer"), given.pop("direction"), given.pop("decoder"), **given)


def correlations(**options):
    return low_rank_correlation(LAYER, U[None], X, **({"ks": (1,), "space": "inputs in x"} | options))


def gaussian(**options):
    return inner(LAYER, LAYER, kind="gaussian", **options)


DOWN, LEFT, RIGHT = tensor(3, 4), tensor(5, 4, seed=1), tensor(5, 4, seed=2)
LAYER = BilinearLayer(DOWN, LEFT, RIGHT, name="layer 0")
LIFTED = lift(LAYER)
SQUARE = make(out=5)
ZERO = BilinearLayer(0 * DOWN, LEFT, RIGHT)
STACK = BilinearNetwork([SQUARE, LAYER])
DEEP = BilinearNetwork([SQUARE, SQUARE, LAYER])
RESULT = Eigen()(LAYER)
DICTIONARY = Dictionary(tensor(7, 5), tensor(5, 7))
BONDS = odt(STACK)
X = tensor(2, 5)
U = tensor(3)
FEATURES = feature_interactions(LAYER, U, tensor(5, 6), space="inputs in x")
CIRCUIT = circuit(STACK, U, widths=2)
NAN, INF = float("nan"), float("inf")

TABLE = [
    # weights
    ("rank sizes", lambda: BilinearLayer(DOWN, LEFT, tensor(5, 6)), ValueError, "mode 'rank' has size 4 in left but 6 in right"),
    ("down size", lambda: BilinearLayer(tensor(3, 2), LEFT, RIGHT), ValueError, "mode 'rank' has size 4 in left but 2 in down"),
    ("in sizes", lambda: BilinearLayer(DOWN, LEFT, tensor(6, 4)), ValueError, "mode 'in' has size 5 in left but 6 in right"),
    ("1 dimension", lambda: BilinearLayer(DOWN, LEFT[0], RIGHT), ValueError, r"left must have 2 dimensions \('in', 'rank'\), got shape \(4,\)"),
    ("3 dimensions", lambda: BilinearLayer(DOWN[None], LEFT, RIGHT), ValueError, r"down must have 2 dimensions .*\(1, 3, 4\)"),
    ("integer weights", lambda: BilinearLayer(DOWN.long(), LEFT, RIGHT), TypeError, r"down must be real floating point, got torch\.int64"),
    ("complex weights", lambda: BilinearLayer(DOWN, LEFT + 0j, RIGHT), TypeError, r"left must be real floating point, got torch\.complex128"),
    ("boolean weights", lambda: BilinearLayer(DOWN, LEFT, RIGHT > 0), TypeError, r"right must be real floating point, got torch\.bool"),
    ("lists", lambda: BilinearLayer(DOWN.tolist(), LEFT, RIGHT), TypeError, r"down must be a torch\.Tensor, got list"),
    ("numpy", lambda: BilinearLayer(DOWN, LEFT.numpy(), RIGHT), TypeError, r"left must be a torch\.Tensor, got ndarray"),
    ("NaN", lambda: BilinearLayer(DOWN, spoiled(NAN), RIGHT), ValueError, "left has 1 entries that are NaN or infinite"),
    ("infinity", lambda: BilinearLayer(DOWN, LEFT, spoiled(-INF)), ValueError, "right has 1 entries that are NaN or infinite"),
    ("no hidden units", lambda: BilinearLayer(DOWN[:, :0], LEFT[:, :0], RIGHT[:, :0]), ValueError, r"down is empty: shape \(3, 0\)"),
    ("dtypes", lambda: BilinearLayer(DOWN, LEFT.float(), RIGHT), ValueError, r"share one dtype; got down torch\.float64, left torch\.float32"),
    ("devices", lambda: BilinearLayer(DOWN, LEFT.to("meta"), RIGHT), ValueError, "share one device; got down cpu, left meta, right cpu"),
    ("from_weights list", lambda: BilinearLayer.from_weights(left=[[1.0]], right=LEFT.T, down=DOWN), TypeError, "left must be a torch.Tensor, got list"),
    ("from_weights sizes", lambda: BilinearLayer.from_weights(left=LEFT, right=RIGHT, down=DOWN), ValueError, "mode 'rank' has size 5 in left but 4 in down"),
    ("from_weights 1 dimension", lambda: BilinearLayer.from_weights(left=LEFT.T, right=RIGHT[0], down=DOWN), ValueError, "right must have 2 dimensions"),
    ("from_tensor matrix", lambda: BilinearLayer.from_tensor(DOWN), ValueError, r"tensor must have 3 dimensions .*\(3, 4\)"),
    ("from_tensor sizes", lambda: BilinearLayer.from_tensor(tensor(3, 4, 5)), ValueError, "mode 'in' has size 4 in in1 but 5 in in2"),
    ("from_cp two factors", lambda: BilinearLayer.from_cp((None, [DOWN, LEFT])), ValueError, "3 factors .* got 2"),
    ("from_cp weights size", lambda: BilinearLayer.from_cp((tensor(6), [DOWN, LEFT, RIGHT])), ValueError, "mode 'rank' has size .*weights"),
    ("from_cp weights of one", lambda: BilinearLayer.from_cp((tensor(1), [DOWN, LEFT, RIGHT])), ValueError, "mode 'rank' has size .*weights"),
    # inputs
    ("x size", lambda: LAYER(tensor(2, 6)), ValueError, "mode 'in' has size 5 in the layer but 6 in x1$"),
    ("x2 size", lambda: LAYER(X, tensor(2, 6)), ValueError, "mode 'in' has size 5 in the layer but 6 in x2"),
    ("x with the constant", lambda: LIFTED(tensor(2, 6)), ValueError, "size 5 .* but 6 in x1 .*constant coordinate of a lifted layer is added by the call"),
    ("x of a network", lambda: STACK(tensor(2, 6)), ValueError, "mode 'in' has size 5 in the layer but 6 in x"),
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
    ("direction size", lambda: LAYER.interaction_matrix(tensor(4)), ValueError, "mode 'out' has size 3 in layer but 4 in direction"),
    ("direction list", lambda: LAYER.interaction_matrix([1.0, 0.0, 0.0]), TypeError, "direction must be a tensor"),
    ("direction integer", lambda: LAYER.interaction_matrix(torch.ones(3, dtype=torch.int64)), TypeError, "direction must be real floating point"),
    ("direction NaN", lambda: LAYER.interaction_matrix(DOWN[:, 0] * NAN), ValueError, "direction has 3 entries that are NaN"),
    # change of basis, lift, network
    ("basis size", lambda: LAYER.change_basis(inputs=tensor(6, 2)), ValueError, "mode 'in' has size 5 in layer but 6 in inputs"),
    ("basis size, lifted", lambda: LIFTED.change_basis(inputs=tensor(6, 2)), ValueError, "mode 'in' has size 5 in layer but 6 in inputs"),
    ("output basis size", lambda: LAYER.change_basis(outputs=tensor(2, 4)), ValueError, "mode 'out' has size 3 in layer but 4 in outputs"),
    ("basis dtype", lambda: LAYER.change_basis(inputs=tensor(5, 2).float()), ValueError, "share one dtype.*inputs"),
    ("bias not lifted", lambda: LAYER.change_basis(input_bias=tensor(5)), ValueError, r"input_bias needs a lifted layer.*lift\(\)"),
    ("output bias not lifted", lambda: LAYER.change_basis(output_bias=tensor(3)), ValueError, "output_bias needs a lifted layer"),
    ("bias of basis, size", lambda: LIFTED.change_basis(tensor(5, 2), input_bias=tensor(4)), ValueError, "has size 5 in inputs but 4 in input_bias"),
    ("lifted twice", lambda: lift(LIFTED), ValueError, "the layer is lifted already"),
    ("bias size", lambda: lift(LAYER, bias=tensor(4)), ValueError, "mode 'out' has size 3 in layer but 4 in bias"),
    ("left bias size", lambda: lift(LAYER, left_bias=tensor(3)), ValueError, "mode 'rank' has size 4 in layer but 3 in left_bias"),
    ("bias dimensions", lambda: lift(LAYER, right_bias=tensor(4, 1)), ValueError, "right_bias must have 1 dimensions"),
    ("bias dtype", lambda: lift(LAYER, bias=tensor(3).float()), ValueError, "share one dtype.*bias"),
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
    ("part is a tensor", lambda: BilinearNetwork([DOWN]), TypeError, "part 0 is a Tensor, not a layer or a decomposition of one"),
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
    ("keep, integer mask", lambda: RESULT.keep(torch.ones(3, 5)), ValueError, r"mask must be boolean of shape \(3, 5\)"),
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
    ("decompose a tensor", lambda: decompose(DOWN, "eigen"), TypeError, "expected a BilinearLayer .* got Tensor"),
    ("directions size", lambda: decompose(LAYER, "eigen", directions=tensor(2, 4)), ValueError, "mode 'out' has size 3 in layer but 4 in directions"),
    ("directions dimensions", lambda: decompose(LAYER, "eigen", directions=tensor(3)), ValueError, "directions must have 2 dimensions"),
    ("directions NaN", lambda: Eigen(directions=tensor(2, 3) * NAN), ValueError, "directions has 6 entries that are NaN"),
    ("directions integer", lambda: Eigen(directions=torch.eye(3).int()), TypeError, "directions must be real floating point"),
    ("directions list", lambda: Eigen(directions=[[1.0, 0.0, 0.0]]), TypeError, r"directions must be a torch\.Tensor, got list"),
    ("directions dtype", lambda: decompose(LAYER, "eigen", directions=tensor(2, 3).float()), ValueError, "share one dtype.*directions"),
    # inner products
    ("unknown kind", lambda: inner(LAYER, LAYER, kind="gausian"), ValueError, r"kind must be one of gaussian, symmetric, tree; got 'gausian'; did you mean 'gaussian'\?"),
    ("unknown method of a kind", lambda: inner(LAYER, LAYER, method="sample"), ValueError, r"method must be one of auto, closure, exact, sampled; got 'sample'; did you mean 'sampled'\?"),
    ("sampled tree", lambda: inner(LAYER, LAYER, method="sampled"), ValueError, "kind 'tree' has no method 'sampled'; use one of auto, exact"),
    ("closure of symmetric", lambda: similarity(LAYER, LAYER, kind="symmetric", method="closure"), ValueError, "kind 'symmetric' has no method 'closure'; use one of auto, exact, sampled"),
    ("exact symmetric, deep", lambda: inner(DEEP, DEEP, kind="symmetric", method="exact"), ValueError, "no exact 'symmetric' product is known beyond two layers, these networks have 3: use the estimate method='sampled'"),
    ("exact gaussian, deep", lambda: similarity([DEEP], kind="gaussian", method="exact"), ValueError, "beyond two layers, these networks have 3: use the estimate method='closure' or 'sampled'"),
    ("samples 1", lambda: inner(LAYER, LAYER, kind="symmetric", samples=1), ValueError, r"samples must be at least 2 \(a standard error needs two\), got 1"),
    ("samples float", lambda: inner(LAYER, LAYER, kind="symmetric", samples=1e4), TypeError, r"samples must be a whole number, got 10000\.0"),
    ("seed negative", lambda: inner(LAYER, LAYER, seed=-1), ValueError, "seed must be at least 0, got -1"),
    ("per_output a number", lambda: inner(LAYER, LAYER, per_output=1), TypeError, "per_output must be True or False, got 1"),
    ("progress None", lambda: similarity(LAYER, LAYER, progress=None), TypeError, "progress must be True or False, got None"),
    ("mean with symmetric", lambda: inner(LAYER, LAYER, kind="symmetric", mean=tensor(5)), ValueError, "mean and covariance belong to kind='gaussian'; kind 'symmetric'"),
    ("similarity of one", lambda: similarity(LAYER), TypeError, "similarity takes two networks, or one list of them; got one BilinearLayer"),
    ("similarity of a list and one", lambda: similarity([LAYER], LAYER), TypeError, "two networks, or one list of them; got list and a second"),
    ("similarity of none", lambda: similarity([]), ValueError, "similarity of an empty list"),
    ("similarity of a word", lambda: similarity("layers"), TypeError, "got one str"),
    ("similarity with a tensor", lambda: similarity([LAYER, DOWN]), TypeError, "expected a BilinearLayer or a decomposition of one, got Tensor"),
    ("depths in a list", lambda: similarity([LAYER, LAYER, STACK]), ValueError, "networks must have the same depth, got 1 and 2 layers"),
    ("inputs in a list", lambda: similarity([LAYER, LAYER, make(size=6)]), ValueError, "mode 'in' has size 5 in 0 but 6 in 2"),
    ("one of a list lifted", lambda: similarity([LAYER, lift(make(size=4))]), ValueError, "only one of the two has a constant coordinate in mode 'in'; lift both or neither"),
    ("mean with tree", lambda: inner(LAYER, LAYER, mean=tensor(5)), ValueError, "mean and covariance belong to kind='gaussian'"),
    ("covariance with tree", lambda: similarity(LAYER, LAYER, covariance=covariance()), ValueError, "mean and covariance belong to kind='gaussian'"),
    ("mean size", lambda: gaussian(mean=tensor(4)), ValueError, "mode 'in' has size 5 in network but 4 in mean"),
    ("mean NaN", lambda: gaussian(mean=tensor(5) * NAN), ValueError, "mean has 5 entries that are NaN"),
    ("covariance not PSD", lambda: gaussian(covariance=covariance(_22=-0.5)), ValueError, "covariance must be positive semidefinite, its lowest eigenvalue is -5.000e-01"),
    ("covariance negative", lambda: gaussian(covariance=-covariance()), ValueError, "covariance must be positive semidefinite"),
    ("covariance asymmetric", lambda: gaussian(covariance=covariance(_01=0.5)), ValueError, "covariance must be symmetric"),
    ("covariance size", lambda: gaussian(covariance=torch.eye(4)), ValueError, "mode 'in' has size 5 in network but 4 in covariance"),
    ("covariance not square", lambda: gaussian(covariance=tensor(5, 4)), ValueError, "mode 'in' has size 5 in network but 4 in covariance"),
    ("covariance a vector", lambda: gaussian(covariance=tensor(5)), ValueError, "covariance must have 2 dimensions"),
    ("covariance integer", lambda: gaussian(covariance=torch.eye(5).int()), TypeError, "covariance must be real floating point"),
    ("depths", lambda: inner(STACK, LAYER), ValueError, "networks must have the same depth, got 2 and 1 layers"),
    ("inputs differ", lambda: inner(LAYER, make(size=6)), ValueError, "mode 'in' has size 5 in a but 6 in b"),
    ("outputs differ", lambda: inner(LAYER, make(out=4)), ValueError, "mode 'out' has size 3 in a but 4 in b"),
    ("one is lifted", lambda: inner(lift(make(size=4)), LAYER), ValueError, "only one of the two has a constant coordinate in mode 'in'; lift both or neither"),
    ("inner of a tensor", lambda: inner(LAYER, DOWN), TypeError, "expected a BilinearLayer or a decomposition of one, got Tensor"),
    ("similarity of zero", lambda: similarity(LAYER, ZERO), ValueError, "similarity is undefined: network b is zero"),
    ("error to zero", lambda: relative_error(LAYER, ZERO), ValueError, "relative error is undefined: the reference is zero"),
    ("error of networks", lambda: relative_error(STACK, STACK), ValueError, "expected a single layer, got a network of 2"),
    ("difference of sizes", lambda: difference(LAYER, make(size=6)), ValueError, "mode 'in' has size 5 in a but 6 in b"),
    ("difference of dtypes", lambda: difference(LAYER, LAYER.to(dtype=torch.float32)), ValueError, "share one dtype; got before .*after"),
    # odt
    ("odt of a tensor", lambda: odt(DOWN), TypeError, "expected a BilinearLayer or a decomposition of one, got Tensor"),
    ("odt of zero", lambda: odt(ZERO), ValueError, "the network is zero on the given input moments"),
    ("odt covariance", lambda: odt(STACK, covariance=covariance(a33=-0.5)), ValueError, "positive semidefinite, its lowest eigenvalue is -5.000e-01"),
    ("odt mean size", lambda: odt(STACK, mean=tensor(4)), ValueError, "mode 'in' has size 5 in network but 4 in mean"),
    ("truncate by nothing", lambda: BONDS.truncate(), ValueError, "give either ranks or error, got ranks=None and error=None"),
    ("truncate by both", lambda: BONDS.truncate(2, error=0.1), ValueError, "give either ranks or error, got ranks=2 and error=0.1"),
    ("truncate to 0", lambda: BONDS.truncate(0), ValueError, r"rank must be from 1 to 5 \(the size of bond 1\), got 0"),
    ("truncate above the size", lambda: BONDS.truncate({2: 4}), ValueError, r"rank must be from 1 to 3 \(the size of bond 2\), got 4"),
    ("truncate to a fraction", lambda: BONDS.truncate(2.5), TypeError, "rank must be a whole number, got 2.5"),
    ("truncate a bond that is not there", lambda: BONDS.truncate({3: 1}), ValueError, r"bond must be from 0 to 2 \(0 is the input\), got 3"),
    ("truncate a bond by name", lambda: BONDS.truncate({"in": 1}), TypeError, "bond must be a whole number, got 'in'"),
    ("truncate to an error of 1", lambda: BONDS.truncate(error=1.0), ValueError, r"error is relative .* must be in \[0, 1\), got 1.0"),
    ("truncate to an error of NaN", lambda: BONDS.truncate(error=NAN), ValueError, r"must be in \[0, 1\), got nan"),
    ("truncate to an error of a word", lambda: BONDS.truncate(error="small"), TypeError, "error must be a number, got 'small'"),
    ("truncate one layer", lambda: odt(LAYER).truncate(2), ValueError, "a network of one layer has no inner bond"),
    # contraction
    ("plan over the limit", lambda: plan(STACK, max_elements=10), ValueError, r"contraction to \('out', .* needs .* elements at once, more than max_elements=1e\+01"),
    ("limit zero", lambda: plan(STACK, chunk="in1", max_elements=0), ValueError, "max_elements must be at least 1, got 0"),
    ("limit NaN", lambda: contract(STACK, max_elements=NAN), ValueError, "max_elements must be at least 1, got nan"),
    ("limit a word", lambda: plan(STACK, max_elements="all"), TypeError, "max_elements must be a number, got 'all'"),
    ("path that stops early", lambda: contract(STACK, optimize=lambda *_: [(0, 1)]), ValueError, "`optimize` leaves 8 terms: it must contract all"),
    ("dense over the limit", lambda: LAYER.to_tensor(max_elements=10), ValueError, "needs .* elements at once, more than max_elements"),
    ("unknown mode", lambda: contract(LAYER, ("out", "in3")), ValueError, "output mode 'in3' is in no term; there are: out, rank, in1, in2"),
    ("output a string", lambda: contract(LAYER, "out"), TypeError, r"output must be a sequence of mode names, got the string 'out'; did you mean \('out',\)\?"),
    ("mode twice", lambda: contract(LAYER, ("out", "out")), ValueError, "output names a mode twice"),
    ("no terms", lambda: contract([]), ValueError, "nothing to contract"),
    ("terms do not meet", lambda: contract([Term(DOWN, ("a", "b")), Term(LEFT, ("a", "b"))]), ValueError, "mode 'a' has size 3 in one term but 5 in term 1"),
    ("term dimensions", lambda: contract([Term(DOWN, ("a",))]), ValueError, r"term 0 \('a',\) must have 1 dimensions"),
    ("term dtypes", lambda: contract([Term(DOWN, ("a", "b")), Term(LEFT.float(), ("c", "b"))]), ValueError, "share one dtype; got term 0"),
    ("chunk of no output", lambda: contract(LAYER, ("out",), chunk="in1"), ValueError, r"chunk must be a mode of the output \('out',\), got 'in1'; a summed mode"),
    ("chunk misspelt", lambda: plan(LAYER, chunk="inn1"), ValueError, "got 'inn1'; did you mean 'in1'"),
    # queries
    ("project an unknown mode", lambda: project(STACK, {"in5": 0}), ValueError, "mode 'in5' is not open; there are: out, in1, in2, in3, in4"),
    ("project to an index", lambda: project(STACK, {"in1": 5}), ValueError, "index of mode 'in1' must be from -5 to 4, got 5"),
    ("project to a list", lambda: project(STACK, {"in1": [0, 1]}), TypeError, "index of mode 'in1' must be a whole number"),
    ("project, size", lambda: project(STACK, {"in1": tensor(4)}), ValueError, "mode 'in1' has size 5 in network but 4 in value"),
    ("project, dimensions", lambda: project(STACK, {"in1": tensor(5, 2, 2)}), ValueError, "value of mode 'in1' must have 2 dimensions"),
    ("project, dtype", lambda: project(STACK, {"in1": tensor(5).float()}), ValueError, "share one dtype; .*value of mode 'in1'"),
    ("project a tensor", lambda: project(DOWN, {}), TypeError, "network must be a TensorNetwork, got Tensor"),
    ("evaluation, size", lambda: evaluation(STACK, tensor(2, 6)), ValueError, "mode 'in' has size 5 in the layer but 6 in x"),
    ("evaluation, one sample", lambda: evaluation(STACK, X[0]), ValueError, "x must have 2 dimensions"),
    ("evaluation of a tensor", lambda: evaluation(DOWN, X), TypeError, "expected a BilinearNetwork, a layer or a decomposition of one, got Tensor"),
    ("interaction, direction", lambda: interaction_tensor(STACK, tensor(5), X.T), ValueError, "mode 'out' has size 3 in network but 5 in direction"),
    ("interaction, components", lambda: interaction_tensor(STACK, tensor(3), X), ValueError, "mode 'in' has size 5 in network but 2 in components"),
    ("interaction over the limit", lambda: interaction_tensor(STACK, tensor(3), X.T, max_elements=9), ValueError, "more than max_elements"),
    ("expansion, size", lambda: expansion(STACK, tensor(2, 6)), ValueError, "mode 'in' has size 5 in the layer but 6 in x"),
    ("order too high", lambda: order_weights(STACK, 5), ValueError, r"order must be from 0 to 4 \(the degree of 2 layers\), got 5"),
    ("order over the limit", lambda: order_weights(STACK, 4, max_elements=100), ValueError, "more than max_elements"),
    ("unknown optimizer", lambda: plan(LAYER, optimize="autohq"), (TypeError, ValueError), "optimize"),
    # circuits
    ("circuit of no network", lambda: circuit(X, U, widths=2), TypeError, "part 0 is a Tensor, not a layer"),
    ("direction a number", lambda: circuit(STACK, 2, widths=2), TypeError, r"direction must be a torch\.Tensor, got int"),
    ("two directions", lambda: circuit(STACK, tensor(2, 3), widths=2), ValueError, r"direction must have 1 dimensions \('out',\)"),
    ("direction of a circuit", lambda: circuit(STACK, tensor(4), widths=2), ValueError, "mode 'out' has size 3 in network but 4 in direction"),
    ("direction dtype", lambda: circuit(STACK, U.float(), widths=2), ValueError, "share one dtype; got network .*direction"),
    ("direction zero", lambda: circuit(STACK, 0 * U, widths=2), ValueError, "nothing to take apart: the output along this direction is zero"),
    ("output zero on x", lambda: circuit(STACK, U, widths=2, x=0 * X), ValueError, "nothing to take apart"),
    ("width above the size", lambda: circuit(STACK, U, widths=6), ValueError, r"width of layer 0 must be from 1 to 5 \(min\(in=5, 2 hidden=8\); None keeps all\), got 6"),
    ("width zero", lambda: circuit(STACK, U, widths=(2, 0)), ValueError, "width of layer 1 must be from 1 to 5 .*got 0"),
    ("width a float", lambda: circuit(STACK, U, widths=2.0), TypeError, r"width of layer 0 must be a whole number, got 2\.0"),
    ("three widths of two layers", lambda: circuit(STACK, U, widths=(2, 2, 2)), ValueError, "one number or one a layer, got 3 for 2 layers"),
    ("beam zero", lambda: circuit(STACK, U, widths=2, beam=0), ValueError, "beam must be at least 1, got 0"),
    ("x of a circuit", lambda: circuit(STACK, U, widths=2, x=tensor(2, 6)), ValueError, "mode 'in' has size 5 in the layer but 6 in x"),
    ("a circuit called", lambda: CIRCUIT(tensor(2, 6)), ValueError, "mode 'in' has size 5 in the layer but 6 in x"),
    ("a tree over the limit", lambda: circuit(STACK, U, widths=None, max_elements=100), ValueError, r"tree can have 5 \+ 25 components, 1\.2e\+02 elements in a level, more than max_elements=1e\+02; give smaller widths, or a beam"),
    ("output overflows", lambda: circuit(BilinearNetwork([make(5, seed=3)] * 2 + [BilinearLayer(1e200 * SQUARE.down, 1e100 * LEFT, RIGHT)]), tensor(5), widths=2), ValueError, "overflows float64: scale the weights down"),
    ("error of a zero output", lambda: CIRCUIT.relative_error(0 * X), ValueError, "relative error is undefined: the output is zero on every x"),
    # checkpoints and dictionaries
    ("no such folder", lambda: load_layer("/no/such/folder", 0), FileNotFoundError, "neither a folder nor a safetensors file here, nor a hub name 'owner/name'"),
    ("config of no folder", lambda: load_config("nothing here"), FileNotFoundError, "neither a folder"),
    ("a pickle", lambda: load_layer("model.bin", 0), ValueError, "model.bin is a pickle by its name, .*convert it"),
    ("index a float", lambda: load_layer("x", 1.0), TypeError, r"index must be a whole number, got 1\.0"),
    ("names a typo", lambda: load_layer("x", 1, names="lama"), ValueError, "names must be one of .*; did you mean 'llama'"),
    ("save a tensor", lambda: save_layer(DOWN, "x"), TypeError, "layer must be a BilinearLayer, got Tensor"),
    ("dictionary of no folder", lambda: load_dictionary("/no/such/folder"), FileNotFoundError, "neither a folder"),
    ("decoder as encoder", lambda: Dictionary(tensor(7, 5), tensor(7, 5)), ValueError, r"decoder \(d, feature\), got \(7, 5\) and \(7, 5\)"),
    ("dictionary, NaN", lambda: Dictionary.from_matrix(spoiled(float("nan"))), ValueError, "decoder has 1 entries that are NaN"),
    ("dictionary, dtypes", lambda: Dictionary(tensor(7, 5), tensor(5, 7).float()), ValueError, "share one dtype; got encoder"),
    ("encoder_bias, size", lambda: Dictionary(tensor(7, 5), tensor(5, 7), encoder_bias=tensor(5)), ValueError, "mode 'feature' has size 7 in encoder but 5 in encoder_bias"),
    ("k above features", lambda: Dictionary(tensor(7, 5), tensor(5, 7), k=8), ValueError, r"k must be from 1 to 7 \(the number of features\), got 8"),
    ("encode, width", lambda: DICTIONARY.encode(tensor(2, 4)), ValueError, "mode 'd' has size 5 in dictionary but 4 in x"),
    ("decode, features", lambda: DICTIONARY.decode(tensor(2, 5)), ValueError, "mode 'feature' has size 7 in dictionary but 5 in f"),
    ("dictionary before, width", lambda: between(LAYER, Dictionary.from_matrix(tensor(4, 6))), ValueError, r"mode 'in' has size 5 in the layer but 4 in inputs=Dictionary\('', point='', features=6, d=4\)"),
    ("dictionary after, width", lambda: between(LAYER, outputs=DICTIONARY), ValueError, "mode 'out' has size 3 in the layer but 5 in outputs"),
    ("dictionary a tensor", lambda: between(LAYER, DOWN), TypeError, "inputs must be a Dictionary, got Tensor; see Dictionary.from_matrix"),
    ("dictionary, dtype", lambda: between(LAYER, Dictionary.from_matrix(tensor(5, 6).float())), ValueError, "share one dtype"),
    # features
    ("interactions, no layer", lambda: interactions(layer=DOWN), TypeError, "expected a BilinearLayer or a decomposition of one, got Tensor"),
    ("interactions, two directions", lambda: interactions(direction=tensor(2, 3)), ValueError, r"direction must have 1 dimensions \('out',\)"),
    ("interactions, direction size", lambda: interactions(direction=tensor(4)), ValueError, "mode 'out' has size 3 in layer but 4 in direction"),
    ("interactions, direction NaN", lambda: interactions(direction=NAN * U), ValueError, "direction has 3 entries that are NaN"),
    ("decoder by rows", lambda: interactions(decoder=tensor(6, 5)), ValueError, "mode 'in' has size 5 in layer but 6 in decoder"),
    ("decoder dtype", lambda: interactions(decoder=tensor(5, 6).float()), ValueError, "share one dtype; got layer .*decoder torch.float32"),
    ("decoder with the constant", lambda: interactions(layer=LIFTED, direction=tensor(4), decoder=tensor(6, 2)), ValueError, "mode 'in' has size 5 in layer but 6 in decoder"),
    ("dictionary bias", lambda: interactions(bias=tensor(6)), ValueError, "mode 'in' has size 5 in layer but 6 in bias"),
    ("no space", lambda: interactions(space=None), ValueError, "does not say in which space its inputs live; give space="),
    ("empty space", lambda: interactions(space=" "), TypeError, "space must be a text that says where the inputs live, got ' '"),
    ("interactions, rank", lambda: interactions(rank=6), ValueError, r"rank must be from 1 to 5 \(min\(in=5, 2 hidden=8\)\), got 6"),
    ("interactions, max_elements", lambda: interactions(max_elements=0), ValueError, "max_elements must be at least 1, got 0"),
    ("too many interactions", lambda: FEATURES.top(22), ValueError, r"n must be from 1 to 21 \(there are 21 all interactions of 6 features\), got 22"),
    ("interactions, pairs", lambda: FEATURES.top(2, pairs="crossed"), ValueError, "pairs must be one of all, cross, self; got 'crossed'; did you mean 'cross'"),
    ("interactions, by", lambda: FEATURES.top(2, by="value"), ValueError, "by must be one of magnitude, negative, positive; got 'value'"),
    ("cross of one feature", lambda: interactions(decoder=tensor(5, 1)).statistics(), ValueError, "cross interactions need at least 2 features, got 1"),
    ("block outside", lambda: FEATURES.block([0], [6]), ValueError, "columns must be features from 0 to 5, got 6"),
    ("block below zero", lambda: FEATURES.block([-1, 2], [0]), ValueError, "rows must be features from 0 to 5, got -1"),
    ("block of floats", lambda: FEATURES.block([0.5], [0]), TypeError, "rows must be a list of whole numbers"),
    ("block too large", lambda: interactions(max_elements=8).block(range(3), range(3)), ValueError, "3 rows and 3 columns has more than max_elements=8 entries; take it in parts"),
    ("codes of a feature too many", lambda: FEATURES.activations(tensor(7)), ValueError, "mode 'feature' has size 6 in decoder but 7 in codes"),
    ("names of features", lambda: FEATURES.table(2, "abc"), ValueError, "names must be one a feature, got 3 for 6 features"),
    ("vectors by rows", lambda: projections(X, RESULT.eigenvectors[0]), ValueError, "mode 'in' has size 5 in eigenvectors but 2 in vectors"),
    ("eigenvectors of all blocks", lambda: projections(X.T, RESULT.eigenvectors), ValueError, r"eigenvectors must have 2 dimensions \('in', 'rank'\)"),
    ("correlation, no space", lambda: low_rank_correlation(LAYER, U[None], X), ValueError, "does not say in which space its inputs live"),
    ("correlation, k above the rank", lambda: correlations(ks=(1, 32)), ValueError, r"k must be from 1 to 5 \(min\(in=5, 2 hidden=8\)\), got 32"),
    ("correlation, no k", lambda: correlations(ks=()), ValueError, "ks is empty"),
    ("correlation, one direction", lambda: low_rank_correlation(LAYER, U, X, (1,), space="x"), ValueError, r"directions must have 2 dimensions \('feature', 'out'\)"),
    ("correlation, x size", lambda: low_rank_correlation(LAYER, U[None], tensor(2, 6), (1,), space="x"), ValueError, "mode 'in' has size 5 in the layer but 6 in x"),
    ("correlation, active shape", lambda: correlations(active=X > 0), ValueError, r"active must be boolean of shape \(token, feature\) = \(2, 1\), got torch.bool \(2, 5\)"),
    ("correlation, active NaN", lambda: correlations(active=NAN), TypeError, "active must be a threshold or a boolean tensor"),
    ("correlation, bias size", lambda: correlations(bias=tensor(2)), ValueError, "mode 'feature' has size 1 in directions but 2 in bias"),
    ("structure, size", lambda: rank_by_structure(LAYER, X), ValueError, "mode 'out' has size 3 in layer but 5 in directions"),
    ("labels, size", lambda: label_directions(X, tensor(4, 6)), ValueError, "mode 'size' has size 5 in directions but 6 in vectors"),
    ("labels, names", lambda: label_directions(X, X, ["a"], 1), ValueError, "names must be one a vector, got 1 for 2 vectors"),
    ("labels, too many", lambda: label_directions(X, X, n=3), ValueError, r"n must be from 1 to 2 \(there are 2 vectors\), got 3"),
    ("overlap of nothing", lambda: overlap(X, 0 * X), ValueError, "b spans nothing: all its directions are zero"),
    # leading eigenpairs of many directions
    ("spectra, NaN", lambda: spectra(LAYER, tensor(2, 3) * NAN), ValueError, "directions has 6 entries that are NaN or infinite"),
    ("spectra, zero direction", lambda: spectra(LAYER, torch.diag(torch.tensor([1.0, 0, 0])).double()), ValueError, "directions must not be zero; 2 are, the first at row 1"),
    ("spectra, one direction", lambda: spectra(LAYER, U), ValueError, r"directions must have 2 dimensions \('block', 'out'\), got shape \(3,\)"),
    ("spectra, wide directions", lambda: spectra(LAYER, tensor(2, 4)), ValueError, "mode 'out' has size 3 in layer but 4 in directions"),
    ("spectra, other dtype", lambda: spectra(LAYER, tensor(2, 3).float()), ValueError, r"one dtype; got layer torch\.float64, directions torch\.float32"),
    ("spectra, k above the rank", lambda: spectra(LAYER, tensor(2, 3), 6), ValueError, r"k must be from 1 to 5 \(the rank is at most min\(in=5, 2 hidden=8\)\), got 6"),
    ("spectra, k zero", lambda: spectra(LAYER, tensor(2, 3), 0), ValueError, "k must be from 1 to 5"),
    ("spectra, tolerance", lambda: spectra(LAYER, tensor(2, 3), tolerance=1e-15), ValueError, r"tolerance must be from 8\.2e-15, the rounding of float64 at in=5 and hidden=4, to below 1; got 1e-15"),
    ("spectra, tolerance of float32", lambda: spectra(LAYER.to(dtype=torch.float32), tensor(2, 3).float(), tolerance=1e-8), ValueError, r"from 1\.2e-07, the rounding of float32"),
    ("spectra, tolerance 1", lambda: spectra(LAYER, tensor(2, 3), tolerance=1), ValueError, "to below 1; got 1"),
    ("spectra, tolerance NaN", lambda: spectra(LAYER, tensor(2, 3), tolerance=NAN), ValueError, "got nan"),
    ("spectra, tolerance a word", lambda: spectra(LAYER, tensor(2, 3), tolerance="small"), TypeError, "tolerance must be a number, got 'small'"),
    ("spectra, few steps", lambda: spectra(LAYER, tensor(2, 3), 3, max_steps=2), ValueError, "max_steps must be at least 3, got 2"),
    ("spectra, method", lambda: spectra(LAYER, tensor(2, 3), method="krilov"), ValueError, "method must be one of auto, dense, krylov; .*did you mean 'krylov'"),
    ("spectra overflow", lambda: spectra(BilinearLayer(1e150 * DOWN, 1e50 * LEFT, RIGHT), tensor(2, 3)), ValueError, "overflow float64: scale the weights down"),
    ("spectra, no layer", lambda: spectra(STACK, tensor(2, 3)), TypeError, "layer must be a BilinearLayer, got BilinearNetwork"),
    # figures
    ("submatrix, names", lambda: interaction_submatrix(FEATURES, 2, "ab"), ValueError, "names must be one a vector, got 2 for 6 vectors"),
    ("plane of one eigenvector", lambda: eigenvector_plane(tensor(4, 1), tensor(1)), ValueError, "a plane needs 2 eigenvectors, got 1"),
    ("plane, sizes", lambda: eigenvector_plane(tensor(4, 2), tensor(3)), ValueError, "mode 'rank' has size 2 in coordinates but 3 in eigenvalues"),
    ("no records", lambda: correlation_by_rank([]), ValueError, "there are no records to draw"),
    ("draw no network", lambda: draw_network(LAYER.down), TypeError, "network must be a TensorNetwork, got Tensor"),
    ("draw too much", lambda: draw_network(BilinearNetwork([SQUARE] * 6)), ValueError, r"has 189 tensors, a figure holds at most 100; draw a part, as network\[0\]"),
    ("draw no component", lambda: draw_circuit(CIRCUIT, count=0), ValueError, "count must be at least 1, got 0"),
    ("image of a circuit", lambda: draw_circuit(CIRCUIT, (2, 2)), ValueError, r"shape \(2, 2\) needs 4 pixels, the input has 5"),
    ("names of inputs", lambda: draw_circuit(CIRCUIT, names="abc"), ValueError, "names must be one an input, got 3 for 5 inputs"),
    ("labels of similarities", lambda: similarity_matrix(torch.eye(3), "ab"), ValueError, "mode 'network' has size 3 in rows but 2 in labels"),
    ("similarities not a matrix", lambda: similarity_matrix(torch.ones(3), "abc"), ValueError, r"matrix must have 2 dimensions \('network', 'network'\)"),
    ("no spectra", lambda: bond_spectra({}), ValueError, "odts is empty: give at least one ODT by name"),
    ("no cuts", lambda: bond_curves([], accuracy=1.0, loss=0.0), ValueError, "records is empty: there is nothing to draw"),
    ("too many leaves", lambda: draw_circuit(circuit(BilinearNetwork([SQUARE] * 3), tensor(5), widths=None), count=5), ValueError, "count=5 gives 125 leaves, a figure holds at most 64"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_bad_input_is_a_clear_error(call, kind, message):
    with pytest.raises(kind) as caught:
        call()
    assert re.search(message, str(caught.value)), str(caught.value)


def test_every_row_of_the_table_has_its_own_name():
    names = [row[0] for row in TABLE]
    assert len(set(names)) == len(names)


def rotated(dtype):
    basis, _ = torch.linalg.qr(tensor(5, 5))
    return (basis @ torch.eye(5, dtype=torch.float64) @ basis.T).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("samples", [3, 50])
def test_a_covariance_estimated_from_data_is_accepted(samples, dtype):
    """Rounding is not bad input: singular where samples < in, symmetric and semidefinite to the dtype's precision."""
    x = tensor(samples, 5).to(dtype)
    value = float(gaussian(covariance=x.T @ x / samples))
    wide = x.double()
    assert value == pytest.approx(float(gaussian(covariance=wide.T @ wide / samples)), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_covariance_that_is_symmetric_up_to_rounding_is_accepted(dtype):
    wobbly = rotated(dtype)
    wobbly[0, 1] += torch.finfo(dtype).eps
    assert float(gaussian(covariance=wobbly)) == pytest.approx(float(gaussian()), rel=1e-5)
