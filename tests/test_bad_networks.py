"""Bad input of what takes networks apart is a clear error: a table as in `test_bad_input`."""

from dataclasses import replace

import pytest
import torch
from bad_input import DOWN, LAYER, LEFT, NAN, SQUARE, STACK, ZERO, U, X, cases, check, covariance
from helpers import normal

from tensornet_interp import BilinearNetwork, Moments, contract, odt, plan
from tensornet_interp.circuits import circuit, degree_weights, evaluation, expansion, interaction_tensor, project
from tensornet_interp.contraction import Term
from tensornet_interp.plots import bond_curves, bond_spectra, draw_circuit, draw_network, similarity_matrix

BONDS = odt(STACK)
CIRCUIT = circuit(STACK, U, widths=2)
HUGE = BilinearNetwork([SQUARE, replace(LAYER, down=1e30 * DOWN, left=1e10 * LEFT)]).to(dtype=torch.float32)

TABLE = [
    # odt
    ("odt of a tensor", lambda: odt(DOWN), TypeError, "must be a layer, a decomposition of one or a network, got Tensor"),
    ("odt of zero", lambda: odt(ZERO), ValueError, "the network is zero on the given input moments"),
    ("odt with a covariance", lambda: odt(STACK, covariance()), TypeError, r"moments must be a Moments object, got Tensor; make one with Moments\(mean, covariance\)"),
    ("odt moments size", lambda: odt(STACK, Moments.standard(4)), ValueError, "mode 'in' has size 5 in network but 4 in moments"),
    ("odt moments device", lambda: odt(STACK, moments=Moments.standard(5, device="meta")), ValueError, "share one device; got network cpu, moments meta"),
    ("truncate by nothing", lambda: BONDS.truncate(), ValueError, "give either ranks or error, got ranks=None and error=None"),
    ("truncate by both", lambda: BONDS.truncate(2, error=0.1), ValueError, "give either ranks or error, got ranks=2 and error=0.1"),
    ("truncate to 0", lambda: BONDS.truncate(0), ValueError, r"rank must be from 1 to 5 \(the size of bond 1\), got 0"),
    ("truncate above the size", lambda: BONDS.truncate({2: 4}), ValueError, r"rank must be from 1 to 3 \(the size of bond 2\), got 4"),
    ("truncate to a fraction", lambda: BONDS.truncate(2.5), TypeError, "rank must be a whole number, got 2.5"),
    ("truncate a bond that is not there", lambda: BONDS.truncate({3: 1}), ValueError, r"bond must be from 0 to 2 \(0 is the input\), got 3"),
    ("truncate a bond by name", lambda: BONDS.truncate({"in": 1}), TypeError, "bond must be a whole number, got 'in'"),
    ("truncate to an error of 1", lambda: BONDS.truncate(error=1.0), ValueError, r"error must be in \[0, 1\), got 1\.0"),
    ("truncate to an error of NaN", lambda: BONDS.truncate(error=NAN), ValueError, r"must be in \[0, 1\), got nan"),
    ("truncate to an error of a word", lambda: BONDS.truncate(error="small"), TypeError, "error must be a number, got 'small'"),
    ("truncate one layer", lambda: odt(LAYER).truncate(2), ValueError, "a network of one layer has no inner bond"),
    # contraction
    ("plan over the limit", lambda: plan(STACK, max_elements=10), ValueError, r"contraction to \('out', .* needs .* elements at once, more than max_elements=1e\+01"),
    ("dense over the limit", lambda: LAYER.to_tensor(max_elements=10), ValueError, "needs .* elements at once, more than max_elements"),
    ("unknown mode", lambda: contract(LAYER, ("out", "in3")), ValueError, "output mode 'in3' is in no term; the terms have: out, rank, in1, in2"),
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
    ("project, size", lambda: project(STACK, {"in1": normal(4)}), ValueError, "mode 'in1' has size 5 in network but 4 in value"),
    ("project, dimensions", lambda: project(STACK, {"in1": normal(5, 2, 2)}), ValueError, "value of mode 'in1' must have 2 dimensions"),
    ("project, dtype", lambda: project(STACK, {"in1": normal(5).float()}), ValueError, "share one dtype; .*value of mode 'in1'"),
    ("project a tensor", lambda: project(DOWN, {}), TypeError, "network must be a layer, a decomposition of one or a network, got Tensor"),
    ("evaluation, size", lambda: evaluation(STACK, normal(2, 6)), ValueError, "mode 'in' has size 5 in the layer but 6 in x"),
    ("evaluation, one sample", lambda: evaluation(STACK, X[0]), ValueError, "x must have 2 dimensions"),
    ("evaluation of a tensor", lambda: evaluation(DOWN, X), TypeError, "network must be a layer, a decomposition of one or a network, got Tensor"),
    ("interaction, direction", lambda: interaction_tensor(STACK, normal(5), X.T), ValueError, "mode 'out' has size 3 in network but 5 in direction"),
    ("interaction, components", lambda: interaction_tensor(STACK, normal(3), X), ValueError, "mode 'in' has size 5 in network but 2 in components"),
    ("interaction over the limit", lambda: interaction_tensor(STACK, normal(3), X.T, max_elements=9), ValueError, "more than max_elements"),
    ("expansion, size", lambda: expansion(STACK, normal(2, 6)), ValueError, "mode 'in' has size 5 in the layer but 6 in x"),
    ("degree too high", lambda: degree_weights(STACK, 5), ValueError, r"degree must be from 0 to 4 \(the degree of 2 layers\), got 5"),
    ("degree over the limit", lambda: degree_weights(STACK, 4, max_elements=100), ValueError, "more than max_elements"),
    ("unknown optimizer", lambda: plan(LAYER, optimize="autohq"), (TypeError, ValueError), "optimize"),
    # circuits
    ("circuit of no network", lambda: circuit(X, U, widths=2), TypeError, "network must be a layer, a decomposition of one or a network, got Tensor"),
    ("direction a number", lambda: circuit(STACK, 2, widths=2), TypeError, r"direction must be a torch\.Tensor, got int"),
    ("two directions", lambda: circuit(STACK, normal(2, 3), widths=2), ValueError, r"direction must have 1 dimensions \('out',\)"),
    ("direction of a circuit", lambda: circuit(STACK, normal(4), widths=2), ValueError, "mode 'out' has size 3 in network but 4 in direction"),
    ("direction dtype", lambda: circuit(STACK, U.float(), widths=2), ValueError, "share one dtype; got network .*direction"),
    ("direction zero", lambda: circuit(STACK, 0 * U, widths=2), ValueError, "nothing to take apart: the output along this direction is zero"),
    ("output zero on x", lambda: circuit(STACK, U, widths=2, x=0 * X), ValueError, "nothing to take apart"),
    ("width above the size", lambda: circuit(STACK, U, widths=6), ValueError, r"width of layer 0 must be from 1 to 5 \(min\(in=5, 2 hidden=8\); None keeps all\), got 6"),
    ("width zero", lambda: circuit(STACK, U, widths=(2, 0)), ValueError, "width of layer 1 must be from 1 to 5 .*got 0"),
    ("width a float", lambda: circuit(STACK, U, widths=2.0), TypeError, r"width of layer 0 must be a whole number, got 2\.0"),
    ("three widths of two layers", lambda: circuit(STACK, U, widths=(2, 2, 2)), ValueError, "one number or one per layer, got 3 for 2 layers"),
    ("beam zero", lambda: circuit(STACK, U, widths=2, beam=0), ValueError, "beam must be at least 1, got 0"),
    ("x of a circuit", lambda: circuit(STACK, U, widths=2, x=normal(2, 6)), ValueError, "mode 'in' has size 5 in the layer but 6 in x"),
    ("a circuit called", lambda: CIRCUIT(normal(2, 6)), ValueError, "mode 'in' has size 5 in the layer but 6 in x"),
    ("a tree over the limit", lambda: circuit(STACK, U, widths=None, max_elements=100), ValueError, r"tree can have 5 \+ 25 components, 1\.2e\+02 elements in a level, more than max_elements=1e\+02; give smaller widths, or a beam"),
    ("error of a zero output", lambda: CIRCUIT.relative_error(0 * X), ValueError, "relative error is undefined: the output is zero on every x"),
    # figures
    ("draw no network", lambda: draw_network(LAYER.down), TypeError, "network must be a layer, a decomposition of one or a network, got Tensor"),
    ("draw too much", lambda: draw_network(BilinearNetwork([SQUARE] * 6)), ValueError, r"has 189 tensors, but a figure holds at most 100; draw a part of it, such as network\[0\]"),
    ("draw no component", lambda: draw_circuit(CIRCUIT, count=0), ValueError, "count must be at least 1, got 0"),
    ("image of a circuit", lambda: draw_circuit(CIRCUIT, (2, 2)), ValueError, r"shape \(2, 2\) needs 4 pixels, but the input has 5"),
    ("names of inputs", lambda: draw_circuit(CIRCUIT, names=["a", "b", "c"]), ValueError, "names must be one per input, got 3 for 5 inputs"),
    ("labels of similarities", lambda: similarity_matrix(torch.eye(3), ["a", "b"]), ValueError, "labels must be one per row, got 2 for 3 rows"),
    ("similarities not a matrix", lambda: similarity_matrix(torch.ones(3), "abc"), ValueError, r"matrix must have 2 dimensions \('network', 'network'\)"),
    ("no spectra", lambda: bond_spectra({}), ValueError, "odts is empty: give at least one ODT by name"),
    ("cuts of other records", lambda: bond_curves([{"a": 1}], accuracy=1.0, loss=0.0), ValueError, r"records\[0\] lacks metric, .*bound; it has a$"),
    ("a degree without terms above the limit", lambda: degree_weights(STACK, 3, max_elements=300), ValueError, "degree 3 has 3.8e.02 elements, more than max_elements=3e.02"),
    ("eigenvalues that overflow", lambda: circuit(HUGE, torch.ones(3), widths=None), ValueError, "the eigenvalues of layer 1 overflow torch.float32: scale the weights down"),
    ("no cuts", lambda: bond_curves([], accuracy=1.0, loss=0.0), ValueError, "records is empty: there is nothing to draw"),
    ("too many leaves", lambda: draw_circuit(circuit(BilinearNetwork([SQUARE] * 3), normal(5), widths=None), count=5), ValueError, "count=5 gives 125 leaves, but a figure holds at most 64"),
    ("limit zero", lambda: plan(STACK, chunk="in1", max_elements=0), ValueError, "max_elements must be at least 1, got 0"),
    ("limit NaN", lambda: contract(STACK, max_elements=NAN), ValueError, "max_elements must be finite, got nan"),
    ("limit a word", lambda: plan(STACK, max_elements="all"), TypeError, "max_elements must be a number, got 'all'"),
    ("path that stops early", lambda: contract(STACK, optimize=lambda *_: [(0, 1)]), ValueError, "`optimize` leaves 8 terms; it must contract all"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), cases(TABLE))
def test_bad_input_of_networks_is_a_clear_error(call, kind, message):
    check(call, kind, message)
