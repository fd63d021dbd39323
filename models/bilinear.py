"""Bilinear layers and classifiers as `nn.Module`s, which give their tensors exactly."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from tensornet_interp import BilinearLayer, BilinearNetwork, lift
from tensornet_interp.checks import check_bool, check_choice, check_int, check_number
from tensornet_interp.gated import GatedLayer
from tensornet_interp.layer import AS_GIVEN
from tensornet_interp.names import Names

GATES: dict[str, Callable[[Tensor], Tensor] | None] = {
    "none": None,  # bilinear
    "relu": functional.relu,  # ReGLU (Shazeer 2020)
    "silu": functional.silu,  # SwiGLU
    "gelu": functional.gelu,  # GEGLU
}

EMBEDDING_BASIS = "embedding"
INPUT_BASIS = "pixels"


def _weight(linear: nn.Linear) -> Tensor:
    # A copy: the tensor does not change if the model is trained further.
    return linear.weight.detach().clone()


def _bias(linear: nn.Linear | None) -> Tensor | None:
    return None if linear is None or linear.bias is None else linear.bias.detach().clone()


class Bilinear(nn.Module):
    """A `Bilinear` is a bilinear layer, or with a gate a gated one (ReGLU, SwiGLU, GEGLU).

    y = down(gate(left x + a) * (right x + b)) + c + linear x + residual x

    `outputs=None` leaves out `down` and c, so y is the hidden vector. `bias=True` adds a, b and c; `linear=True` adds
    the linear part, which needs `outputs`. `gate` acts on the left half only: "none" (bilinear), "relu", "silu" or
    "gelu". A gated layer is not a tensor. `residual` is a fixed coefficient, not a parameter, and needs as many outputs
    as inputs.

    x is (..., inputs), y is (..., outputs). Cost: 2 hidden (2 inputs + outputs) flops per sample.

    >>> Bilinear(4, 3, 2)(torch.zeros(5, 4)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int | None,
        *,
        bias: bool = False,
        linear: bool = False,
        residual: float = 0.0,
        gate: str = "none",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_int("inputs", inputs, 1)
        check_int("hidden", hidden, 1)
        if outputs is not None:
            check_int("outputs", outputs, 1)
        check_bool("bias", bias)
        if check_bool("linear", linear) and outputs is None:
            raise ValueError("linear=True adds a linear part to the outputs, so outputs must be given")
        self.residual = check_number("residual", residual)
        self.gate = check_choice("gate", gate, GATES)
        self.activation = GATES[gate]  # models/annealing.py may replace it by a module
        size = hidden if outputs is None else outputs
        if self.residual and size != inputs:
            raise ValueError(
                f"residual={residual} needs as many outputs as inputs, got inputs={inputs} and outputs={size}"
            )
        self.left = nn.Linear(inputs, hidden, bias=bias, device=device, dtype=dtype)
        self.right = nn.Linear(inputs, hidden, bias=bias, device=device, dtype=dtype)
        self.down = None if outputs is None else nn.Linear(hidden, outputs, bias=bias, device=device, dtype=dtype)
        self.linear = nn.Linear(inputs, size, bias=False, device=device, dtype=dtype) if linear else None

    def forward(self, x: Tensor) -> Tensor:
        """Return y of the equation above: (..., inputs) -> (..., outputs)."""
        left = self.left(x)  # (..., hidden)
        if self.activation is not None:
            left = self.activation(left)
        y: Tensor = left * self.right(x)
        if self.down is not None:
            y = self.down(y)  # (..., outputs)
        if self.linear is not None:
            y = y + self.linear(x)
        return y + self.residual * x if self.residual else y

    def layer(self, name: str = "", basis: str = AS_GIVEN) -> BilinearLayer:
        """Return this module as a `BilinearLayer`, exactly: `module.layer()(x)` is `module(x)`.

        B[out, in1, in2] = sum_hidden down[out, hidden] left[hidden, in1] right[hidden, in2]

        With biases, a linear part or a residual, the layer is lifted: it has a constant coordinate. The weights are
        copies without gradients. Raises ValueError for a gated layer.
        """
        if self.gate != "none":
            raise ValueError(
                f"a layer with gate={self.gate!r} is not bilinear and has no tensor; gated_layer() and gated.linearize "
                "give the best bilinear layer, or train one with gate='none'"
            )
        left, right = _weight(self.left), _weight(self.right)
        if self.down is None:
            down = torch.eye(left.shape[0], device=left.device, dtype=left.dtype)
        else:
            down = _weight(self.down)
        layer = BilinearLayer.from_weights(left=left, right=right, down=down, name=name, basis=basis)
        parts = {"left_bias": _bias(self.left), "right_bias": _bias(self.right), "bias": _bias(self.down)}
        parts["linear"] = None if self.linear is None else _weight(self.linear)
        if all(part is None for part in parts.values()) and not self.residual:
            return layer
        return lift(layer, residual=self.residual, **parts)

    def gated_layer(self, name: str = "", basis: str = AS_GIVEN) -> GatedLayer:
        """Return this module as a `GatedLayer`, exactly: `module.gated_layer()(x)` is `module(x)`.

        The weights are copies without gradients. Raises ValueError without a gate, which gives a layer, and for a
        module with a residual or a linear part or without `down`.
        """
        if self.gate == "none" or self.residual or self.down is None or self.linear is not None:
            raise ValueError(
                f"a gated layer needs a gate, down, no residual and no linear part, got gate={self.gate!r}, "
                f"residual={self.residual}, down={self.down is not None} and linear={self.linear is not None}; without "
                "a gate, layer() gives its tensor"
            )
        return GatedLayer.from_weights(
            left=_weight(self.left),
            right=_weight(self.right),
            down=_weight(self.down),
            gate=self.gate,
            left_bias=_bias(self.left),
            right_bias=_bias(self.right),
            bias=_bias(self.down),
            name=name,
            basis=basis,
        )


@dataclass(frozen=True)
class ClassifierConfig:
    """A `ClassifierConfig` holds the sizes and options of a `BilinearClassifier`.

    The defaults are a common exercise model for MNIST. `width` is the size of the embedding; None means no embedding.
    With `down`, every block maps width -> width. Without `down`, a block puts out its hidden vector, the head takes the
    place of `down`, and later blocks map hidden -> hidden. `bias` gives every linear map a bias, embedding and head
    included. `residual` is the coefficient in y = block(x) + residual x of every block.
    """

    inputs: int = 784
    width: int | None = 256
    hidden: int = 256
    classes: int = 10
    n_layers: int = 1
    down: bool = False
    bias: bool = False
    residual: float = 0.0
    gate: str = "none"

    def __post_init__(self) -> None:
        check_int("inputs", self.inputs, 1)
        if self.width is not None:
            check_int("width", self.width, 1)
        check_int("hidden", self.hidden, 1)
        check_int("classes", self.classes, 1)
        check_int("n_layers", self.n_layers, 1)
        check_bool("down", self.down)
        check_bool("bias", self.bias)
        check_number("residual", self.residual)
        check_choice("gate", self.gate, GATES)
        if self.residual and not self.down and self.hidden != self.embedded:
            raise ValueError(
                f"residual={self.residual} with down=False needs hidden equal to the input size of the first block, "
                f"got hidden={self.hidden} and {self.embedded}"
            )

    @property
    def embedded(self) -> int:
        """The input size of the first block."""
        return self.inputs if self.width is None else self.width


class BilinearClassifier(nn.Module):
    """A `BilinearClassifier` is an embedding, a stack of `Bilinear` blocks and a linear head.

    logits = head(block_L(... block_1(embedding x)))

    x is (..., inputs), logits are (..., classes). `ClassifierConfig` has the options.

    >>> model = build_classifier(ClassifierConfig(inputs=6, width=5, hidden=4, classes=3), seed=0)
    >>> x = torch.ones(2, 6)
    >>> torch.allclose(model.network("input")(x), model(x), atol=1e-6)
    True
    """

    def __init__(
        self,
        config: ClassifierConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.names = Names()  # training fills them from the data set, and `network` hands them on
        size, bias = config.embedded, config.bias
        if config.width is None:
            self.embedding = None
        else:
            self.embedding = nn.Linear(config.inputs, size, bias=bias, device=device, dtype=dtype)
        self.blocks = nn.ModuleList()
        for _ in range(config.n_layers):
            outputs = size if config.down else None
            block = Bilinear(
                size,
                config.hidden,
                outputs,
                bias=bias,
                residual=config.residual,
                gate=config.gate,
                device=device,
                dtype=dtype,
            )
            self.blocks.append(block)
            size = size if config.down else config.hidden
        self.head = nn.Linear(size, config.classes, bias=bias, device=device, dtype=dtype)

    def embed(self, x: Tensor) -> Tensor:
        """Return embedding x, or x itself without an embedding: (..., inputs) -> (..., width)."""
        if x.shape[-1:] != (self.config.inputs,):
            raise ValueError(f"x has shape {tuple(x.shape)}, but its last mode must have inputs={self.config.inputs}")
        return x if self.embedding is None else self.embedding(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits: (..., inputs) -> (..., classes)."""
        h = self.embed(x)
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.head(h)
        return logits

    def network(self, basis: str) -> BilinearNetwork:
        """Return the model as a stack of bilinear layers, exactly: network(x) are the logits of x.

        `basis` has no default, because spectra depend on it. "input" absorbs the embedding in the first layer, and the
        network takes x. "embedding" leaves the embedding out, and the network takes `embed(x)`. The head is absorbed in
        the last layer. With biases or residuals, every layer is lifted. The layers are named "layer 0", "layer 1", ...,
        and every layer states its basis. A trained model knows the classes and the images of its data set (`names`).

        Raises ValueError for a gated model, for an unknown basis, and for "embedding" if the model has no embedding.
        Cost: 2 hidden (2 inputs width + classes width) flops, two matrix products per layer, and memory for the copies.
        """
        check_choice("basis", basis, ("embedding", "input"))
        if basis == "embedding" and self.embedding is None:
            raise ValueError("basis='embedding' needs an embedding but width=None; use basis='input'")
        layers = []
        for index, block in enumerate(self.blocks):
            if not isinstance(block, Bilinear):
                raise TypeError(f"block {index} is a {type(block).__name__}, not a Bilinear")
            first = INPUT_BASIS if self.embedding is None else EMBEDDING_BASIS
            layers.append(block.layer(f"layer {index}", f"outputs of layer {index - 1}" if index else first))
        if basis == "input" and self.embedding is not None:
            embedding = self.embedding
            layers[0] = layers[0].change_basis(
                inputs=_weight(embedding), input_bias=_bias(embedding), basis=INPUT_BASIS
            )
        layers[-1] = layers[-1].change_basis(
            outputs=_weight(self.head), output_bias=_bias(self.head), note="head absorbed: outputs are logits"
        )
        names = self.names.without(inputs=basis == "embedding")
        return BilinearNetwork(layers).with_names(output_names=names.output_names, input_shape=names.input_shape)


def build_classifier(
    config: ClassifierConfig, seed: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> BilinearClassifier:
    """Return a newly initialised classifier: the same `seed` gives the same weights on every device.

    The weights are drawn on the CPU. The global random streams stay as they are.
    """
    check_int("seed", seed, 0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the other devices too
        model = BilinearClassifier(config, device="cpu", dtype=dtype)
    return model.to(device)
