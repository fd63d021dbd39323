"""The network of a module computes what the module does, with as few hidden units as its products need."""

import inspect
import random
import subprocess
import sys
import warnings

import pytest
import torch
from bad_input import cases, check
from helpers import normal
from own_models import REFUSED, TAKEN, Mix, built, inputs
from torch import nn

from tensornet_interp import BilinearLayer
from tensornet_interp.weights import from_module, polynomial_parts, verify

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}  # as promised; rounding is some 1e-7 and 1e-16


class Forward(nn.Module):
    """The module of a function of x and of some submodules and parameters."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)
        self.eval().double()

    def forward(self, x):
        return self.function(self, x)


def linear(n_in, n_out, seed=0):
    made = nn.Linear(n_in, n_out, dtype=torch.float64)
    with torch.no_grad():
        made.weight.copy_(normal(n_out, n_in, seed=seed) / n_in**0.5)
        made.bias.copy_(normal(n_out, seed=seed + 100))
    return made


def mix(width, hidden, seed=0):
    made = Mix(width, hidden)
    made.query, made.value, made.merge = (
        linear(a, b, seed + i) for i, (a, b) in enumerate(((width, hidden), (width, hidden), (hidden, width)))
    )
    return made


def network_of(model, *shape):
    network = from_module(model, normal(2, *shape, seed=1))
    assert verify(network, model, normal(20, *shape, seed=2)).relative < 1e-10
    return network


def ranks(network):
    return [layer.rank for layer in network.layers]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", TAKEN)
def test_ten_models_of_users_are_read(name, dtype):
    kind, shape = TAKEN[name]
    model = built(kind, dtype)
    network = from_module(model, inputs(3, shape, dtype))
    assert network.layers[0].down.dtype == dtype
    assert verify(network, model, inputs(20, shape, dtype, seed=2)).relative < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("name", "path", "operation", "code"),
    [
        ("a ReLU in the middle", "act (ReLU)", "relu", "return self.second(self.act(self.first(x)))"),
        ("an RMSNorm", "ln (RMSNorm)", "rsqrt", "return self.mlp(self.ln(x))"),
    ],
)
def test_what_is_no_polynomial_is_refused_with_its_place(name, path, operation, code):
    kind, shape = REFUSED[name]
    lines, first = inspect.getsourcelines(kind)
    number = first + [line.strip() for line in lines].index(code)
    with pytest.raises(ValueError, match="polynomial_parts") as caught:
        from_module(built(kind, torch.float32), inputs(3, shape, torch.float32))
    message = str(caught.value)
    assert f"{operation} in {path} " in message
    assert f"{inspect.getsourcefile(kind)}:{number}: `{code}`" in message


def test_the_line_is_that_of_a_helper_and_not_of_its_caller():
    def helper(x):
        return torch.sin(x)

    def forward(self, x):
        return self.a(helper(x)) * x

    with pytest.raises(ValueError, match=r"sin in the model itself .*`return torch\.sin\(x\)`"):
        from_module(Forward(forward, a=linear(3, 3)), normal(2, 3))


def test_parts_between_refused_operations_are_networks_of_their_submodules():
    for name, paths in (("a ReLU in the middle", ["first", "second"]), ("an RMSNorm", ["mlp"])):
        kind, shape = REFUSED[name]
        model = built(kind, torch.float64)
        parts = polynomial_parts(model, inputs(3, shape, torch.float64))
        assert list(parts) == paths
        for path, network in parts.items():
            assert verify(network, model.get_submodule(path), normal(20, *shape, seed=3)).relative < 1e-10
            assert [layer.name for layer in network.layers] == [path]


def test_parts_of_a_model_of_tokens_and_of_a_whole_polynomial():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.mlp, self.norm = nn.Embedding(5, 4), mix(4, 3), nn.LayerNorm(4)
            self.eval().double()

        def forward(self, x):
            stream = self.tokens(x)
            stream = self.mlp(self.norm(stream))
            return self.mlp(stream.tanh())

    model = Language()
    parts = polynomial_parts(model, torch.tensor([[1, 4], [0, 2]]))
    assert list(parts) == ["mlp", "mlp@1"]
    for network in parts.values():
        assert network.sizes == {"out": 8, "in1": 9, "in2": 9}
        assert verify(network, model.mlp, normal(5, 2, 4)).relative < 1e-10
    assert list(polynomial_parts(mix(4, 3).eval(), normal(2, 4))) == [""]
    assert polynomial_parts(linear(4, 3).eval(), normal(2, 4)) == {}


def test_a_residual_block_has_its_hidden_units_one_per_carried_value_and_the_constant():
    model = Forward(lambda self, x: self.two(self.one(x)), one=mix(5, 7), two=mix(5, 4, seed=9))
    network = network_of(model, 5)
    assert ranks(network) == [7 + 5 + 1, 4 + 5]  # on top, a value and its bias are one form, times 1
    assert [layer.name for layer in network.layers] == ["one", "two"]
    assert [layer.history for layer in network.layers][:1] == [("read from Forward, one",)]


@pytest.mark.parametrize("sizes", [(6, 2), (2, 6)])
def test_a_bilinear_module_has_outputs_times_its_smaller_input_units(sizes):
    pair = nn.Bilinear(*sizes, 3, bias=False)
    model = Forward(lambda self, x: self.pair(*(x[:, :size] for size in sizes)), pair=pair)
    assert ranks(network_of(model, 6)) == [3 * 2]


def test_names_say_which_call_of_a_shared_block_a_layer_is():
    model = Forward(lambda self, x: self.block(self.block(x)), block=mix(5, 7))
    assert [layer.name for layer in network_of(model, 5).layers] == ["block", "block@1"]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda self, x: x * self.a(x), [6 + 0]),  # the bias is a form's, no unit of its own
        (lambda self, x: self.a(x) ** 2, [6]),
        (lambda self, x: (x * self.a(x)).sum(-1, keepdim=True), [6]),
        (lambda self, x: (x[:, :, None] * x[:, None, :] * self.a.weight).sum((1, 2))[:, None], [6]),  # not 21
        (lambda self, x: torch.einsum("bi,ij,bj->b", x, self.a.weight, x), [6]),
        (lambda self, x: x[:, :2].prod(-1) * x[:, 2:4].prod(-1), [2, 1]),
        (lambda self, x: torch.cat([x * self.a(x), self.a(x) * x], 1), [6]),  # each product once
        (lambda self, x: self.a(x), [6]),  # affine: one form per output, times 1
        (lambda self, x: x * 0 * self.a(x) + x[:, :1], [1]),
        (lambda self, x: x[:, :1] * 0, [1]),  # no layer without a unit
    ],
)
def test_there_are_no_more_units_than_needed(function, expected):
    network = from_module(model := Forward(function, a=linear(6, 6)), x := normal(2, 6))
    assert ranks(network) == expected
    assert verify(network, model, x).difference < 1e-12


def test_products_are_computed_early_or_late_as_is_cheaper():
    """Of 8 inputs: a number that is needed at the top is carried, and 36 squares that are needed there are not."""

    def chain(self, x):
        return self.c(self.c(x[:, :1] ** 2) ** 2) ** 2

    def number(self, x):
        return chain(self, x) + (x**2).sum(-1, keepdim=True)

    def squares(self, x):
        return torch.cat([chain(self, x), (x[:, :, None] * x[:, None, :]).flatten(1)], 1)

    early = network_of(Forward(number, c=linear(1, 1)), 8)
    late = network_of(Forward(squares, c=linear(1, 1)), 8)
    # the number: 8 squares, carried by one unit a layer; the squares: 8 inputs carried twice, then 36 products
    assert sum(ranks(early)) <= (8 + 1) + (1 + 1 + 1) + (1 + 1 + 1)
    assert sum(ranks(late)) <= (1 + 8 + 1) + (1 + 8 + 1) + (1 + 36 + 1)


def test_what_is_constant_or_not_read_is_no_coordinate_between_layers():
    """Of 11 squares 5 are those of padding, and one has no weight above: 5 pass, beside the constant."""
    weight = normal(11, 12, seed=5)
    weight[4] = 0

    def forward(self, x):
        padded = nn.functional.pad(self.a(x), (2, 3), value=1.5)
        return (padded**2 @ self.weight) ** 2

    network = network_of(Forward(forward, a=linear(6, 6), weight=nn.Parameter(weight)), 6)
    assert ranks(network) == [5 + 1, 12]
    assert [layer.shape for layer in network.layers] == [(1 + 5, 1 + 6, 1 + 6), (12, 1 + 5, 1 + 5)]


def test_what_is_carried_past_twenty_products_keeps_every_bit():
    def forward(self, x):
        y = x[:, :2]
        for _ in range(20):
            y = y + 0.01 * y.flip(-1) * y
        return torch.cat([y, x], 1)

    model = Forward(forward).float()
    x = inputs(30, (5,), torch.float32)
    network = from_module(model, x)
    assert len(network) == 20
    assert torch.equal(network(x)[:, 2:], x)


def test_weights_beside_a_large_bias_keep_every_bit():
    a = linear(4, 3)
    with torch.no_grad():
        a.bias.fill_(1e8)
    (layer,) = from_module(Forward(lambda self, x: self.a(x) ** 2, a=a), normal(2, 4)).layers
    assert torch.equal(layer.left[1:].T, a.weight)
    assert torch.equal(layer.left[0], a.bias)


def random_forward(seed):
    """A random acyclic polynomial of 6 inputs: linear maps, products, squares, slices, joins, sums, permutations."""
    plan = random.Random(seed)
    steps = [plan.choice(("linear", "times", "square", "slice", "join", "add", "roll")) for _ in range(9)]
    picks = [(plan.random(), plan.random(), plan.randrange(6)) for _ in steps]

    def forward(self, x):
        values, power = [x], [1]
        for number, (step, (one, two, shift)) in enumerate(zip(steps, picks, strict=True)):
            i, j = int(one * len(values)), int(two * len(values))
            a, b, total = values[i], values[j], max(power[i], power[j])
            if step == "linear":
                made = getattr(self, f"linear{number % 3}")(a)
            elif step in ("times", "square") and power[i] + power[j if step == "times" else i] <= 8:
                made, total = (a * b, power[i] + power[j]) if step == "times" else (a**2, 2 * power[i])
            elif step == "slice":
                made = torch.cat([a[:, shift:], b[:, :shift]], 1)
            elif step == "join":
                made = torch.cat([a, b], 1)[:, ::2]
            else:
                made = a + b if step == "add" else a.roll(shift, 1)
            values.append(made / 2)
            power.append(total)
        return torch.cat(values[-3:], 1)

    return Forward(forward, **{f"linear{i}": linear(6, 6, seed=3 * seed + i) for i in range(3)})


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 48))])
def test_random_polynomials_are_read(seed):
    model, x = random_forward(seed), normal(20, 6, seed=seed)
    network = from_module(model, x[:1])
    assert verify(network, model, x).relative < 1e-10


def filled(self, x):
    y = torch.empty_like(x)
    y[:, :3].fill_(0.1)  # 0.1 in float64, not in the default dtype
    y[:, 3:].copy_(self.a(x)[:, :3])
    return y * torch.ones_like(x, dtype=torch.bool) * x


def in_place(self, x):
    x *= 2  # of the caller's input, too
    y = self.a(x)
    y *= x
    y[:, 0] = x[:, 1]
    y[:, 2:4] += 1
    self.kept = y
    return y


READ = {
    "filled and copied places": (filled, (6,)),
    "in-place writes, and a stored value": (in_place, (6,)),
    "a branch on the shape": (lambda self, x: self.a(x) * x if len(x) > 1 else x * self.a(x), (6,)),
    "no_grad and detach": (torch.no_grad()(lambda self, x: self.a(x.detach()) * x), (6,)),
    "a mask of parameters": (lambda self, x: torch.where(self.a.bias > 0, self.a(x), x) * x, (6,)),
    "linear attention": (lambda self, x: self.a(x) @ x.mT @ self.b(x), (4, 6)),
    "a fifth power": (lambda self, x: self.a(x) ** 5, (6,)),
    "a product along an axis": (lambda self, x: self.a(x).prod(-1), (6,)),
    "a product of all entries of a sample": (
        lambda self, x: torch.stack([row.prod() for row in self.a(x)[:, :3]])[:, None],
        (6,),
    ),
    "a matrix product added": (
        lambda self, x: torch.stack([torch.addmm(row, row, self.a(row), beta=2, alpha=3) for row in x]),
        (6, 6),
    ),
    "a power zero": (lambda self, x: self.a(x) ** 0 * x, (6,)),
    "a power of equal entries": (lambda self, x: self.a(x) ** torch.full((6,), 2.0), (6,)),
    "a batched product added": (lambda self, x: torch.baddbmm(x, x, self.a(x), beta=2, alpha=3), (6, 6)),
    "a matrix times a vector": (lambda self, x: torch.stack([torch.mv(row, self.a(row)[0]) for row in x]), (6, 6)),
    "a constant times one side": (lambda self, x: (self.a.weight @ x) @ x, (6, 6)),
    "indices, flips, sums": (lambda self, x: self.a(x)[:, [2, 0, 1]].flip(-1) * x.cumsum(-1)[:, :3], (6,)),
    "nn.functional.bilinear": (
        lambda self, x: nn.functional.bilinear(x, self.a(x), self.a.weight[None].expand(2, 6, 6)),
        (6,),
    ),
}


@pytest.mark.parametrize("name", READ)
def test_ways_to_write_a_polynomial(name):
    function, shape = READ[name]
    model = Forward(function, a=linear(6, 6), b=linear(6, 6, seed=3))
    x = normal(2, *shape, seed=1)
    before = [tensor.clone() for tensor in (x, *model.state_dict().values())]
    network = from_module(model, x)
    assert not hasattr(model, "kept")
    assert all(torch.equal(a, b) for a, b in zip((x, *model.state_dict().values()), before, strict=True))
    assert verify(network, model, normal(20, *shape, seed=2)).relative < 1e-10


def of(function, x=None, **parts):
    x = normal(2, 4, seed=1) if x is None else x
    return lambda: from_module(Forward(function, a=linear(4, 4), **parts), x)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x * self.calls


class Later(nn.Module):
    """Its Python number changes the next output."""

    calls = 0

    def forward(self, x):
        type(self).calls += 1
        return x * x * self.calls


def dropped_in_training():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).double().eval()
    model[1].train()
    return from_module(model, normal(2, 4))


REFUSALS = [
    ("training", lambda: from_module(nn.Linear(4, 4), torch.ones(1, 4)), ValueError, r"it is in training mode: call"),
    ("a submodule in training", dropped_in_training, ValueError, r"its submodule 1 is in training mode"),
    (
        "another size",
        of(lambda self, x: self.a(x) ** 2, normal(2, 3)),
        ValueError,
        "model.example. of Forward cannot be",
    ),
    ("two inputs", lambda: from_module(nn.Bilinear(4, 4, 2).eval(), torch.ones(1, 4)), ValueError, "model.example"),
    ("a tuple", of(lambda self, x: x, (torch.ones(1, 4),)), TypeError, "example must be one tensor .*tuple"),
    ("whole numbers", of(lambda self, x: x, torch.ones(1, 4).long()), TypeError, "example must be float64.*int64"),
    ("no batch", of(lambda self, x: x, torch.ones(4)), ValueError, r"example must be \(batch, ...\).*\(4,\)"),
    ("no sample", of(lambda self, x: x, torch.ones(0, 4)), ValueError, "at least one sample"),
    ("NaN", of(lambda self, x: x, torch.full((1, 4), torch.nan)), ValueError, "example has entries that are NaN"),
    ("two outputs", of(lambda self, x: (x, x)), ValueError, "model must return one tensor"),
    ("a dict", of(lambda self, x: {"y": x * x}), ValueError, "model must return one tensor"),
    ("a number", of(lambda self, x: (x * x).sum()), ValueError, r"output of model must be \(batch, ...\)"),
    ("no input", of(lambda self, x: self.a.weight), ValueError, "output of model does not depend on its input"),
    ("a branch on data", of(lambda self, x: x * x if x.sum() > 0 else x), ValueError, "decides by the values"),
    ("a branch on a parameter", of(lambda self, x: x if self.a.bias[0] > 0 else x * x), ValueError, "Python number"),
    (
        "complex weights",
        of(lambda self, x: (x @ self.w).real, w=nn.Parameter(torch.ones(4, 4) * 1j)),
        ValueError,
        "real",
    ),
    ("rows mixed", of(lambda self, x: x * (x - x.mean(0))), ValueError, "mixes the rows of a batch"),
    ("random", of(lambda self, x: x * torch.rand(4)), ValueError, "rand in .* is random"),
    ("dropout by hand", of(lambda self, x: x * nn.functional.dropout(x)), ValueError, "is random"),
    ("a clamp far away", of(lambda self, x: x * x.clamp(-1e6, 1e6)), ValueError, "clamp in the model itself"),
    ("data in a comparison", of(lambda self, x: torch.where(x > 0, x, x * x)), ValueError, "gt in the model itself"),
    ("rounding", of(lambda self, x: x.long().double() * x), ValueError, "rounds to torch.int64"),
    ("division by data", of(lambda self, x: x / self.a(x)), ValueError, "divides by what depends on the input"),
    ("floor division", of(lambda self, x: x // 2), ValueError, "or rounds"),
    ("a negative power", of(lambda self, x: self.a(x) ** -1), ValueError, "power other than 0, 1, 2"),
    ("softmax", of(lambda self, x: self.a(x).softmax(-1)), ValueError, "exponentials and a division"),
    ("the largest", of(lambda self, x: x * x.amax(-1, keepdim=True)), ValueError, "amax in the model itself"),
    ("a buffer written", lambda: from_module(Counting().eval(), torch.ones(1, 4)), ValueError, "its buffer 'calls'"),
    ("a Python number", lambda: from_module(Later().eval(), torch.ones(1, 4)), ValueError, "two outputs for one input"),
    (
        "weights without numbers",
        lambda: from_module(nn.Linear(4, 4, device="meta").eval(), torch.ones(1, 4)),
        ValueError,
        "on the device meta",
    ),
    ("powers that differ", of(lambda self, x: x ** torch.arange(4.0)), ValueError, "power other than 0, 1, 2"),
    (
        "a bilinear weight made of the input",
        of(lambda self, x: nn.functional.bilinear(x, x, torch.einsum("bi,j,k->ijk", x, x[0], x[0]))),
        ValueError,
        "has a weight that depends on the input, a product of three",
    ),
    ("an infinite power", of(lambda self, x: x**torch.inf), ValueError, "power other than 0, 1, 2"),
    ("an error of its own", of(lambda self, x: 1 / 0), ValueError, "ZeroDivisionError: division by zero"),
    (
        "too large",
        lambda: from_module(nn.Bilinear(4, 4, 2).eval(), torch.ones(1, 4), max_elements=0),
        ValueError,
        "max_elements must be at least 1",
    ),
    (
        "more weights than the limit",
        lambda: from_module(mix(40, 40).eval(), normal(1, 40), max_elements=1000),
        ValueError,
        r"would have 6.4e\+03 weights, above max_elements=1.0e\+03",
    ),
    (
        "overflow",
        lambda: from_module(mix(4, 4).float().eval(), torch.full((1, 4), 1e30)),
        ValueError,
        "model gives NaN or infinity at the example in torch.float32",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), cases(REFUSALS))
def test_bad_models_and_examples_are_refused_without_a_word_on_the_console(call, kind, message, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(call, kind, message)
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


@pytest.mark.slow
def test_a_new_process_hears_nothing_from_the_tracer_either():
    code = """
import torch
from torch import nn
from tensornet_interp.weights import from_module

class Branch(nn.Module):
    def forward(self, x):
        return x * x if x.sum() > 0 else x

for model in (nn.Linear(4, 4), Branch(), nn.ReLU(), nn.Bilinear(3, 3, 3)):
    try:
        from_module(model.eval(), torch.ones(1, 3))
    except ValueError as error:
        print(str(error).splitlines()[0])
"""
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=200)
    assert (run.returncode, run.stderr) == (0, "")
    assert len(run.stdout.splitlines()) == 4


def test_one_output_for_a_whole_batch_is_refused():
    model = Forward(lambda self, x: torch.prod(self.inner(x)) * x.new_ones(1, 1), inner=nn.Linear(4, 1))
    with pytest.raises(ValueError, match="model mixes the rows of a batch"):
        from_module(model, normal(2, 4))


def test_a_part_that_mixes_rows_is_refused():
    model = Forward(lambda self, x: self.inner(x.relu()), inner=Forward(lambda self, x: x * (x - x.mean(0))))
    with pytest.raises(ValueError, match="differs from model's inner"):
        polynomial_parts(model, normal(2, 4))


def test_the_check_is_on_32_random_inputs_besides_the_example():
    rows = []
    model = Forward(lambda self, x: (rows.append(len(x)), self.inner(x).square())[1], inner=nn.Linear(4, 3))
    from_module(model, normal(2, 4))
    assert max(rows) == 2 + 32


def test_the_model_may_be_half_precise():
    model = built(TAKEN["squares"][0], torch.bfloat16)
    x = inputs(20, TAKEN["squares"][1], torch.bfloat16)
    network = from_module(model, x)
    assert network.layers[0].down.dtype == torch.bfloat16
    wide = from_module(built(TAKEN["squares"][0], torch.bfloat16).double(), x.double())
    assert verify(network.to(dtype=torch.float64), wide, x.double()).relative < 1e-12  # the weights are the model's


def test_verify_says_where_and_by_how_much():
    layer = BilinearLayer.from_weights(left=torch.eye(3), right=torch.eye(3), down=torch.eye(3)[:2])  # x0^2, x1^2
    x = torch.tensor([[1.0, 1, 1], [1, 2, 0], [2, 3, 0]])

    def model(x):  # right but for 0.5 x2 in output 0, and 1 where x1 is 3
        return torch.stack([x[:, 0] ** 2 + 0.5 * x[:, 2], x[:, 1] ** 2 + (x[:, 1] == 3)], 1)

    found = verify(layer, model, x)
    assert (found.difference, found.relative) == (1.0, 1.0 / 10)
    assert (found.worst_input, found.worst_output, found.samples) == (2, 1, 3)
    assert found.by_output.tolist() == [0.5, 1.0]
    assert (
        str(found)
        == "3 inputs, 2 outputs: largest difference 1.0e+00 (1.0e-01 of the largest output), at input 2, output 1"
    )


def test_verify_serves_a_model_of_images_and_one_of_zeros():
    model = Forward(lambda self, x: x.mT.square())
    layer = BilinearLayer(
        down=torch.eye(6).double()[[0, 2, 4, 1, 3, 5]], left=torch.eye(6).double(), right=torch.eye(6).double()
    )
    assert verify(layer, model, normal(4, 3, 2)).difference == 0
    assert verify(layer, lambda x: 0 * x, normal(4, 6)).relative == float(normal(4, 6).square().max())


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    cases(
        [
            ("training", lambda x: verify(LAYER, nn.Linear(4, 4), x), ValueError, "evaluation mode"),
            ("no function", lambda x: verify(LAYER, 3, x), TypeError, "model must be a module or another function"),
            ("one vector", lambda x: verify(LAYER, LAYER, x[0]), ValueError, r"x must be \(sample, ...\)"),
            ("other inputs", lambda x: verify(LAYER, LAYER, x[:, :3]), ValueError, "mode 'in' has size 4"),
            ("other outputs", lambda x: verify(LAYER, lambda x: x[:, :3], x), ValueError, "mode 'out' has size 4"),
            ("other samples", lambda x: verify(LAYER, lambda x: x[:1], x), ValueError, "mode 'sample' has size 2"),
            ("NaN", lambda x: verify(LAYER, lambda x: x / 0, x), ValueError, "output of model has"),
        ]
    ),
)
def test_what_cannot_be_verified_is_refused(call, kind, message):
    check(lambda: call(normal(2, 4)), kind, message)


LAYER = BilinearLayer.from_weights(left=normal(3, 4), right=normal(3, 4), down=normal(4, 3))
