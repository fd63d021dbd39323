"""Bad checkpoints, dictionaries and features are clear errors: a table as in `test_bad_input`."""

import pytest
import torch
from bad_input import DOWN, LAYER, LEFT, LIFTED, NAN, RESULT, RIGHT, STACK, U, X, cases, check, spoiled
from helpers import normal

from tensornet_interp import BilinearLayer
from tensornet_interp.features import (
    Dictionary,
    between,
    feature_interactions,
    label_directions,
    low_rank_correlation,
    overlap,
    projections,
    rank_by_structure,
)
from tensornet_interp.plots import correlation_by_rank, eigenvector_plane, interaction_submatrix
from tensornet_interp.spectra import spectra
from tensornet_interp.weights import load_config, load_dictionary, load_layer


def interactions(**options):
    given = {"layer": LAYER, "direction": U, "decoder": normal(5, 6), "basis": "x"} | options
    return feature_interactions(given.pop("layer"), given.pop("direction"), given.pop("decoder"), **given)


def correlations(**options):
    return low_rank_correlation(LAYER, U[None], X, **({"ks": (1,), "basis": "x"} | options))


DICTIONARY = Dictionary(normal(7, 5), normal(5, 7))
FEATURES = interactions()

TABLE = [
    # checkpoints and dictionaries
    ("no such folder", lambda: load_layer("/no/such/folder", 0), FileNotFoundError, "neither a folder nor a safetensors file here, nor a hub name 'owner/name'"),
    ("config of no folder", lambda: load_config("nothing here"), FileNotFoundError, "neither a folder"),
    ("a pickle that is not there", lambda: load_layer("model.bin", 0), FileNotFoundError, "model.bin is missing"),
    ("index a float", lambda: load_layer("x", 1.0), TypeError, r"index must be a whole number, got 1\.0"),
    ("layout a typo", lambda: load_layer("x", 1, layout="lama"), ValueError, "layout must be one of .*; did you mean 'llama'"),
    ("dictionary of no folder", lambda: load_dictionary("/no/such/folder"), FileNotFoundError, "neither a folder"),
    ("decoder as encoder", lambda: Dictionary(normal(7, 5), normal(7, 5)), ValueError, r"decoder \(d, feature\), got \(7, 5\) and \(7, 5\)"),
    ("dictionary, NaN", lambda: Dictionary.from_matrix(spoiled(float("nan"))), ValueError, "decoder has 1 entries that are NaN"),
    ("dictionary, dtypes", lambda: Dictionary(normal(7, 5), normal(5, 7).float()), ValueError, "share one dtype; got encoder"),
    ("encoder_bias, size", lambda: Dictionary(normal(7, 5), normal(5, 7), encoder_bias=normal(5)), ValueError, "mode 'feature' has size 7 in encoder but 5 in encoder_bias"),
    ("k above features", lambda: Dictionary(normal(7, 5), normal(5, 7), k=8), ValueError, r"k must be from 1 to 7 \(the number of features\), got 8"),
    ("encode, width", lambda: DICTIONARY.encode(normal(2, 4)), ValueError, "mode 'd' has size 5 in dictionary but 4 in x"),
    ("decode, features", lambda: DICTIONARY.decode(normal(2, 5)), ValueError, "mode 'feature' has size 7 in dictionary but 5 in f"),
    ("dictionary before, width", lambda: between(LAYER, Dictionary.from_matrix(normal(4, 6))), ValueError, r"mode 'in' has size 5 in the layer but 4 in inputs=Dictionary\('', point='', features=6, d=4\)"),
    ("dictionary after, width", lambda: between(LAYER, outputs=DICTIONARY), ValueError, "mode 'out' has size 3 in the layer but 5 in outputs"),
    ("dictionary a tensor", lambda: between(LAYER, DOWN), TypeError, "inputs must be a Dictionary, got Tensor; see Dictionary.from_matrix"),
    ("dictionary, dtype", lambda: between(LAYER, Dictionary.from_matrix(normal(5, 6).float())), ValueError, "share one dtype"),
    # features
    ("interactions, no layer", lambda: interactions(layer=DOWN), TypeError, "layer must be a layer, a decomposition of one or a network, got Tensor"),
    ("interactions, two directions", lambda: interactions(direction=normal(2, 3)), ValueError, r"direction must have 1 dimensions \('out',\)"),
    ("interactions, direction size", lambda: interactions(direction=normal(4)), ValueError, "mode 'out' has size 3 in layer but 4 in direction"),
    ("interactions, direction NaN", lambda: interactions(direction=NAN * U), ValueError, "direction has 3 entries that are NaN"),
    ("decoder by rows", lambda: interactions(decoder=normal(6, 5)), ValueError, "mode 'in' has size 5 in layer but 6 in decoder"),
    ("decoder dtype", lambda: interactions(decoder=normal(5, 6).float()), ValueError, "share one dtype; got layer .*decoder torch.float32"),
    ("decoder with the constant", lambda: interactions(layer=LIFTED, direction=normal(4), decoder=normal(6, 2)), ValueError, "mode 'in' has size 5 in layer but 6 in decoder"),
    ("dictionary bias", lambda: interactions(bias=normal(6)), ValueError, "mode 'in' has size 5 in layer but 6 in bias"),
    ("no basis", lambda: interactions(basis=None), ValueError, "does not state the basis of its inputs"),
    ("empty basis", lambda: interactions(basis=" "), ValueError, "basis must say something, got ' '"),
    ("interactions, rank", lambda: interactions(rank=6), ValueError, r"rank must be from 1 to 5 \(min\(in=5, 2 hidden=8\)\), got 6"),
    ("interactions, max_elements", lambda: interactions(max_elements=0), ValueError, "max_elements must be at least 1, got 0"),
    ("too many interactions", lambda: FEATURES.top(22), ValueError, r"n must be from 1 to 21 \(there are 21 all interactions of 6 features\), got 22"),
    ("interactions, pairs", lambda: FEATURES.top(2, pairs="crossed"), ValueError, "pairs must be one of all, cross, self; got 'crossed'; did you mean 'cross'"),
    ("interactions, by", lambda: FEATURES.top(2, by="value"), ValueError, "by must be one of magnitude, negative, positive; got 'value'"),
    ("cross of one feature", lambda: interactions(decoder=normal(5, 1)).statistics(), ValueError, "cross interactions need at least 2 features, got 1"),
    ("block outside", lambda: FEATURES.block([0], [6]), ValueError, "columns must be from 0 to 5, got 6"),
    ("block below zero", lambda: FEATURES.block([-1, 2], [0]), ValueError, "rows must be from 0 to 5, got -1"),
    ("block of floats", lambda: FEATURES.block([0.5], [0]), TypeError, r"rows must be a whole number, got 0\.5"),
    ("block too large", lambda: interactions(max_elements=8).block(range(3), range(3)), ValueError, "3 rows and 3 columns has more than max_elements=8 entries; ask for smaller blocks"),
    ("codes of a feature too many", lambda: FEATURES(normal(7)), ValueError, "mode 'feature' has size 6 in decoder but 7 in codes"),
    ("names of features", lambda: FEATURES.table(2, ["a", "b", "c"]), ValueError, "names must be one per feature, got 3 for 6 features"),
    ("vectors by rows", lambda: projections(X, RESULT.eigenvectors[0]), ValueError, "mode 'in' has size 5 in eigenvectors but 2 in vectors"),
    ("eigenvectors of all blocks", lambda: projections(X.T, RESULT.eigenvectors), ValueError, r"eigenvectors must have 2 dimensions \('in', 'rank'\)"),
    ("correlation, no basis", lambda: low_rank_correlation(LAYER, U[None], X), ValueError, "does not state the basis of its inputs"),
    ("correlation, k above the rank", lambda: correlations(ks=(1, 32)), ValueError, r"k must be from 1 to 5 \(min\(in=5, 2 hidden=8\)\), got 32"),
    ("correlation, no k", lambda: correlations(ks=()), ValueError, "ks is empty"),
    ("correlation, one direction", lambda: low_rank_correlation(LAYER, U, X, (1,), basis="x"), ValueError, r"directions must have 2 dimensions \('feature', 'out'\)"),
    ("correlation, x size", lambda: low_rank_correlation(LAYER, U[None], normal(2, 6), (1,), basis="x"), ValueError, "mode 'in' has size 5 in the layer but 6 in x"),
    ("correlation, active shape", lambda: correlations(active=X > 0), ValueError, r"active must be boolean of shape \(2, 1\), got \(2, 5\)"),
    ("correlation, active NaN", lambda: correlations(active=NAN), ValueError, "active, if no boolean tensor .token, feature., must be finite, got nan"),
    ("correlation, bias size", lambda: correlations(bias=normal(2)), ValueError, "mode 'feature' has size 1 in directions but 2 in bias"),
    ("structure, size", lambda: rank_by_structure(LAYER, X), ValueError, "mode 'out' has size 3 in layer but 5 in directions"),
    ("labels, size", lambda: label_directions(X, normal(4, 6)), ValueError, "mode 'size' has size 5 in directions but 6 in vectors"),
    ("labels, names", lambda: label_directions(X, X, ["a"], 1), ValueError, "names must be one per vector, got 1 for 2 vectors"),
    ("labels, too many", lambda: label_directions(X, X, n=3), ValueError, r"n must be from 1 to 2 \(there are 2 vectors\), got 3"),
    ("overlap of nothing", lambda: overlap(X, 0 * X), ValueError, "b spans nothing: all its directions are zero"),
    # figures
    ("submatrix, names", lambda: interaction_submatrix(FEATURES, 2, ["a", "b"]), ValueError, "names must be one per vector, got 2 for 6 vectors"),
    ("plane of one eigenvector", lambda: eigenvector_plane(normal(4, 1), normal(1)), ValueError, "a plane needs 2 eigenvectors, got 1"),
    ("plane, sizes", lambda: eigenvector_plane(normal(4, 2), normal(3)), ValueError, "mode 'rank' has size 2 in coordinates but 3 in eigenvalues"),
    ("no records", lambda: correlation_by_rank([]), ValueError, "records is empty"),
    # leading eigenpairs of many directions
    ("spectra, NaN", lambda: spectra(LAYER, normal(2, 3) * NAN), ValueError, "directions has 6 entries that are NaN or infinite"),
    ("spectra, zero direction", lambda: spectra(LAYER, torch.diag(torch.tensor([1.0, 0, 0])).double()), ValueError, "directions must not be zero; 2 are, the first at row 1"),
    ("spectra, one direction", lambda: spectra(LAYER, U), ValueError, r"directions must have 2 dimensions \('block', 'out'\), got shape \(3,\)"),
    ("spectra, wide directions", lambda: spectra(LAYER, normal(2, 4)), ValueError, "mode 'out' has size 3 in layer but 4 in directions"),
    ("spectra, other dtype", lambda: spectra(LAYER, normal(2, 3).float()), ValueError, r"one dtype; got layer torch\.float64, directions torch\.float32"),
    ("spectra, k above the rank", lambda: spectra(LAYER, normal(2, 3), 6), ValueError, r"k must be from 1 to 5 \(the rank is at most min\(in=5, 2 hidden=8\)\), got 6"),
    ("spectra, k zero", lambda: spectra(LAYER, normal(2, 3), 0), ValueError, "k must be from 1 to 5"),
    ("spectra, tolerance", lambda: spectra(LAYER, normal(2, 3), tolerance=1e-15), ValueError, r"tolerance must be from 8\.0e-15, the rounding of float64 at in=5 and hidden=4, to below 1; got 1e-15"),
    ("spectra, tolerance 1", lambda: spectra(LAYER, normal(2, 3), tolerance=1), ValueError, "to below 1; got 1"),
    ("spectra, tolerance NaN", lambda: spectra(LAYER, normal(2, 3), tolerance=NAN), ValueError, "got nan"),
    ("spectra, tolerance a word", lambda: spectra(LAYER, normal(2, 3), tolerance="small"), TypeError, "tolerance must be a number, got 'small'"),
    ("spectra, few steps", lambda: spectra(LAYER, normal(2, 3), 3, max_steps=2), ValueError, "max_steps must be at least 3, got 2"),
    ("spectra, method", lambda: spectra(LAYER, normal(2, 3), method="krilov"), ValueError, "method must be one of auto, dense, krylov; .*did you mean 'krylov'"),
    ("spectra overflow", lambda: spectra(BilinearLayer(down=1e200 * DOWN, left=1e150 * LEFT, right=RIGHT), normal(2, 3)), ValueError, "overflow torch.float64: scale the weights or the directions down"),
    ("spectra, no layer", lambda: spectra(STACK, normal(2, 3)), TypeError, "layer must be a BilinearLayer, got BilinearNetwork"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), cases(TABLE))
def test_bad_features_are_clear_errors(call, kind, message):
    check(call, kind, message)
