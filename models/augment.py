"""Random changes of training images, for the argument `transform` of `train`.

kornia warps and filters a whole batch, with one random parameter per image. The parameters are drawn here from the
generator of the training, so the seed decides them and the global random streams stay as they are.
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
        share = torch.rand(len(images), generator=generator, device=images.device, dtype=images.dtype)
        return geometry.rotate(images, degrees * (2 * share - 1), align_corners=True)

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
        share = torch.rand(len(images), 1, generator=generator, device=images.device, dtype=images.dtype)
        width = (sigma * share).clamp_min(1e-2).expand(-1, 2)  # 0.01 pixels do not blur, and avoid 0 / 0
        return filters.gaussian_blur2d(images, 2 * reach + 1, width, border_type="constant")

    return _on_images(shape, change)


def augmentation(name: str, shape: Shape, strength: float) -> Transform:
    """Return a transform by name: "translation" (whole pixels), "rotation" (degrees) or "blur" (sigma in pixels)."""
    return MAKERS[check_choice("name", name, MAKERS)](shape, strength)


def _whole(shape: Shape, strength: float) -> Transform:
    if check_number("strength", strength) != int(strength):
        raise ValueError(f"strength of a translation must be a whole number of pixels, got {strength}")
    return translation(shape, int(strength))


MAKERS: dict[str, Callable[[Shape, float], Transform]] = {"translation": _whole, "rotation": rotation, "blur": blur}


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
