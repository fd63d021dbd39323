"""A planted circuit is confirmed, others are refuted, and the control removes as much as the circuit does."""

import pytest
import torch

from tensornet_interp import BilinearLayer, lift
from tensornet_interp.features import REMOVAL_RULE, Dictionary, circuit_tests, plane_part, random_part, removal_test
from tensornet_interp.gated import GatedLayer

D, NOT, GOOD = 16, 2, 5  # input features are the axes
WINDOW = 8


def layer(kind):
    """Output 0: "gate" is not * good, like "not good"; "diffuse" the sum of all squares, of all but equal weight."""
    left, right = torch.zeros(D, D), torch.zeros(D, D)
    if kind == "gate":
        left[NOT, 0] = right[GOOD, 0] = 1.0
    else:
        left, right = torch.diag(1 + 0.01 * torch.arange(D)), torch.eye(D)
    down = torch.zeros(3, D)
    down[0] = 1.0
    return BilinearLayer(down=down, left=left, right=right, basis="planted")


def data(tokens=400, seed=0):
    """Sparse inputs in which both features of the gate are active among five others; (token, in), (token,)."""
    generator = torch.Generator().manual_seed(seed)
    score = torch.rand(tokens, D, generator=generator)
    score[:, [NOT, GOOD]] = 2
    chosen = score.topk(7, dim=1).indices
    x = torch.zeros(tokens, D).scatter(1, chosen, 1 + torch.rand(tokens, 7, generator=generator))
    return x, torch.arange(tokens) // WINDOW


INPUTS = Dictionary(torch.eye(D), torch.eye(D), name="in")
OUTPUTS = Dictionary(torch.eye(3), torch.eye(3), name="out")


def run(kind, members, tokens=400):
    x, window = data(tokens)
    return circuit_tests(layer(kind), INPUTS, OUTPUTS, 0, torch.tensor(members), x, window)


def test_a_planted_circuit_is_confirmed_by_its_features_and_by_its_plane():
    features, plane = run("gate", [NOT, GOOD])
    for verdict in (features, plane):
        assert verdict.drop == pytest.approx(1, abs=1e-5)  # without either input the product is zero
        assert verdict.control_drop == pytest.approx(0, abs=1e-5)  # the others do not enter
        assert verdict.low > 0.9
        assert verdict.verdict == "confirmed"
    assert (features.tokens, features.windows) == (400, 50)
    assert (features.removed, plane.removed) == ("input features", "leading plane")
    x, _ = data()
    assert features.length == pytest.approx(float((x[:, [NOT, GOOD]].norm(dim=1) / x.norm(dim=1)).mean()), abs=1e-6)


def test_a_gated_layer_is_run_as_it_is():
    """On inputs with left x >= 0 a ReLU is no gate; where removal makes left x negative, it gives 0."""
    bilinear = layer("gate")
    gated = GatedLayer(down=bilinear.down, left=bilinear.left, right=bilinear.right, gate="relu")
    x, window = data()
    removed = torch.zeros_like(x)
    removed[:, NOT] = x[:, NOT] / 2
    control = torch.zeros_like(x)
    same = [removal_test(part, OUTPUTS, 0, x, removed, control, window) for part in (bilinear, gated)]
    assert same[0] == same[1]
    assert same[0].drop == pytest.approx(0.5, abs=1e-6)
    removed[:, [NOT, GOOD]] = 2 * x[:, [NOT, GOOD]]  # the product of the two is as before
    drops = [removal_test(part, OUTPUTS, 0, x, removed, control, window).drop for part in (bilinear, gated)]
    assert drops == pytest.approx([0, 1], abs=1e-6)
    with pytest.raises(TypeError, match="layer must be a BilinearLayer, got int and no GatedLayer"):
        removal_test(3, OUTPUTS, 0, x, removed, control, window)


def test_a_lifted_layer_is_tested_without_its_constant_coordinates():
    x, window = data()
    found = circuit_tests(lift(layer("gate")), INPUTS, OUTPUTS, 0, torch.tensor([NOT, GOOD]), x, window)
    for lifted, plain in zip(found, run("gate", [NOT, GOOD]), strict=True):
        assert (lifted.verdict, lifted.drop) == (plain.verdict, pytest.approx(plain.drop, abs=1e-5))


def test_features_that_do_not_enter_are_refuted():
    features, plane = run("gate", [0, 1])
    assert features.drop == pytest.approx(0, abs=1e-6)
    assert features.verdict == "refuted"
    assert plane.verdict == "confirmed"  # the plane is the layer's own


def test_a_part_of_a_diffuse_feature_is_refuted():
    """All 16 axes carry it: two of them, and the leading plane, which is two axes, carry about an eighth."""
    features, plane = run("diffuse", [0, 1])
    assert features.drop < REMOVAL_RULE.min_drop / 2
    assert plane.drop < REMOVAL_RULE.min_drop / 2
    assert (features.verdict, plane.verdict) == ("refuted", "refuted")


def test_a_circuit_that_carries_no_more_than_the_control_is_refuted():
    x, window = data()
    part = 0.9 * x
    found = removal_test(layer("gate"), OUTPUTS, 0, x, part, part, window)
    assert found.drop == pytest.approx(1 - 0.1**2, abs=1e-4)
    assert found.difference == 0
    assert found.verdict == "refuted"


def test_few_windows_decide_nothing():
    assert run("gate", [NOT, GOOD], tokens=9 * WINDOW)[0].verdict == "untested"
    assert run("gate", [NOT, GOOD], tokens=10 * WINDOW)[0].verdict == "confirmed"


def test_the_interval_is_that_of_the_mean_over_windows():
    """By hand, with scipy's t interval replaced by its table: 2.010 for 49 degrees of freedom."""
    x, window = data()
    part, control = feature_like(x, [NOT]) * 0.3, feature_like(x, [GOOD]) * 0.1
    found = removal_test(layer("gate"), OUTPUTS, 0, x, part, control, window)
    truth = (x[:, NOT] * x[:, GOOD]).double()
    drops = (truth * (0.3 - 0.1)).reshape(50, WINDOW).mean(1) / truth.reshape(50, WINDOW).mean()
    assert found.difference == pytest.approx(float(drops.mean()), rel=1e-5)
    reach = 2.0096 * float(drops.std()) / 50**0.5
    assert found.low == pytest.approx(float(drops.mean()) - reach, rel=1e-4)
    assert found.high == pytest.approx(float(drops.mean()) + reach, rel=1e-4)


def feature_like(x, features):
    part = torch.zeros_like(x)
    part[:, features] = x[:, features]
    return part


def test_the_bias_of_the_output_dictionary_counts():
    x, window = data()
    shifted = Dictionary(torch.eye(3), torch.eye(3), decoder_bias=torch.tensor([0.5, 0.0, 0.0]))
    with_bias = removal_test(layer("gate"), shifted, 0, x, 0 * x, 0 * x, window)
    expected = (x[:, NOT] * x[:, GOOD] - 0.5).relu().mean()
    assert with_bias.activation == pytest.approx(float(expected), rel=1e-5)
    assert with_bias.drop == 0


def test_the_control_is_as_long_and_of_other_active_features():
    x, _ = data()
    like = feature_like(x, [NOT, GOOD])
    count = torch.randint(0, 4, (len(x),), generator=torch.Generator().manual_seed(3))
    part = random_part(x, torch.eye(D), like, count, torch.tensor([NOT, GOOD]), seed=0)
    assert torch.equal((part != 0).sum(1), count)
    assert not bool(part[:, [NOT, GOOD]].any())
    assert not bool(part[x == 0].any())
    some = count > 0
    torch.testing.assert_close(part[some].norm(dim=1), like[some].norm(dim=1))
    again = random_part(x, torch.eye(D), like, count, torch.tensor([NOT, GOOD]), seed=0)
    other = random_part(x, torch.eye(D), like, count, torch.tensor([NOT, GOOD]), seed=1)
    assert torch.equal(part, again)
    assert not torch.equal(part, other)
    few = random_part(x, torch.eye(D), like, torch.full_like(count, 9), torch.tensor([NOT, GOOD]), seed=0)
    assert torch.equal((few != 0).sum(1), torch.full((400,), 5))  # no more than there are


def test_what_is_left_has_no_part_in_the_plane():
    x, _ = data()
    vectors = torch.linalg.qr(torch.randn(D, 2, generator=torch.Generator().manual_seed(0))).Q
    assert float(((x - plane_part(x, vectors)) @ vectors).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feature": 3}, "feature must be from 0 to 2, got 3"),
        ({"removed": torch.zeros(399, D)}, "mode 'token' has size 400 in x but 399 in removed"),
        ({"control": torch.zeros(400, D + 1)}, "mode 'in' has size 16 in x but 17 in control"),
        ({"window": torch.zeros(3, dtype=torch.int64)}, "mode 'token' has size 400 in x but 3 in window"),
        ({"window": torch.full((400,), -1)}, "window must be from 0, got -1 to -1"),
        ({"x": torch.zeros(400, D)}, "feature 0 is active; its mean activation there is 0"),
        ({"removed": torch.full((400, D), float("nan"))}, "removed has 6400 entries that are NaN"),
    ],
)
def test_bad_input(change, message):
    x, window = data()
    options = {"feature": 0, "x": x, "removed": 0 * x, "control": 0 * x, "window": window} | change
    with pytest.raises(ValueError, match=message):
        removal_test(layer("gate"), OUTPUTS, **options)
