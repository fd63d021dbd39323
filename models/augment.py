"""Random changes of training images: `transform=` of `train`. Every one applies to every image of a batch.

The warps and the filter are kornia's, which works on whole batches with an own parameter for every image; the
parameters are drawn here, from the generator of the training, so that a seed decides them and no global stream moves.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from models.training import Transform
from tensornet_interp.checks import check_choice, check_int, check_number, check_size, check_tensor
from tensornet_interp.optional import optional

PURPOSE = "to augment images"
Shape = tuple[int, int]
Change = Callable[[Tensor, torch.Generator], Tensor]  # (batch, 1, h, w) -> the same shape


def translation(shape: Shape, pixels: int) -> Transform:
    """images[y, x] -> images[y - dy, x - dx], dy and dx whole numbers, uniform from -pixels to pixels; zeros enter

    `shape` is (h, w) of the images, which come and go as (batch, h * w). 0 pixels change nothing.
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
    """Rotation about the centre by an angle uniform from -degrees to degrees, bilinear; zeros enter

    `shape` is (h, w) of the images, which come and go as (batch, h * w). 0 degrees change nothing.
    """
    if check_number("degrees", degrees, 0.0, 180.0) == 0:
        return _unchanged(shape)
    geometry = optional("kornia", PURPOSE, "examples").geometry.transform

    def change(images: Tensor, generator: torch.Generator) -> Tensor:
        share = torch.rand(len(images), generator=generator, device=images.device, dtype=images.dtype)
        return geometry.rotate(images, degrees * (2 * share - 1), align_corners=True)

    return _on_images(shape, change)


def blur(shape: Shape, sigma: float) -> Transform:
    """Convolution with a Gaussian of standard deviation uniform from 0 to sigma pixels; zeros beyond the border

    `shape` is (h, w) of the images, which come and go as (batch, h * w). Sigma 0 changes nothing. The kernel ends
    three deviations out, or at the size of the image.
    """
    if check_number("sigma", sigma, 0.0) == 0:
        return _unchanged(shape)
    filters = optional("kornia", PURPOSE, "examples").filters
    reach = min(max(1, round(3 * sigma)), max(shape))

    def change(images: Tensor, generator: torch.Generator) -> Tensor:
        share = torch.rand(len(images), 1, generator=generator, device=images.device, dtype=images.dtype)
        width = (sigma * share).clamp_min(1e-2).expand(-1, 2)  # a hundredth of a pixel is no blur, and not 0 / 0
        return filters.gaussian_blur2d(images, 2 * reach + 1, width, border_type="constant")

    return _on_images(shape, change)


def augmentation(name: str, shape: Shape, strength: float) -> Transform:
    """The transform of a name: translation (whole pixels), rotation (degrees) or blur (deviation in pixels)."""
    return MAKERS[check_choice("name", name, MAKERS)](shape, strength)


def _whole(shape: Shape, strength: float) -> Transform:
    if check_number("strength", strength) != int(strength):
        raise ValueError(f"a translation is by whole pixels, got {strength}")
    return translation(shape, int(strength))


MAKERS: dict[str, Callable[[Shape, float], Transform]] = {"translation": _whole, "rotation": rotation, "blur": blur}


def _on_images(shape: Shape, change: Change) -> Transform:
    height, width = (check_int(name, size, 1) for name, size in zip(("height", "width"), shape, strict=True))

    def transform(images: Tensor, generator: torch.Generator) -> Tensor:
        check_tensor("images", images, ("batch", "in"), finite=False)
        check_size("in", shape=height * width, images=images.shape[1])
        changed = change(images.reshape(-1, 1, height, width), generator)
        return changed.flatten(1).clamp(0, 1)  # (batch, h * w); rounding may leave the range by 1e-7

    return transform


def _unchanged(shape: Shape) -> Transform:
    return _on_images(shape, lambda images, generator: images)
