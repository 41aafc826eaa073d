"""Photographs and toy sources."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm.auto import tqdm

from labkit import paths

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".ppm")
MAX_PIXELS = 100_000_000  # refuse to decode more than this: 300 MB of RGB, and an image that large is a mistake here


class _Pictures(Sequence[Tensor]):
    """What a set of pictures in memory and one on disk have in common, the draw of random crops above all."""

    names: list[str]

    def _pixels(self, index: int) -> Tensor:
        """One picture as uint8 of shape (3, H, W)."""
        raise NotImplementedError

    def _sizes(self) -> Iterable[tuple[int, int]]:
        """Height and width of each picture, in either order."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.names)

    def crops(self, n: int, size: int, generator: torch.Generator, permute_colors: bool = False) -> Tensor:
        """n random crops of size×size, flipped at random, float32 of shape (n, 3, size, size) on the images' device.

        permute_colors: half of the crops get their color channels in a random order, so that few photographs cover
        more colors. generator: on the CPU; the same one draws the same crops of the same pictures wherever they are.
        Raises ValueError naming an image that is too small.
        """
        return self.crops_uint8(n, size, generator, permute_colors).float().div_(255)

    def crops_uint8(
        self,
        n: int,
        size: int,
        generator: torch.Generator,
        permute_colors: bool = False,
        part: tuple[int, int] = (0, 1),
    ) -> Tensor:
        """The same crops as the bytes that the images hold, uint8: a quarter of the memory.

        part: (k, m) gives the k-th of the whole's m equal parts, and reads the pictures of that part alone.
        """
        own, batch = range(part[0] * n // part[1], (part[0] + 1) * n // part[1]), []
        for place, index in enumerate(torch.randint(len(self), (n,), generator=generator).tolist()):
            if place not in own:
                _draw_cut(size, size, size, generator, permute_colors)  # of any size: as many random numbers
                continue
            image = self._pixels(index)
            height, width = image.shape[1:]
            _check_size(self.names[index], height, width, size)
            batch.append(_cut(image, size, _draw_cut(height, width, size, generator, permute_colors)))
        return torch.stack(batch)

    def check_crop(self, size: int) -> None:
        """Raise ValueError naming the first image that is too small for a crop of this size."""
        for name, (height, width) in zip(self.names, self._sizes(), strict=True):
            _check_size(name, height, width, size)


class PhotoSet(_Pictures):
    """Photographs held in memory as uint8 RGB; `photos[i]` is float32 in [0, 1], shape (3, H, W).

    names: one for each photograph. photos[…] with a slice gives a smaller set.
    """

    def __init__(self, images: Sequence[Tensor], names: Sequence[str]):
        if len(images) != len(names):
            raise ValueError(f"names: takes one for each of the {len(images)} images, got {len(names)}")
        self.images, self.names = list(images), list(names)

    def __getitem__(self, index):  # type: ignore[override]
        if isinstance(index, slice):
            return PhotoSet(self.images[index], self.names[index])
        return self.images[index].float() / 255

    def _pixels(self, index: int) -> Tensor:
        return self.images[index]

    def _sizes(self) -> Iterable[tuple[int, int]]:
        return ((image.size(1), image.size(2)) for image in self.images)

    def to(self, device: torch.device | str) -> PhotoSet:
        """The same set on another device."""
        return PhotoSet([image.to(device) for image in self.images], self.names)


class ImageFiles(_Pictures):
    """Pictures that stay on disk, too many for memory: each is decoded when it is asked for, by `load_image`.

    files[i] is float32 in [0, 1], shape (3, H, W); a slice gives a smaller set. Its crops are those that a PhotoSet of
    the same pictures draws. Raises ValueError naming a file that is damaged or gone, when it is met.
    """

    def __init__(self, paths: Sequence[str | Path]):
        self.paths = [Path(path) for path in paths]
        self.names = [path.name for path in self.paths]

    def __getitem__(self, index):  # type: ignore[override]
        if isinstance(index, slice):
            return ImageFiles(self.paths[index])
        return self._pixels(index).float() / 255

    def _pixels(self, index: int) -> Tensor:
        return load_image(self.paths[index])

    def _sizes(self) -> Iterable[tuple[int, int]]:
        """From the headers alone, which do not say how a picture is turned: that swaps its sides at most."""
        return map(_stored_size, tqdm(self.paths, unit="header", disable=None, leave=False, delay=1))


class _Cut(NamedTuple):
    """Where a crop lies, and what is done to it: sides swapped, colors reordered, then flipped."""

    top: int
    left: int
    flip_x: int
    flip_y: int
    swap: int
    colors: list[int] | None


def _draw_cut(height: int, width: int, size: int, generator: torch.Generator, permute_colors: bool) -> _Cut:
    top, left = (int(torch.randint(side - size + 1, (), generator=generator)) for side in (height, width))
    flip_x, flip_y, swap = torch.randint(2, (3,), generator=generator).tolist()
    colors = None
    if permute_colors and torch.rand((), generator=generator) < 0.5:
        colors = torch.randperm(3, generator=generator).tolist()
    return _Cut(top, left, flip_x, flip_y, swap, colors)


def _cut(image: Tensor, size: int, cut: _Cut) -> Tensor:
    crop = image[:, cut.top : cut.top + size, cut.left : cut.left + size]
    if cut.swap:
        crop = crop.transpose(1, 2)
    if cut.colors:  # no indexing by a list: on a GPU that would wait for all work in flight
        crop = torch.stack([crop[channel] for channel in cut.colors])
    return crop.flip([axis for axis, flip in ((1, cut.flip_y), (2, cut.flip_x)) if flip])


def _check_size(name: str, height: int, width: int, size: int) -> None:
    if min(height, width) < size:
        raise ValueError(
            f"{name} is {width}×{height}, too small for crops of {size}×{size}: leave it out, or crop less"
        )


def load_image(path: str | Path) -> Tensor:
    """One image as uint8 RGB of shape (3, H, W), turned as its EXIF orientation says.

    Grayscale becomes three equal channels; palettes and CMYK become RGB, and embedded color profiles are not applied;
    transparency is laid on white; of 16 bits a channel the upper eight count; of an animation the first frame is taken.

    Raises ValueError in one line for a file that is missing, no image, damaged, absurdly large, or of samples beyond 16
    bits.
    """
    with _reading(path) as image:
        array = np.asarray(_rgb(_upright(image))).copy()
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def _stored_size(path: str | Path) -> tuple[int, int]:
    """Height and width of an image as it is stored, from its header. Raises ValueError as `load_image` does."""
    with _reading(path) as image:
        return image.height, image.width


@contextmanager
def _reading(path: str | Path) -> Iterator[Image.Image]:
    """The opened file; whatever is wrong with it, up to the end of the block, becomes a ValueError in one line."""
    path = Path(path)
    try:
        with _opened(path) as image:
            if math.prod(image.size) > MAX_PIXELS:
                raise ValueError(f"it claims {image.width}×{image.height} pixels, more than {MAX_PIXELS:,}")
            yield image
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from None


def transparent(path: str | Path) -> bool:
    """Whether an image file has pixels that are not opaque. Raises what Pillow does for one that is no image."""
    with _opened(path) as image:
        return image.has_transparency_data and image.convert("RGBA").getextrema()[3][0] < 255  # type: ignore[index]


def _opened(path: str | Path) -> Image.Image:
    with warnings.catch_warnings():  # Pillow's, of sizes well below the limit here
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path)


def _upright(image: Image.Image) -> Image.Image:
    """The image, decoded and turned by its EXIF orientation; damaged EXIF data turn nothing."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow's parser raises whatever its struct and dictionary code raises
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _from_deep_gray(image)
    if image.mode == "La":  # premultiplied
        image = image.convert("LA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def _from_deep_gray(image: Image.Image) -> Image.Image:
    """16-bit grayscale, which Pillow would clip at 255; its one transparent value is laid on white too."""
    deep = np.asarray(image)
    if deep.dtype.kind == "f" or deep.min() < 0 or deep.max() > 65535:
        raise ValueError("its samples are floating-point or of more than 16 bits")
    gray = (deep >> 8).astype(np.uint8)
    if "transparency" in image.info:
        gray[deep == image.info["transparency"]] = 255
    return Image.fromarray(gray).convert("RGB")


def folder(path: str | Path) -> PhotoSet:
    """All images of a folder, in order of their names. Raises ValueError where there is none."""
    return _in_memory(_files(path))


def load_images(paths: Iterable[str | Path]) -> PhotoSet:
    """Load image files, and all images of folders, into memory.

    Args:
        paths: Image files and folders.

    Returns:
        The images, in the given order; those of a folder are in the order of their names.

    Raises:
        ValueError: If a file cannot be read or a folder has no images.
    """
    return _in_memory([file for path in map(Path, paths) for file in (_files(path) if path.is_dir() else [path])])


def training_images(path: str | Path, memory: int = 2**30) -> PhotoSet | ImageFiles:
    """All images of a folder: in memory where their decoded pixels, 3 bytes each, take at most `memory` bytes.

    Where they take more they stay files. Headers decide, and are read no further than needed. Raises ValueError where
    there is no image, or naming a file that is met damaged.
    """
    files, taken = _files(path), 0
    for file in files:
        taken += 3 * math.prod(_stored_size(file))
        if taken > memory:
            return ImageFiles(files)
    return _in_memory(files)


def _files(path: str | Path) -> list[Path]:
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path}: there is no such folder")
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"{path} holds no image ({', '.join(SUFFIXES)})")
    return files


def _in_memory(files: Sequence[Path]) -> PhotoSet:
    return PhotoSet([load_image(file) for file in files], [file.name for file in files])


def photos(split: str = "train") -> PhotoSet:
    """The bundled photographs, "train" or "test". Their sources and licenses stand in data/photographs/sources.csv."""
    if split not in ("train", "test"):
        raise ValueError(f'split: takes "train" or "test", got {split!r}')
    return folder(paths.data() / "photographs" / split)


class Banana:
    """The "banana" source as an endless supply of points, for training; `banana` draws a fixed number."""

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n points, float32 of shape (n, 2)."""
        return banana(n, generator)


def banana(n: int, generator: torch.Generator | None = None) -> Tensor:
    """n points of the two-dimensional "banana" source, float32 of shape (n, 2).

    A Gaussian with standard deviations 3 and ½, bent by a parabola, turned by 240° and shifted: the source that
    Ballé et al. (Nonlinear Transform Coding, 2020, fig. 2) draw, with the constants of their published code.
    """
    a, b = (torch.randn(2, n, generator=generator) * torch.tensor([[3.0], [0.5]])).unbind()
    b = b - 0.1 * a * a
    angle = math.radians(240)
    x = math.cos(angle) * a + math.sin(angle) * b - 1
    y = -math.sin(angle) * a + math.cos(angle) * b - 1
    return torch.stack([x, y], dim=1)


# Sources of points ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian source of mean 0: an endless supply of numbers, for training."""

    variance: float = 1.0

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n points, float32 of shape (n, 1)."""
        return math.sqrt(self.variance) * torch.randn(n, 1, generator=generator)


@dataclass(frozen=True)
class Laplacian:
    """A Laplacian source of mean 0."""

    variance: float = 1.0

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n points, float32 of shape (n, 1)."""
        one, other = -torch.log1p(-torch.rand(2, n, 1, generator=generator))  # the difference of two exponentials
        return math.sqrt(self.variance / 2) * (one - other)


@dataclass(frozen=True)
class Ring:
    """A noisy circle in the plane: a uniform angle, and a Gaussian radius.

    Two numbers that a banana's two latents would say as well, but no continuous transform unrolls a ring: somewhere a
    code cuts it, or it spends both latents on going round.
    """

    radius: float = 3.0
    noise: float = 0.3

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n points, float32 of shape (n, 2)."""
        angle = 2 * math.pi * torch.rand(n, generator=generator)
        radius = self.radius + self.noise * torch.randn(n, generator=generator)
        return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)


@dataclass(frozen=True)
class Sawbridge:
    """The sawbridge X(t) = t − 1(t ≥ U), U uniform on [0, 1], at `points` times t = (k + ½)/points.

    The squared distance of two realizations is `points` times the integral over t, which is the distortion of Wagner &
    Ballé (Neural Networks Optimally Compress the Sawbridge, 2021): λ for theirs is λ/points here. Their limit: H bits
    leave an error of at least 2^(−H)/6, reached by 2^H equal intervals of U where that is a whole number.
    """

    points: int = 256

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n realizations, float32 of shape (n, points)."""
        return self.realize(torch.rand(n, generator=generator))

    def realize(self, u: Tensor) -> Tensor:
        """The realizations of U = u, of shape (n,): float32 of shape (n, points)."""
        t = (torch.arange(self.points) + 0.5) / self.points
        return t - (t >= u[:, None]).float()
