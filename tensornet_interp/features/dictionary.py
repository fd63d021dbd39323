"""Feature dictionaries, such as sparse autoencoders, transcoders or any matrix, and a layer between two of them."""

from dataclasses import dataclass
from typing import Any

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
from tensornet_interp.features.saelens import object_fields
from tensornet_interp.formats import owned
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.lifting import lift
from tensornet_interp.numerics import without_autocast
from tensornet_interp.places import check_place
from tensornet_interp.store import register_type


@register_type("Dictionary")
@dataclass(frozen=True, eq=False)  # a tensor has no single truth value
class Dictionary:
    """A dictionary encodes vectors x as codes f, with one number per feature, and decodes codes as vectors.

    f[feature] = act(sum_d encoder[feature, d] (x[d] - center[d]) + encoder_bias[feature])
    x[d] = sum_feature decoder[d, feature] f[feature] + decoder_bias[d]

    Both matrices have the layout of `nn.Linear.weight`: each feature has one row of `encoder` and one column of
    `decoder`. If `centered` is true, center is decoder_bias; otherwise it is zero. act has up to three steps, in this
    order. TopK: if `k` is given, keep the k largest codes of a sample and set the others to zero. Rectifier: if
    `rectify` is true, set negative codes to zero. JumpReLU: if `threshold` is given, set codes to zero that are not
    above the threshold of their feature. The encoder of a gated autoencoder is a JumpReLU too.
    `point`: the place in the model where the vectors x are taken, such as "mlp-in" or "blocks.3.hook_mlp_out". State
    whether this is before or after a norm: the input dictionary of a layer must be trained on the vectors that the
    layer reads.
    `point_out`: None for an autoencoder, whose decoder returns x. A transcoder decodes vectors y at another place of
    the model; then `point_out` names this place, or is "" if the place is not known. d_out is the size of y, and `skip`
    is the matrix of the skip connection, if there is one: y = decoder f + decoder_bias + skip x.

    Raises ValueError if sizes, devices or dtypes differ, if k is above the number of features, if a transcoder is
    centered, or if an autoencoder has a skip connection.
    """

    encoder: Tensor  # (feature, d)
    decoder: Tensor  # (d, feature), of a transcoder (d_out, feature)
    encoder_bias: Tensor | None = None  # (feature,)
    decoder_bias: Tensor | None = None  # (d,), of a transcoder (d_out,)
    threshold: Tensor | None = None  # (feature,)
    k: int | None = None
    rectify: bool = True
    centered: bool = True
    name: str = ""
    point: str = ""
    point_out: str | None = None  # of a transcoder
    skip: Tensor | None = None  # (d_out, d), of a transcoder

    def __post_init__(self) -> None:
        check_tensor("encoder", self.encoder, ("feature", "d"))
        check_tensor("decoder", self.decoder, ("d", "feature"))
        check_bool("rectify", self.rectify)
        check_bool("centered", self.centered)
        features, d = self.encoder.shape
        d_out = d if self.point_out is None else self.decoder.shape[0]
        if self.decoder.shape != (d_out, features):
            raise ValueError(
                f"encoder is (feature, d) and decoder (d, feature), got {tuple(self.encoder.shape)} and "
                f"{tuple(self.decoder.shape)}: rows of the encoder and columns of the decoder are the features; a "
                "decoder of another place than the encoder's belongs to a transcoder, which has point_out"
            )
        sizes = {"encoder_bias": ("feature", features), "threshold": ("feature", features), "decoder_bias": ("d", d)}
        if self.point_out is not None:
            self._check_transcoder(check_text("point_out", self.point_out, empty=True))
            sizes["decoder_bias"] = ("d_out", d_out)
        elif self.skip is not None:
            raise ValueError("skip belongs to a transcoder, which names where it writes: give point_out")
        for name, (mode, size) in sizes.items():
            vector = getattr(self, name)
            if vector is not None:
                check_tensor(name, vector, (mode,))
                check_size(mode, encoder=size, **{name: vector.shape[0]})
                check_alike(encoder=self.encoder, **{name: vector})
        check_alike(encoder=self.encoder, decoder=self.decoder)
        check_text("name", self.name, empty=True)
        check_text("point", self.point, empty=True)
        if self.k is not None:
            check_int("k", self.k, 1, features, "the number of features")

    @classmethod
    def from_matrix(
        cls, decoder: Tensor, encoder: Tensor | None = None, *, name: str = "", point: str = ""
    ) -> "Dictionary":
        """Return the linear dictionary f = encoder x, x = decoder f without biases, for example from any matrix.

        decoder: (d, feature). encoder: (feature, d); by default the transpose of the decoder. Both are copied.
        """
        decoder = owned(check_tensor("decoder", decoder, ("d", "feature")))
        encoder = decoder.T if encoder is None else owned(check_tensor("encoder", encoder, ("feature", "d")))
        return cls(encoder, decoder, rectify=False, name=name, point=point)

    @classmethod
    def from_sae(cls, sae: Any, *, name: str = "") -> "Dictionary":
        """Return the dictionary of a sparse autoencoder or transcoder of SAELens in memory; its tensors are copied.

        sae: an object with a config and a state dict as SAELens has them. `load_dictionary` says which kinds and
        options are possible. The device stays the same, and so does the dtype, which is that of W_enc.
        Raises TypeError if the object has no config or state dict, ValueError for kinds and options that are refused.
        """
        return cls(**object_fields(sae), name=name)

    @property
    def features(self) -> int:
        """Return the number of features."""
        return self.encoder.shape[0]

    @property
    def width(self) -> int:
        """Return d, the size of the vectors x that the dictionary encodes."""
        return self.encoder.shape[1]

    def __repr__(self) -> str:
        k = "" if self.k is None else f", k={self.k}"
        sizes = f"features={self.features}, d={self.width}"
        if self.point_out is None:
            return f"Dictionary({self.name!r}, point={self.point!r}, {sizes}{k})"
        points = f"point={self.point!r}, point_out={self.point_out!r}"
        return f"Dictionary({self.name!r}, {points}, {sizes}, d_out={self.decoder.shape[0]}{k})"

    @without_autocast
    def pre_activations(self, x: Tensor) -> Tensor:
        """Return encoder x + `reading_bias()`, the codes before the steps of act: (..., d) -> (..., feature)."""
        y = self._checked("x", x, "d", self.width) @ self.encoder.T
        bias = self.reading_bias()
        return y if bias is None else y + bias

    @without_autocast
    def reading_bias(self) -> Tensor | None:
        """Return encoder_bias - encoder center, the constant part of the pre-activations, (feature,).

        Return None if the dictionary has no biases.
        """
        if self.decoder_bias is None or not self.centered:
            return self.encoder_bias
        shift = self.encoder @ self.decoder_bias
        return -shift if self.encoder_bias is None else self.encoder_bias - shift

    def encode(self, x: Tensor) -> Tensor:
        """Return the dense codes of x: (..., d) -> (..., feature). Cost: 2 * d * features flops per sample."""
        f = self.pre_activations(x)
        if self.k is not None:
            top = f.topk(self.k, dim=-1)
            f = torch.zeros_like(f).scatter(-1, top.indices, top.values)
        if self.rectify:
            f = f.clamp(min=0)
        return f if self.threshold is None else f * (f > self.threshold)

    @without_autocast
    def decode(self, f: Tensor) -> Tensor:
        """Return the vectors decoder f + decoder_bias of codes f: (..., feature) -> (..., d).

        A transcoder returns vectors y (..., d_out), without its skip connection, which reads x: see `reconstruct`.
        """
        x = self._checked("f", f, "feature", self.features) @ self.decoder.T
        return x if self.decoder_bias is None else x + self.decoder_bias

    @without_autocast
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return what the dictionary makes of vectors x: an autoencoder returns x again, a transcoder y, with its skip.

        x or y = decode(encode(x)) + skip x: (..., d) -> (..., d_out)
        """
        y = self.decode(self.encode(x))
        return y if self.skip is None else y + x @ self.skip.T

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Dictionary":
        """Return the dictionary on a device and in a dtype; None keeps the present device or dtype."""
        moved = {
            key: value.to(*check_place(device, dtype, value))
            for key, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return Dictionary(**(vars(self) | moved))

    def _check_transcoder(self, point_out: str) -> None:
        if self.centered and self.decoder_bias is not None:
            raise ValueError(
                f"centered must be False for a transcoder (point_out={point_out!r}): its decoder_bias is a part of the "
                "vectors that it writes, not of those that it reads"
            )
        if self.skip is not None:
            check_tensor("skip", self.skip, ("d_out", "d"))
            check_size("d_out", decoder=self.decoder.shape[0], skip=self.skip.shape[0])
            check_size("d", encoder=self.encoder.shape[1], skip=self.skip.shape[1])
            check_alike(encoder=self.encoder, skip=self.skip)

    def _checked(self, name: str, value: Tensor, mode: str, size: int) -> Tensor:
        check_batch(name, value, mode)
        check_size(mode, dictionary=size, **{name: value.shape[-1]})
        check_alike(dictionary=self.encoder, **{name: value})
        return value


def check_autoencoder(name: str, dictionary: Dictionary | None) -> None:
    """Raise ValueError if a dictionary is a transcoder, whose codes are no parts of the vectors that it encodes."""
    if dictionary is not None and dictionary.point_out is not None:
        raise ValueError(
            f"{name} must be an autoencoder, got the transcoder {dictionary!r}: its decoder does not write where its "
            "encoder reads; for what its features write, use layer.change_basis(inputs=decoder)"
        )


def between(
    layer: BilinearLayer, inputs: Dictionary | None = None, outputs: Dictionary | None = None, *, biases: bool = True
) -> BilinearLayer:
    """Return the layer between two dictionaries: its inputs and outputs are features.

    B'[g, f1, f2] = sum encoder[g, out] B[out, in1, in2] decoder[in1, f1] decoder[in2, f2]

    `inputs`: the dictionary before the layer, or None. The layer reads x = decoder f + decoder_bias, so the columns of
    this decoder are used. It must be an autoencoder: the decoder of a transcoder returns no inputs of the layer.
    `outputs`: the dictionary after the layer, or None. The result computes the pre-activations of this dictionary, so
    the rows of its encoder are used: between(layer, a, b)(f) == b.pre_activations(layer(a.decode(f))). TopK, rectifier
    and threshold are left out, because they are not bilinear. A dictionary of the residual stream after the layer reads
    y + x, not y.
    `biases`: if True and a dictionary has biases, the layer is lifted unless it is lifted already; this adds one hidden
    unit. If False, the result ignores the biases of both dictionaries; its basis and its history record this.

    Raises ValueError if a dictionary and the layer have different widths, if the layer does not read or write at the
    `point` of a dictionary, such as "3-mlp-out" for inputs, or if `inputs` is a transcoder.
    Cost in multiply-adds: 2 * rank * in * (input features) + rank * out * (output features). Memory: rank numbers per
    feature and factor.

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
    check_autoencoder("inputs", inputs)
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
