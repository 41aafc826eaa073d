"""Tools that the checks share: photographs, trained weights, measurements and JPEG."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.interpolate import PchipInterpolator

from .verdicts import Array, Wrong, array, require

LMBDA, LOW, HIGH = 0.0067, 0.0025, 0.018  # λ of stages 4 and 6, and the two additional values of stage 8
QUALITIES = (4, 6, 8, 11, 15, 20, 27, 36, 46, 56, 66, 76, 84)


@dataclass
class Work:
    """The folders and the amount of training of a check.

    Attributes:
        photographs: Folder with train/ and test/.
        weights: Folder for the weights of the learner's trained codecs, and for the files that a fresh process decodes.
        thresholds: Largest values that pass, by name; empty to measure without thresholds.
        seed: Seed of training.
        shortened: Divisor for the numbers of training steps; 1 for the learner.
    """

    photographs: Path
    weights: Path
    thresholds: dict[str, float]
    seed: int = 0
    shortened: int = 1

    @cached_property
    def train_photos(self) -> list[Array]:
        """Training photographs, uint8 of shape (height, width, 3)."""
        return _read(self.photographs / "train")

    @cached_property
    def test_photos(self) -> list[Array]:
        """Test photographs, cropped so that both sides are divisible by 32."""
        return [
            photo[: len(photo) // 32 * 32, : photo.shape[1] // 32 * 32] for photo in _read(self.photographs / "test")
        ]

    def train(self, codec: Any, function: Any, steps: int) -> None:
        """Train a codec with the learner's function on one thread."""
        function(codec, self.train_photos, steps // self.shortened, self.seed)
        require(
            all(bool(parameter.isfinite().all()) for parameter in codec.parameters()),
            "After training, the codec has weights that are not finite.",
        )
        codec.eval()

    def save(self, codec: Any, name: str) -> None:
        """Write the weights of a trained codec."""
        from safetensors.torch import save_file

        self.weights.mkdir(parents=True, exist_ok=True)
        save_file(
            {key: value.contiguous() for key, value in codec.state_dict().items()}, self.weights / f"{name}.safetensors"
        )

    def load(self, codec: Any, name: str, stage: int) -> Any:
        """Load the weights that an earlier stage trained into a new codec.

        Raises:
            Wrong: If there are no such weights, or they do not fit.
        """
        from safetensors.torch import load_file

        file = self.weights / f"{name}.safetensors"
        require(
            file.exists(),
            f"This stage needs the codec that stage {stage} trains. Run the check of stage {stage} first.",
        )
        try:
            codec.load_state_dict(load_file(file))
        except RuntimeError as error:
            raise Wrong(
                f"The trained weights of stage {stage} do not fit your class any more. Run its check again."
            ) from error
        return codec.eval()

    def limit(self, name: str, value: float, advice: str) -> None:
        """Raise Wrong if a number exceeds its threshold."""
        if name in self.thresholds and self.shortened == 1 and value > self.thresholds[name]:
            raise Wrong(f"{name} is {value:.4f}; at most {self.thresholds[name]:.4f} is expected. {advice}")


def _read(folder: Path) -> list[Array]:
    photos = []
    for file in sorted(folder.glob("*.webp")):
        with Image.open(file) as image:
            photos.append(np.asarray(image.convert("RGB")).copy())
    return photos


def as_tensor(photo: Array) -> torch.Tensor:
    """Return an image as a batch with one float32 item in [0, 1]."""
    return torch.tensor(photo).permute(2, 0, 1)[None].float() / 255


def eight_bits(x_hat: Array) -> Array:
    """Return a reconstruction of shape (1, 3, H, W) as uint8 pixels (H, W, 3)."""
    pixels: Array = np.rint(np.clip(x_hat[0], 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    return pixels


def psnr(a: Array, b: Array) -> float:
    """Return the PSNR of two uint8 images in dB."""
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def outputs(codec: Any, x: torch.Tensor) -> tuple[Array, list[Array]]:
    """Return the reconstruction and the likelihoods in evaluation mode, in float64."""
    with torch.no_grad():
        answer = codec(x)
    require(
        isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], list | tuple),
        "The codec must return a pair: the reconstruction and the list of likelihoods.",
    )
    return array(answer[0], "the reconstruction", tuple(x.shape)), [array(each, "a likelihood") for each in answer[1]]


def estimated(codec: Any, photos: list[Array], lmbda: float) -> tuple[float, Array, list[Array]]:
    """Return the mean loss on photographs, each one's (bpp, PSNR), and the reconstructions; bits are estimated."""
    losses, points, images = [], [], []
    for photo in photos:
        x_hat, likelihoods = outputs(codec, as_tensor(photo))
        bpp = sum(-np.log2(each).sum() for each in likelihoods) / (photo.shape[0] * photo.shape[1])
        exact = photo.transpose(2, 0, 1)[None] / 255
        losses.append(bpp + lmbda * 255**2 * np.mean((x_hat - exact) ** 2))
        images.append(eight_bits(x_hat))
        points.append((bpp, psnr(images[-1], photo)))
    return float(np.mean(losses)), np.array(points), images


class Jpeg:
    """JPEG versions of some photographs from Pillow, optimized, with color at full and at half resolution.

    Args:
        photos: uint8 images.
    """

    def __init__(self, photos: list[Array]):
        self.curves = []  # mean bpp and PSNR at each quality, for 4:4:4 and for 4:2:0
        for subsampling in (0, 2):
            rows = []
            for quality in QUALITIES:
                coded = [_jpeg(photo, quality, subsampling) for photo in photos]
                rows.append(
                    np.mean(
                        [
                            (8 * size / photo[..., 0].size, psnr(image, photo))
                            for photo, (size, image) in zip(photos, coded, strict=True)
                        ],
                        0,
                    )
                )
            self.curves.append(np.array(rows))

    def psnr_at(self, bpp: float) -> float:
        """Return the higher PSNR of the two curves at a mean rate."""
        return float(max(PchipInterpolator(np.log(curve[:, 0]), curve[:, 1])(np.log(bpp)) for curve in self.curves))

    def bd_rate(self, points: Array) -> float:
        """Return the mean rate difference to JPEG at equal PSNR, in percent, over the PSNR range of the points."""
        points = points[np.argsort(points[:, 1])]
        grid = np.linspace(
            max(points[0, 1], *(c[0, 1] for c in self.curves)),
            min(points[-1, 1], *(c[-1, 1] for c in self.curves)),
            200,
        )
        ours = PchipInterpolator(points[:, 1], np.log(points[:, 0]))(grid)
        jpeg = np.min([PchipInterpolator(curve[:, 1], np.log(curve[:, 0]))(grid) for curve in self.curves], 0)
        return float(100 * (np.exp(np.mean(ours - jpeg)) - 1))

    def better(self) -> Array:
        """Return the rate and PSNR of the better curve, at the rates of 4:2:0."""
        rates = self.curves[1][:, 0]
        rates = rates[(rates >= self.curves[0][0, 0]) & (rates <= self.curves[0][-1, 0])]
        return np.array([(rate, self.psnr_at(rate)) for rate in rates])


def _jpeg(photo: Array, quality: int, subsampling: int) -> tuple[int, Array]:
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=quality, optimize=True, subsampling=subsampling)
    return len(file.getvalue()), np.asarray(Image.open(file).convert("RGB"))


def jpeg_within(photo: Array, size: float) -> tuple[int, Array]:
    """Return bytes and pixels of the best JPEG of a photograph that fits into `size` bytes, or of the smallest JPEG."""
    coded = [_jpeg(photo, quality, subsampling) for quality in range(2, 96, 2) for subsampling in (0, 2)]
    fitting = [each for each in coded if each[0] <= size] or [min(coded, key=lambda each: each[0])]
    return max(fitting, key=lambda each: psnr(each[1], photo))


def picture(
    photos: list[Array], images: list[Array], sizes: list[float], points: Array, jpeg: Jpeg
) -> dict[str, Array]:
    """Return a photograph, its reconstruction, JPEG with as many bytes, the codec's points and JPEG's curve."""
    show = min(5, len(photos) - 1)
    size, other = jpeg_within(photos[show], sizes[show])
    rates = np.array([sizes[show], size, psnr(images[show], photos[show]), psnr(other, photos[show])])
    return {
        "photograph": photos[show], "codec": images[show], "jpeg": other, "sizes": rates,
        "points": np.atleast_2d(points), "curve": jpeg.better(),
    }  # fmt: skip
