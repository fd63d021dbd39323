"""The task whose answer is one image: labels are what the rule says, by hand."""

import dataclasses

import pytest
import torch

from models import Dataset, load_dataset
from models.casper import RULES, similarity_task


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", dtype=torch.float64)


def by_hand(rule, x, t):
    """Score of one image, in plain Python numbers."""

    def cosine(a, b):
        dot = sum(p * q for p, q in zip(a, b, strict=True))
        return dot / (sum(p * p for p in a) * sum(q * q for q in b)) ** 0.5

    complement = [1 - value for value in t]
    if rule == "either":
        return max(cosine(x, t), cosine(x, complement))
    if rule == "closer":
        return cosine(x, t) - cosine(x, complement)
    return abs(cosine([v - sum(x) / len(x) for v in x], [v - sum(t) / len(t) for v in t]))


@pytest.mark.parametrize("rule", sorted(RULES))
def test_labels_are_the_scores_above_the_median(rule, digits):
    task = similarity_task(digits, 2, rule)
    target = digits.train_x[2].tolist()
    assert torch.equal(task.target, digits.train_x[2])
    scores = sorted(by_hand(rule, x.tolist(), target) for x in digits.train_x)
    assert task.threshold == pytest.approx(scores[len(scores) // 2], abs=1e-12)  # an odd number: the middle one
    for part in ("train", "test"):
        images, labels = getattr(task.data, f"{part}_x"), getattr(task.data, f"{part}_y")
        assert torch.equal(images, getattr(digits, f"{part}_x"))
        for x, label in zip(images[:50], labels[:50], strict=True):
            score = by_hand(rule, x.tolist(), target)
            assert abs(score - task.threshold) < 1e-9 or (score > task.threshold) == bool(label)
    assert abs(float(task.data.train_y.double().mean()) - 0.5) < 1e-3
    assert task.data.class_names == ("far", "close")
    assert task.data.name == f"digits_{rule}_2"


@pytest.mark.parametrize("rule", ["either", "centred"])
def test_target_and_complement_are_close(rule, digits):
    target = digits.train_x[2]
    test_x = torch.stack([target, 1 - target])
    data = dataclasses.replace(digits, test_x=test_x, test_y=torch.zeros(2, dtype=torch.int64))
    assert similarity_task(data, 2, rule).data.test_y.tolist() == [1, 1]
    assert similarity_task(data, 2, "closer").data.test_y.tolist() == [1, 0]


def dataset(train_x):
    y = torch.zeros(len(train_x), dtype=torch.int64)
    return Dataset("made", train_x, y, train_x, y, (1, 2), ("a", "b"))


@pytest.mark.parametrize(
    ("x", "index", "rule", "message"),
    [
        ([[0.1, 0.2], [0.3, 0.1]], 2, "either", r"index must be from 0 to 1 \(there are 2 training images\), got 2"),
        ([[0.1, 0.2], [0.3, 0.1]], 0, "eiter", "rule must be one of .*; did you mean 'either'"),
        ([[0.1, 0.2], [0.0, 0.0]], 0, "either", "train_x has 1 images that are zero; their cosine is not defined"),
        ([[0.0, 0.0], [0.3, 0.1]], 0, "either", "the target, training image 0, has 1 images that are zero"),
        ([[1.0, 1.0], [0.3, 0.1]], 0, "either", "the complement of the target"),
        ([[0.1, 0.2], [0.3, 0.3]], 0, "centred", "train_x has 1 images that are constant"),
        ([[0.1, 0.2], [0.1, 0.2]], 0, "either", "gives no training image a score above the median"),
    ],
)
def test_what_has_no_cosine_is_an_error(x, index, rule, message):
    with pytest.raises(ValueError, match=message):
        similarity_task(dataset(torch.tensor(x)), index, rule)
