"""Feature dictionaries (sparse autoencoders, or any matrix), and a layer between two of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tensornet_interp.checks import (
    check_alike,
    check_batch,
    check_bool,
    check_int,
    check_kind,
    check_size,
    check_tensor,
    check_text,
)
from tensornet_interp.features.points import check_points
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.lifting import lift
from tensornet_interp.numerics import without_autocast
from tensornet_interp.places import check_place


@dataclass(frozen=True, eq=False)  # a tensor has no single truth value
class Dictionary:
    """A dictionary encodes vectors x as codes f, one number per feature, and decodes them.

    f[feature] = act(sum_d encoder[feature, d] (x[d] - center[d]) + encoder_bias[feature])
    x[d] = sum_feature decoder[d, feature] f[feature] + decoder_bias[d]

    Both matrices have the layout of `nn.Linear.weight`: a row of `encoder` reads a feature, a column of `decoder`
    writes it. center is decoder_bias if `centered`, else zero. act has up to three steps: keep the `k` largest codes
    of a sample (TopK) and zero the rest; zero negative codes (`rectify`); zero codes that are not above `threshold`
    (JumpReLU). A step whose option is None or False is left out.
    `point`: where in the model the vectors x are, such as "mlp-in" or "blocks.3.hook_mlp_out". It matters if that is
    before or after a norm: the input dictionary of a layer must be trained on what the layer reads.

    Raises ValueError if sizes, devices or dtypes differ, or if k is above the number of features.
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
        check_bool("rectify", self.rectify)
        check_bool("centered", self.centered)
        check_text("name", self.name, empty=True)
        check_text("point", self.point, empty=True)
        if self.k is not None:
            check_int("k", self.k, 1, features, "the number of features")

    @classmethod
    def from_matrix(
        cls, decoder: Tensor, encoder: Tensor | None = None, *, name: str = "", point: str = ""
    ) -> "Dictionary":
        """Return the linear dictionary f = encoder x, x = decoder f of any matrix, without biases.

        decoder: (d, feature); encoder: (feature, d), by default the transpose of the decoder.
        """
        check_tensor("decoder", decoder, ("d", "feature"))
        encoder = decoder.T if encoder is None else encoder
        return cls(encoder, decoder, rectify=False, name=name, point=point)

    @property
    def features(self) -> int:
        """Return the number of features."""
        return self.encoder.shape[0]

    @property
    def width(self) -> int:
        """Return d, the size of the vectors that are encoded."""
        return self.encoder.shape[1]

    def __repr__(self) -> str:
        k = "" if self.k is None else f", k={self.k}"
        return f"Dictionary({self.name!r}, point={self.point!r}, features={self.features}, d={self.width}{k})"

    @without_autocast
    def pre_activations(self, x: Tensor) -> Tensor:
        """Return encoder x + reading_bias, the codes before TopK and the rest of act: (..., d) -> (..., feature)."""
        y = self._checked("x", x, "d", self.width) @ self.encoder.T
        bias = self.reading_bias()
        return y if bias is None else y + bias

    @without_autocast
    def reading_bias(self) -> Tensor | None:
        """Return the term encoder_bias - encoder center (feature,) of the pre-activations; None if there is none."""
        if self.decoder_bias is None or not self.centered:
            return self.encoder_bias
        shift = self.encoder @ self.decoder_bias
        return -shift if self.encoder_bias is None else self.encoder_bias - shift

    def encode(self, x: Tensor) -> Tensor:
        """Return the codes of x, dense: (..., d) -> (..., feature). Cost: 2 d features flops per sample."""
        f = self.pre_activations(x)
        if self.k is not None:
            top = f.topk(self.k, dim=-1)
            f = torch.zeros_like(f).scatter(-1, top.indices, top.values)
        if self.rectify:
            f = f.clamp(min=0)
        return f if self.threshold is None else f * (f > self.threshold)

    @without_autocast
    def decode(self, f: Tensor) -> Tensor:
        """Return decoder f + decoder_bias: (..., feature) -> (..., d)."""
        x = self._checked("f", f, "feature", self.features) @ self.decoder.T
        return x if self.decoder_bias is None else x + self.decoder_bias

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Dictionary":
        """Return the dictionary on another device or in another dtype."""
        moved = {
            key: value.to(*check_place(device, dtype, value))
            for key, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return Dictionary(**(vars(self) | moved))

    def _checked(self, name: str, value: Tensor, mode: str, size: int) -> Tensor:
        check_batch(name, value, mode)
        check_size(mode, dictionary=size, **{name: value.shape[-1]})
        check_alike(dictionary=self.encoder, **{name: value})
        return value


def between(
    layer: BilinearLayer, inputs: Dictionary | None = None, outputs: Dictionary | None = None, *, biases: bool = True
) -> BilinearLayer:
    """Return the layer between two dictionaries, whose inputs and outputs are features.

    B'[g, f1, f2] = sum encoder[g, out] B[out, in1, in2] decoder[in1, f1] decoder[in2, f2]

    `inputs` is the dictionary before the layer; the columns of its decoder are used: x = decoder f + decoder_bias.
    `outputs` is the dictionary after the layer; the rows of its encoder are used, so the result computes its
    pre-activations: between(layer, a, b)(f) == b.pre_activations(layer(a.decode(f))). TopK, rectifier and threshold
    are not bilinear, so the result leaves them out. If there are biases, a layer that is not lifted is lifted
    (rank + 1); `biases=False` leaves out the biases of both sides, and basis and history say so. A dictionary of the
    residual stream after the layer reads y + x, not y.

    Raises ValueError if a dictionary has another width than the layer, or if its `point` is one that this layer does
    not read or not write, such as "3-mlp-out" for inputs. Cost: 2 rank in features + rank out features
    multiply-adds; memory: features * rank per factor.

    Example:
    >>> import torch
    >>> layer = BilinearLayer(down=torch.ones(3, 4), left=torch.ones(2, 4), right=torch.ones(2, 4))
    >>> between(layer, Dictionary.from_matrix(torch.ones(2, 6)), Dictionary.from_matrix(torch.ones(3, 5))).shape
    (5, 6, 6)
    """
    check_kind("layer", layer, BilinearLayer, "; a result has to_layer()")
    check_bool("biases", biases)
    sides = {"inputs": (inputs, layer.shape[1] - layer.constant_in)}
    sides["outputs"] = (outputs, layer.shape[0] - layer.constant_out)
    for name, (dictionary, size) in sides.items():
        if dictionary is not None and not isinstance(dictionary, Dictionary):
            raise TypeError(f"{name} must be a Dictionary, got {type(dictionary).__name__}; see Dictionary.from_matrix")
        if dictionary is not None and dictionary.width != size:
            raise ValueError(
                f"mode '{name.removesuffix('puts')}' has size {size} in the layer but {dictionary.width} in "
                f"{name}={dictionary!r}: the dictionary belongs to another point or model"
            )
    check_points(layer, inputs, outputs)
    input_bias = inputs.decoder_bias if inputs is not None and biases else None
    output_bias = outputs.reading_bias() if outputs is not None and biases else None
    if (input_bias is not None or output_bias is not None) and not layer.constant_in:
        layer = lift(layer)
    left_out = "" if biases else ", biases left out"
    if inputs is not None:
        basis = f"features of {inputs.name or 'a dictionary'} (decoder columns{left_out})"
        layer = layer.change_basis(inputs=inputs.decoder, input_bias=input_bias, basis=basis)
    if outputs is not None:
        note = f"outputs in features of {outputs.name or 'a dictionary'} (encoder rows{left_out})"
        layer = layer.change_basis(outputs=outputs.encoder, output_bias=output_bias, note=note)
    return layer
