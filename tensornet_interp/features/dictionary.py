"""Feature dictionaries (sparse autoencoders, or any matrix), and a layer between two of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tensornet_interp.checks import check_alike, check_int, check_size, check_tensor
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.lifting import lift


@dataclass(frozen=True, eq=False)  # a tensor has no single truth value
class Dictionary:
    """f[feature] = act(sum_d encoder[feature, d] (x[d] - center[d]) + encoder_bias[feature]), and back
    x[d] = sum_feature decoder[d, feature] f[feature] + decoder_bias[d].

    Both in `nn.Linear.weight` layout: the rows of `encoder` read a feature, the columns of `decoder` write it.
    center is decoder_bias, or zero without `centered`. act keeps the `k` largest of a sample (TopK) and zeroes the
    rest, then the negative ones with `rectify`, then those not above `threshold` (JumpReLU); None: no such step.
    `point`: where its vectors live in the model, as "mlp-in" or "blocks.3.hook_mlp_out"; before or after a norm
    matters: the input dictionary of a layer must live where the layer reads.
    """

    encoder: Tensor  # (feature, d)
    decoder: Tensor  # (d, feature)
    encoder_bias: Tensor | None = None  # (feature,)
    decoder_bias: Tensor | None = None  # (d,)
    threshold: Tensor | None = None  # (feature,)
    k: int | None = None
    rectify: bool = True
    centered: bool = True
    name: str = ""
    point: str = ""

    def __post_init__(self) -> None:
        check_tensor("encoder", self.encoder, ("feature", "d"))
        check_tensor("decoder", self.decoder, ("d", "feature"))
        features, d = self.encoder.shape
        if self.decoder.shape != (d, features):
            raise ValueError(
                f"encoder is (feature, d) and decoder (d, feature), got {tuple(self.encoder.shape)} and "
                f"{tuple(self.decoder.shape)}: rows of the encoder and columns of the decoder are the features"
            )
        sizes = {"encoder_bias": ("feature", features), "threshold": ("feature", features), "decoder_bias": ("d", d)}
        for name, (mode, size) in sizes.items():
            vector = getattr(self, name)
            if vector is not None:
                check_tensor(name, vector, (mode,))
                check_size(mode, encoder=size, **{name: vector.shape[0]})
                check_alike(encoder=self.encoder, **{name: vector})
        check_alike(encoder=self.encoder, decoder=self.decoder)
        if self.k is not None:
            check_int("k", self.k, 1, features, "the number of features")

    @classmethod
    def from_matrix(
        cls, decoder: Tensor, encoder: Tensor | None = None, *, name: str = "", point: str = ""
    ) -> "Dictionary":
        """f = encoder x, x = decoder f: a linear one; decoder (d, feature), the encoder by default its transpose."""
        check_tensor("decoder", decoder, ("d", "feature"))
        encoder = decoder.T if encoder is None else encoder
        return cls(encoder, decoder, rectify=False, name=name, point=point)

    @property
    def features(self) -> int:
        """Number of features."""
        return self.encoder.shape[0]

    @property
    def width(self) -> int:
        """d, the size of the space that is described."""
        return self.encoder.shape[1]

    def __repr__(self) -> str:
        k = "" if self.k is None else f", k={self.k}"
        return f"Dictionary({self.name!r}, point={self.point!r}, features={self.features}, d={self.width}{k})"

    def pre_activations(self, x: Tensor) -> Tensor:
        """encoder x + reading_bias, before TopK and rectifier: (..., d) -> (..., feature)."""
        y = self._checked("x", x, "d", self.width) @ self.encoder.T
        bias = self.reading_bias()
        return y if bias is None else y + bias

    def reading_bias(self) -> Tensor | None:
        """encoder_bias - encoder center: (feature,), what the encoder adds to its rows' products; None if nothing."""
        if self.decoder_bias is None or not self.centered:
            return self.encoder_bias
        shift = self.encoder @ self.decoder_bias
        return -shift if self.encoder_bias is None else self.encoder_bias - shift

    def encode(self, x: Tensor) -> Tensor:
        """The feature activations of x: (..., d) -> (..., feature), dense. Cost: 2 d features flops a sample."""
        f = self.pre_activations(x)
        if self.k is not None:
            top = f.topk(self.k, dim=-1)
            f = torch.zeros_like(f).scatter(-1, top.indices, top.values)
        if self.rectify:
            f = f.clamp(min=0)
        return f if self.threshold is None else f * (f > self.threshold)

    def decode(self, f: Tensor) -> Tensor:
        """decoder f + decoder_bias: (..., feature) -> (..., d)."""
        x = self._checked("f", f, "feature", self.features) @ self.decoder.T
        return x if self.decoder_bias is None else x + self.decoder_bias

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Dictionary":
        """The dictionary on a device, in a dtype."""
        moved = {
            key: value.to(device=device or value.device, dtype=dtype or value.dtype)
            for key, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return Dictionary(**(vars(self) | moved))

    def _checked(self, name: str, value: Tensor, mode: str, size: int) -> Tensor:
        if not isinstance(value, Tensor) or value.ndim == 0:
            raise TypeError(f"{name} must be a tensor (..., {mode}), got {type(value).__name__}")
        check_tensor(name, value, ("...",) * (value.ndim - 1) + (mode,))
        check_size(mode, dictionary=size, **{name: value.shape[-1]})
        check_alike(dictionary=self.encoder, **{name: value})
        return value


def between(
    layer: BilinearLayer, inputs: Dictionary | None = None, outputs: Dictionary | None = None, *, biases: bool = True
) -> BilinearLayer:
    """B'[g, f1, f2] = sum encoder[g, out] B[out, in1, in2] decoder[in1, f1] decoder[in2, f2]: features in and out

    `inputs`, the dictionary before the layer, enters by its decoder's columns: x = decoder f + decoder_bias. `outputs`,
    the one after, by its encoder's rows: the result is its pre-activations, that is, before TopK, rectifier and
    threshold, which are not bilinear and are no part of it: `between(layer, a, b)(f) == b.pre_activations(layer(
    a.decode(f)))`. With biases the layer is lifted where it is not yet (rank + 1); `biases=False` leaves them out of
    both sides, and the history says so. A dictionary of the residual stream after the layer reads y + x, not y.

    Raises ValueError for a dictionary of another width than the layer's. Cost: 2 rank in features + rank out features
    multiply-adds; memory: features * rank a factor.

    Example:
    >>> import torch
    >>> layer = BilinearLayer(down=torch.ones(3, 4), left=torch.ones(2, 4), right=torch.ones(2, 4))
    >>> between(layer, Dictionary.from_matrix(torch.ones(2, 6)), Dictionary.from_matrix(torch.ones(3, 5))).shape
    (5, 6, 6)
    """
    sides = {"inputs": (inputs, layer.shape[1] - layer.constant_in)}
    sides["outputs"] = (outputs, layer.shape[0] - layer.constant_out)
    for name, (dictionary, size) in sides.items():
        if dictionary is not None and not isinstance(dictionary, Dictionary):
            raise TypeError(f"{name} must be a Dictionary, got {type(dictionary).__name__}; see Dictionary.from_matrix")
        if dictionary is not None and dictionary.width != size:
            raise ValueError(
                f"mode '{name.removesuffix('puts')}' has size {size} in the layer but {dictionary.width} in "
                f"{name}={dictionary!r}: the dictionary belongs to another place or model"
            )
    input_bias = inputs.decoder_bias if inputs is not None and biases else None
    output_bias = outputs.reading_bias() if outputs is not None and biases else None
    if (input_bias is not None or output_bias is not None) and not layer.constant_in:
        layer = lift(layer)
    left_out = "" if biases else ", biases left out"
    if inputs is not None:
        note = f"inputs in features of {inputs.name or 'a dictionary'} (decoder columns{left_out})"
        layer = layer.change_basis(inputs=inputs.decoder, input_bias=input_bias, note=note)
    if outputs is not None:
        note = f"outputs in features of {outputs.name or 'a dictionary'} (encoder rows{left_out})"
        layer = layer.change_basis(outputs=outputs.encoder, output_bias=output_bias, note=note)
    return layer
