"""Coins on photographs: real images with ground truth that is known to the pixel.

scikit-image's wheel carries a photograph of 24 Greek coins from Pompeii and a dozen photographs of
other things. Here, coins are cut out of the first and laid, turned and scaled, onto the others. As
a scene is put together from cut-outs, its mask is exact.

Nothing of the test set is seen in training: neither its coins (each set has rows of the photograph
of its own), nor its backgrounds (each set has photographs of its own).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage import color, data, filters, measure, morphology, segmentation, transform, util
from torch import Tensor

Pixels = NDArray[numpy.float32]

# Names of functions of skimage.data, whose files are in scikit-image's wheel.
BACKGROUNDS = {
    "train": (
        "astronaut",
        "camera",
        "chelsea",
        "grass",
        "gravel",
        "hubble_deep_field",
        "immunohistochemistry",
        "moon",
    ),
    "validation": ("clock", "retina"),
    "test": ("brick", "coffee", "rocket"),
}
# Of the photograph of coins, which has four rows of six.
COIN_ROWS = {"train": (0, 1), "validation": (2,), "test": (3,)}
# Where its last row lies.
TEST_ROW = (slice(224, 296), slice(0, 384))


@dataclass(frozen=True)
class Coin:
    """A cut-out: ``inside`` is true where ``pixels`` are the coin."""

    pixels: Pixels
    inside: NDArray[numpy.bool_]


def coin_photograph() -> tuple[Pixels, NDArray[numpy.bool_]]:
    """The photograph of coins, and which of its pixels are coins.

    The background is darker in some places than coins are in others, so no threshold finds them.
    Watershed on the gradient does, from what is surely background and what is surely coin:
    outlines drawn over the photograph follow every coin.
    """
    photograph = data.coins()
    seeds = numpy.zeros(photograph.shape, dtype=numpy.int32)
    seeds[photograph < 30] = 1
    seeds[photograph > 150] = 2
    found = segmentation.watershed(filters.sobel(photograph), seeds) == 2
    smooth = ndimage.binary_opening(ndimage.binary_fill_holes(found), morphology.disk(5))
    return util.img_as_float32(photograph), smooth


def cut_out() -> list[list[Coin]]:
    """The coins, by rows."""
    photograph, mask = coin_photograph()
    regions = measure.regionprops(measure.label(mask))
    if len(regions) != 24:
        raise RuntimeError(f"the photograph has 24 coins, found {len(regions)}")
    coins = []
    for region in sorted(regions, key=lambda region: region.centroid[0]):
        # One pixel less all around: the outermost ones are half background.
        inside = ndimage.binary_erosion(numpy.pad(region.image, 2))
        top, left = (edge - 2 for edge in region.bbox[:2])
        around = numpy.pad(photograph, 4, mode="edge")[top + 4 :, left + 4 :]
        coins.append(Coin(around[: inside.shape[0], : inside.shape[1]], inside))
    return [coins[row : row + 6] for row in range(0, 24, 6)]


def _photograph(name: str) -> Pixels:
    pixels = getattr(data, name)()
    return util.img_as_float32(color.rgb2gray(pixels) if pixels.ndim == 3 else pixels)


class Scenes:
    """Makes scenes of one set: ``"train"``, ``"validation"`` or ``"test"``."""

    def __init__(self, name: str, seed: int) -> None:
        rows = cut_out()
        self._coins = [coin for row in COIN_ROWS[name] for coin in rows[row]]
        self._backgrounds = [_photograph(background) for background in BACKGROUNDS[name]]
        self._random = numpy.random.default_rng([seed, *name.encode()])

    def batch(self, count: int, size: int) -> tuple[Tensor, Tensor]:
        """Images (count, 1, size, size) from 0 to 1, and masks of the same shape, 1 for coin."""
        scenes = [self._scene(size) for _ in range(count)]
        images, masks = (numpy.stack(of)[:, None] for of in zip(*scenes, strict=True))
        return torch.from_numpy(images), torch.from_numpy(masks)

    def _scene(self, size: int) -> tuple[Pixels, Pixels]:
        random = self._random
        scene = self._crop(size)
        mask = numpy.zeros((size, size), dtype=numpy.float32)
        for _ in range(1 + random.poisson(1.5 * (size / 96) ** 2)):
            cover = self._lay(scene, self._coins[random.integers(len(self._coins))])
            mask[cover >= 0.5] = 1
        return scene, mask

    def _crop(self, size: int) -> Pixels:
        background = self._backgrounds[self._random.integers(len(self._backgrounds))]
        top, left = (self._random.integers(side - size + 1) for side in background.shape)
        crop = background[top : top + size, left : left + size].copy()
        return crop[:, ::-1].copy() if self._random.random() < 0.5 else crop

    def _lay(self, scene: Pixels, coin: Coin) -> Pixels:
        """Draws a coin into ``scene``; returns how much of each pixel it covers."""
        random = self._random
        # From places in the scene to places in the cut-out: about the middles of both.
        centre = numpy.array(coin.inside.shape[::-1]) / 2
        target = random.uniform(0, scene.shape[0], 2)
        placed = (
            transform.AffineTransform(translation=-centre)
            + transform.AffineTransform(
                scale=random.uniform(0.8, 1.2), rotation=random.uniform(0, 2 * math.pi)
            )
            + transform.AffineTransform(translation=target)
        )
        how: Any = {"inverse_map": placed.inverse, "output_shape": scene.shape, "order": 1}
        cover = transform.warp(coin.inside.astype(numpy.float32), **how)
        pixels = transform.warp(coin.pixels, mode="edge", **how)
        # Light of its own, so that brightness does not tell a coin.
        middle = coin.pixels[coin.inside].mean()
        contrast, light = random.uniform(0.8, 1.4), random.uniform(0.4, 0.7)
        lit = numpy.clip((pixels - middle) * contrast + light, 0, 1)
        scene += cover * (lit - scene)
        return cover


def test_row() -> tuple[Tensor, Tensor]:
    """The test coins where they really lie: a strip of the photograph, and its mask."""
    strips = (of[TEST_ROW].astype(numpy.float32) for of in coin_photograph())
    image, mask = (torch.from_numpy(strip.copy())[None, None] for strip in strips)
    return image, mask
