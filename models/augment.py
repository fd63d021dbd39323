"""Random changes in training: of the images, and of the vectors within the model.

kornia warps and filters a whole batch, with one random parameter per image. All random numbers are drawn from the
generator of the training, so the seed decides them and the global random streams stay as they are.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from models.training import Transform
from tensornet_interp.checks import check_choice, check_int, check_number, check_share, check_size, check_tensor
from tensornet_interp.optional import optional

PURPOSE = "to augment images"
CELL = 4  # pixels between the points of the grid of Perlin noise
Shape = tuple[int, int]
Change = Callable[[Tensor, torch.Generator], Tensor]  # (batch, 1, h, w) -> the same shape


class Perturbation(NamedTuple):
    """A `Perturbation` holds what a training changes at random.

    images: changes every batch of images; hidden: changes the outputs of the embedding and of every block; None changes
    nothing. `name` says it in words and numbers, and belongs to the settings of a trained model.
    """

    name: str = ""
    images: Transform | None = None
    hidden: Transform | None = None


def translation(shape: Shape, pixels: int) -> Transform:
    """Return a transform that shifts each image by a random number of whole pixels.

    images[y, x] -> images[y - dy, x - dx]

    dy and dx are uniform from -pixels to pixels. Pixels that enter at a border are 0. `shape` is (h, w); the transform
    takes and returns images of shape (batch, h * w). If pixels is 0, it changes nothing.
    """
    check_int("pixels", pixels, 0)
    if pixels == 0:
        return _unchanged(shape)
    geometry = optional("kornia", PURPOSE, "examples").geometry.transform

    def change(images: Tensor, generator: torch.Generator) -> Tensor:
        size, device = (len(images), 2), images.device
        shift = torch.randint(-pixels, pixels + 1, size, generator=generator, device=device).to(images)
        return geometry.translate(images, shift, mode="nearest", align_corners=True)

    return _on_images(shape, change)


def rotation(shape: Shape, degrees: float) -> Transform:
    """Return a transform that rotates each image about its centre by a random angle.

    The angle is uniform from -degrees to degrees. Values between pixels are interpolated bilinearly, and pixels that
    enter at a border are 0. `shape` is (h, w); the transform takes and returns images of shape (batch, h * w). If
    degrees is 0, it changes nothing.
    """
    if check_number("degrees", degrees, 0.0, 180.0) == 0:
        return _unchanged(shape)
    geometry = optional("kornia", PURPOSE, "examples").geometry.transform

    def change(images: Tensor, generator: torch.Generator) -> Tensor:
        return geometry.rotate(images, degrees * (2 * _uniform(images, generator, len(images)) - 1), align_corners=True)

    return _on_images(shape, change)


def blur(shape: Shape, sigma: float) -> Transform:
    """Return a transform that blurs each image with a Gaussian of random width.

    The standard deviation is uniform from 0 to `sigma` pixels. Pixels beyond the border count as 0. The kernel reaches
    three times `sigma` to each side, at most the size of the image. `shape` is (h, w); the transform takes and returns
    images of shape (batch, h * w). If sigma is 0, it changes nothing.
    """
    if check_number("sigma", sigma, 0.0) == 0:
        return _unchanged(shape)
    filters = optional("kornia", PURPOSE, "examples").filters
    reach = min(max(1, round(3 * sigma)), max(shape))

    def change(images: Tensor, generator: torch.Generator) -> Tensor:
        share = _uniform(images, generator, len(images), 1)
        width = (sigma * share).clamp_min(1e-2).expand(-1, 2)  # 0.01 pixels do not blur, and avoid 0 / 0
        return filters.gaussian_blur2d(images, 2 * reach + 1, width, border_type="constant")

    return _on_images(shape, change)


def salt_and_pepper(shape: Shape, share: float) -> Transform:
    """Return a transform that replaces random pixels by 0 or 1, each with the same probability.

    Every pixel is replaced with probability `share`, independently. `shape` is (h, w); the transform takes and returns
    images of shape (batch, h * w). If share is 0, it changes nothing.
    """
    if check_share("share", share, low_open=False, high_open=False) == 0:
        return _unchanged(shape)

    def change(images: Tensor, generator: torch.Generator) -> Tensor:
        drawn = _uniform(images, generator, *images.shape)
        return torch.where(drawn < share, (drawn < share / 2).to(images), images)

    return _on_images(shape, change)


def perlin(shape: Shape, amplitude: float) -> Transform:
    """Return a transform that adds smooth Perlin noise to each image and cuts the sum to the range from 0 to 1.

    noise[y, x] = sqrt(2) sum over the four grid points around (y, x) of weight * (gradient . offset from the point)

    Grid points are 4 pixels apart. Each has a random unit vector as its gradient, and the weights are products of
    s(t) = 6 t^5 - 15 t^4 + 10 t^3 (Perlin 2002). The noise is between -1 and 1 and is multiplied by `amplitude`.
    `shape` is (h, w); the transform takes and returns images of shape (batch, h * w). If amplitude is 0, it changes
    nothing.
    """
    if check_number("amplitude", amplitude, 0.0) == 0:
        return _unchanged(shape)

    def change(images: Tensor, generator: torch.Generator) -> Tensor:
        at = [(torch.arange(size, device=images.device).to(images) + 0.5) / CELL for size in images.shape[-2:]]
        cells = [axis.floor().long() for axis in at]
        offsets = [axis - axis.floor() for axis in at]
        points = [int(cell[-1]) + 2 for cell in cells]
        angle = 2 * torch.pi * _uniform(images, generator, len(images), *points)
        noise = torch.zeros_like(images[:, 0])
        for down in (0, 1):
            for right in (0, 1):
                own = angle[:, cells[0] + down][:, :, cells[1] + right]  # (batch, h, w)
                y, x = (offsets[0] - down)[:, None], offsets[1] - right
                weight = _fade(1 - y.abs()) * _fade(1 - x.abs())
                noise += weight * (own.sin() * y + own.cos() * x)
        return images + amplitude * 2**0.5 * noise[:, None]

    return _on_images(shape, change)


def hidden_noise(strength: float) -> Transform:
    """Return a transform that adds Gaussian noise to vectors (batch, size).

    vectors -> vectors + strength * rms(vectors) * noise

    rms is the root mean square over the batch. If strength is 0, it changes nothing.
    """
    check_number("strength", strength, 0.0)

    def transform(vectors: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(vectors.shape, generator=generator, device=vectors.device, dtype=vectors.dtype)
        return vectors + strength * vectors.detach().square().mean().sqrt() * noise if strength else vectors

    return transform


def dropout(share: float) -> Transform:
    """Return a transform that sets entries of vectors to 0 with probability `share` and divides the rest by 1 - share.

    The mean of an entry stays as it is (Srivastava et al. 2014). If share is 0, it changes nothing.
    """
    check_share("share", share, low_open=False, high_open=True)

    def transform(vectors: Tensor, generator: torch.Generator) -> Tensor:
        kept = _uniform(vectors, generator, *vectors.shape) >= share
        return vectors * kept / (1 - share) if share else vectors

    return transform


def augmentation(name: str, shape: Shape, strength: float) -> Transform:
    """Return a transform of images by name.

    The names are "translation" (strength in whole pixels), "rotation" (degrees), "blur" (sigma in pixels),
    "salt_and_pepper" (share of the pixels) and "perlin" (amplitude).
    """
    return MAKERS[check_choice("name", name, MAKERS)](shape, strength)


def perturbation(text: str, shape: Shape) -> Perturbation:
    """Return the perturbation that a text names, such as "translation 2 + dropout 0.5"; "" or "none" changes nothing.

    A part is the name of an `augmentation`, "hidden_noise" or "dropout", and a strength. Changes of images, and those
    of hidden vectors, follow each other in the order of the text. Raises ValueError for any other text.
    """
    parts = [] if text.strip() in ("", "none") else [part.split() for part in text.split("+")]
    names, images, hidden = [], [], []
    for part in parts:
        if len(part) != 2:
            raise ValueError(f"every part of a perturbation is a name and a number, as 'blur 1'; got {text!r}")
        name = check_choice("name", part[0], (*MAKERS, *INSIDE))
        try:
            strength = float(part[1])
        except ValueError:
            raise ValueError(f"the strength of {name} must be a number, got {part[1]!r}") from None
        short = f"{strength:g}"
        names.append(f"{name} {short if float(short) == strength else strength}")  # no other strength has this name
        if name in MAKERS:
            images.append(MAKERS[name](shape, strength))
        else:
            hidden.append(INSIDE[name](strength))
    return Perturbation(" + ".join(names), _in_turn(images), _in_turn(hidden))


def _whole(shape: Shape, strength: float) -> Transform:
    if check_number("strength", strength) != int(strength):
        raise ValueError(f"strength of a translation must be a whole number of pixels, got {strength}")
    return translation(shape, int(strength))


MAKERS: dict[str, Callable[[Shape, float], Transform]] = {
    "translation": _whole,
    "rotation": rotation,
    "blur": blur,
    "salt_and_pepper": salt_and_pepper,
    "perlin": perlin,
}
INSIDE: dict[str, Callable[[float], Transform]] = {"hidden_noise": hidden_noise, "dropout": dropout}


def _in_turn(transforms: list[Transform]) -> Transform | None:
    def transform(values: Tensor, generator: torch.Generator) -> Tensor:
        for one in transforms:
            values = one(values, generator)
        return values

    return transform if transforms else None


def _on_images(shape: Shape, change: Change) -> Transform:
    height, width = (check_int(name, size, 1) for name, size in zip(("height", "width"), shape, strict=True))

    def transform(images: Tensor, generator: torch.Generator) -> Tensor:
        check_tensor("images", images, ("batch", "in"), finite=False)
        check_size("in", shape=height * width, images=images.shape[1])
        changed = change(images.reshape(-1, 1, height, width), generator)
        return changed.flatten(1).clamp(0, 1)  # (batch, h * w); rounding can exceed the range by 1e-7

    return transform


def _unchanged(shape: Shape) -> Transform:
    return _on_images(shape, lambda images, generator: images)


def _uniform(like: Tensor, generator: torch.Generator, *size: int) -> Tensor:
    return torch.rand(size, generator=generator, device=like.device, dtype=like.dtype)


def _fade(t: Tensor) -> Tensor:
    return t**3 * (t * (6 * t - 15) + 10)
