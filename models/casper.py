"""A task with a known answer: is an image close to one target image, or to its complement? (Casper 2023)"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from models.data import Dataset
from tensornet_interp.checks import check_choice, check_int


def _either(x: Tensor, target: Tensor) -> Tensor:
    return torch.maximum(cosine_similarity(x, target[None]), cosine_similarity(x, 1 - target[None]))


def _centred(x: Tensor, target: Tensor) -> Tensor:
    return cosine_similarity(x - x.mean(1, keepdim=True), (target - target.mean())[None]).abs()


def _closer(x: Tensor, target: Tensor) -> Tensor:
    return cosine_similarity(x, target[None]) - cosine_similarity(x, 1 - target[None])


RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"either": _either, "centred": _centred, "closer": _closer}


@dataclass(frozen=True, eq=False)
class SimilarityTask:
    """A `SimilarityTask` is a data set with two classes: "close" if the score of an image is above the threshold.

    The other class is "far".
    """

    data: Dataset
    target: Tensor  # (pixel,)
    index: int  # of the target among the training images
    rule: str
    threshold: float  # median score of the training images


def similarity_task(data: Dataset, index: int, rule: str = "either") -> SimilarityTask:
    """Return the images of `data` with new labels, from their similarity to the training image number `index`.

    label[sample] = [score(x[sample]) > median of score over the training images]

    With the target t = train_x[index], the rule gives the score:
    - "either": max(cos(x, t), cos(x, 1 - t)). Close to the target or to its complement, as Casper words the task;
    - "centred": |cos(x - mean x, t - mean t)|. The same without the brightness; the complement becomes exactly -t;
    - "closer": cos(x, t) - cos(x, 1 - t). Closer to the target than to its complement. This score is linear in x / |x|,
      so the task needs no eigenvector.

    The median splits the training images into halves, so chance is 0.5.

    Raises ValueError for an index outside of the training images, for an unknown rule, for scores that are all equal,
    and for an image or a complement that is zero (centred: constant), because its cosine is not defined.
    """
    check_choice("rule", rule, RULES)
    index = check_int("index", index, 0, len(data.train_x) - 1, f"there are {len(data.train_x)} training images")
    target = data.train_x[index]
    _check_defined(rule, target[None], f"the target, training image {index},")
    _check_defined(rule, 1 - target[None], f"the complement of the target, training image {index},")
    for part, x in (("train_x", data.train_x), ("test_x", data.test_x)):
        _check_defined(rule, x, part)
    train, test = RULES[rule](data.train_x, target), RULES[rule](data.test_x, target)
    threshold = train.median()
    if not bool((train > threshold).any()):
        raise ValueError(f"rule {rule!r} with target {index} gives no training image a score above the median")
    made = replace(
        data,
        name=f"{data.name}_{rule}_{index}",
        train_y=(train > threshold).to(torch.int64),
        test_y=(test > threshold).to(torch.int64),
        class_names=("far", "close"),
        source=f"{data.source}; labels: rule {rule!r}, target {index}",
    )
    return SimilarityTask(made, target, index, rule, float(threshold))


def _check_defined(rule: str, x: Tensor, name: str) -> None:
    undefined = (x == x[:, :1]).all(1) if rule == "centred" else (x == 0).all(1)
    if bool(undefined.any()):
        kind = "constant" if rule == "centred" else "zero"
        raise ValueError(f"{name} has {int(undefined.sum())} images that are {kind}; their cosine is not defined")
