"""Bad masks are clear errors: a table as in `test_bad_input`."""

import pytest
import torch
from bad_input import LAYER, NAN, RESULT, ZERO, X, cases, check
from helpers import normal

from tensornet_interp.adversarial import adversarial_masks, baseline_masks, mask_effect, orient, top_positive
from tensornet_interp.decompositions import Eigen

VECTORS = normal(2, 2, 5)
LABELS = torch.tensor([0, 1])
HALF = torch.tensor([True, True, False, False, False])


def effect(**options):
    given = {"mask": normal(5), "x": X, "labels": LABELS, "target": 0, "norms": [1.0]} | options
    return mask_effect(LAYER, **given)


TABLE = [
    ("a layer", lambda: top_positive(LAYER, 1), TypeError, "result must be a SpectralResult, got BilinearLayer"),
    ("count zero", lambda: top_positive(RESULT, 0), ValueError, "count must be from 1 to 5"),
    ("more than positive", lambda: top_positive(Eigen()(ZERO), 1), ValueError, "count=1 is too large: block 0 has 0 positive eigenvalues"),
    ("orient, one block", lambda: orient(VECTORS[0]), ValueError, r"vectors must have 3 dimensions \('block', 'k', 'in'\)"),
    ("orient, size", lambda: orient(VECTORS, normal(3, 4)), ValueError, "mode 'in' has size 5 in vectors but 4 in x"),
    ("orient, dtype", lambda: orient(VECTORS, X.float()), ValueError, "share one dtype"),
    ("masks, NaN", lambda: adversarial_masks(NAN * VECTORS), ValueError, "vectors has 20 entries that are NaN"),
    ("masks, allowed a list", lambda: adversarial_masks(VECTORS, allowed=[0, 1]), TypeError, "allowed must be a boolean tensor"),
    ("masks, allowed size", lambda: adversarial_masks(VECTORS, allowed=HALF[:3]), ValueError, r"allowed must be boolean of shape \(5,\)"),
    ("masks, none allowed", lambda: adversarial_masks(VECTORS, allowed=~HALF & HALF), ValueError, "an entry that is true"),
    ("masks, too few entries", lambda: adversarial_masks(VECTORS, allowed=HALF), ValueError, "only 2 of the 2 x 2 vectors are independent on the 2 of 5 entries"),
    ("masks of zero", lambda: adversarial_masks(0 * VECTORS), ValueError, "only 0 of the 2 x 2 vectors"),
    ("masks of zero, cut", lambda: adversarial_masks(0 * VECTORS, rtol=0.1), ValueError, "vectors are zero on the entries that masks may use"),
    ("masks, rtol", lambda: adversarial_masks(VECTORS, rtol=1.0), ValueError, r"rtol must be in \(0, 1\), got 1.0"),
    ("baseline, kind", lambda: baseline_masks(normal(5), "permutated", 1, seed=0), ValueError, "kind must be one of gaussian, permuted; .*did you mean 'permuted'"),
    ("baseline, draws", lambda: baseline_masks(normal(5), "gaussian", 0, seed=0), ValueError, "draws must be at least 1, got 0"),
    ("baseline, outside", lambda: baseline_masks(normal(5), "gaussian", 1, seed=0, allowed=HALF), ValueError, "mask must be zero outside of the allowed entries"),
    ("effect, size", lambda: effect(mask=normal(4)), ValueError, "mode 'in' has size 5 in x but 4 in mask"),
    ("effect, zero mask", lambda: effect(mask=0 * normal(5)), ValueError, "mask is zero, so it cannot be scaled"),
    ("effect, labels", lambda: effect(labels=LABELS[:1]), ValueError, "mode 'batch' has size 2 in x but 1 in labels"),
    ("effect, labels of floats", lambda: effect(labels=LABELS.double()), TypeError, "labels must be a tensor .* of int64 class numbers, got torch.float64"),
    ("effect, labels beyond", lambda: effect(labels=LABELS + 90), ValueError, "labels must be classes from 0 to"),
    ("effect, target", lambda: effect(target=3), ValueError, r"target must be from 0 to 2 \(an output of the network\), got 3"),
    ("effect, clip", lambda: effect(clip=(1.0, 0.0)), ValueError, r"clip must be \(low, high\) with low < high"),
    ("effect, no other class", lambda: effect(labels=0 * LABELS), ValueError, "all samples have the class target=0"),
    ("effect, norm NaN", lambda: effect(norms=[NAN]), ValueError, "norms must be finite, got nan"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), cases(TABLE))
def test_bad_masks_are_clear_errors(call, kind, message):
    check(call, kind, message)
