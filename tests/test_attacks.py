"""The attack of adversarial training: inside its ball, with a higher loss, and what a model learns from it."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from models.attacks import PGD
from models.bilinear import ClassifierConfig, build_classifier
from models.data import Dataset
from models.training import TrainingConfig, accuracy, train

CONFIG = ClassifierConfig(inputs=6, width=5, hidden=4, classes=3)
ROUNDING = 1e-12  # of float64, for sums of a few numbers of size 1


def problem(samples=20):
    """A classifier of random weights, inputs and labels, in float64."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(samples, 6, generator=generator, dtype=torch.float64)
    return build_classifier(CONFIG, 0, dtype=torch.float64), x, torch.arange(samples) % 3


def losses(model, x, labels):
    with torch.no_grad():
        return cross_entropy(model(x), labels, reduction="none")


@pytest.mark.parametrize("radius", [1e-3, 0.5, 20.0])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_every_change_stays_in_the_ball(radius, steps):
    model, x, labels = problem()
    before = x.clone()
    lengths = (PGD(radius, steps)(model, x, labels) - x).norm(dim=1)
    assert (lengths <= radius * (1 + ROUNDING) + ROUNDING).all()
    assert (lengths > radius / 2).all()
    assert torch.equal(x, before)


def test_a_short_step_raises_the_loss_of_every_sample_by_its_slope():
    """To first order the loss rises by radius * |gradient|; the rest is quadratic in the radius."""
    model, x, labels = problem()
    at = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(model(at), labels, reduction="sum"), at)
    rise = [losses(model, PGD(r, 1)(model, x, labels), labels) - losses(model, x, labels) for r in (1e-3, 1e-4)]
    assert (rise[0] > 0).all()
    off = [(found - r * gradient.norm(dim=1)).abs() for found, r in zip(rise, (1e-3, 1e-4), strict=True)]
    assert (off[1] < 0.02 * off[0] + ROUNDING).all()  # 0.01 of it, up to the cubic part


def test_more_steps_find_a_higher_loss_in_the_same_ball():
    model, x, labels = problem()
    one, many = (losses(model, PGD(1.0, steps)(model, x, labels), labels).mean() for steps in (1, 20))
    assert losses(model, x, labels).mean() < one < many


def test_the_worst_change_of_a_linear_model_is_found():
    """Two classes with logits w1 . x and w2 . x: the loss rises fastest, and most, along w_other - w_label."""
    generator = torch.Generator().manual_seed(5)
    model = torch.nn.Linear(4, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, 4, generator=generator, dtype=torch.float64))
    x = 1e-3 * torch.randn(8, 4, generator=generator, dtype=torch.float64)
    labels = torch.arange(8) % 2
    way = torch.nn.functional.normalize(model.weight.detach()[1 - labels] - model.weight.detach()[labels])
    torch.testing.assert_close(PGD(0.3, 4)(model, x, labels), x + 0.3 * way, rtol=0, atol=ROUNDING)


def test_a_sample_without_a_slope_stays_and_one_with_a_tiny_slope_moves():
    """The gradient at 0 of a bilinear classifier is 0, and at a saturated decision it is about 1e-130."""
    model, x, labels = problem()
    assert not PGD(0.5)(model, torch.zeros_like(x), labels).any()
    linear = torch.nn.Linear(1, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    far = torch.full((1, 1), 150.0, dtype=torch.float64)
    assert PGD(0.5)(linear, far, torch.tensor([0])).item() == pytest.approx(149.5)


def test_nothing_else_changes():
    model, x, labels = problem()
    model.eval()
    with torch.no_grad():
        moved = PGD(0.5)(model, x, labels)
        assert not torch.is_grad_enabled()
    assert not moved.requires_grad
    assert moved.dtype == x.dtype
    assert not model.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def strong_and_weak():
    """Labels that a weak input tells surely (0.2 for one class and -0.2 for the other), and a strong one in 9 of 10."""
    generator = torch.Generator().manual_seed(7)
    y = torch.arange(400) % 2
    sign = 2.0 * y - 1
    strong = sign * torch.where(torch.rand(400, generator=generator) < 0.9, 1.0, -1.0)
    x = torch.stack([0.2 * sign, strong, torch.ones(400)], 1)  # the constant makes linear functions possible
    return Dataset("two inputs", x, y, x, y, (1, 3), ("a", "b"))


def test_a_model_trained_under_attack_holds_and_pays_in_accuracy():
    """Within radius 0.4 the weak input may have either sign, so only the strong one is left, right in 9 of 10."""
    data, attack = strong_and_weak(), PGD(0.4)
    config = TrainingConfig(epochs=40, lr=0.02, weight_decay=0.0, batch_size=100, noise=0.0)
    found = {}
    for name, used in (("plain", None), ("adversarial", attack)):
        model = build_classifier(ClassifierConfig(inputs=3, width=4, hidden=8, classes=2), 0)
        train(model, data, config, progress=False, attack=used)
        moved = PGD(0.4, 20)(model, data.test_x, data.test_y)
        found[name] = accuracy(model, data.test_x, data.test_y), accuracy(model, moved, data.test_y)
    share = (data.test_x[:, 1] * (2 * data.test_y - 1) > 0).double().mean().item()
    assert found["plain"][0] == 1.0
    assert found["adversarial"] == pytest.approx((share, share))
    assert found["plain"][1] < share - 0.2


BAD = {
    "radius zero": (lambda: PGD(0.0), ValueError, "radius must be above 0, got 0.0"),
    "radius nan": (lambda: PGD(math.nan), ValueError, "radius must be finite, got nan"),
    "radius text": (lambda: PGD("1"), TypeError, "radius must be a number, got '1'"),
    "steps": (lambda: PGD(1.0, 0), ValueError, "steps must be at least 1, got 0"),
    "steps float": (lambda: PGD(1.0, 2.0), TypeError, "steps must be a whole number, got 2.0"),
    "images": (lambda: PGD(1.0)(problem()[0], torch.zeros(2, 3, 6), torch.zeros(2)), ValueError, "x must"),
    "not an attack": (
        lambda: train(problem()[0], strong_and_weak(), TrainingConfig(), progress=False, attack=0.5),
        TypeError,
        "attack must be a PGD, got float",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        call()
