"""Sets of photographs in memory and on disk, and random crops of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import torch
from torch import Tensor

from labkit import paths
from labkit.datasets.reading import SUFFIXES, load_image, stored_size
from labkit.progress import progress_bar


class _ImageSet(Sequence[Tensor]):
    """Base of all image sets. All sets draw crops in the same way, so the same generator gives the same crops."""

    names: list[str]

    def _pixels(self, index: int) -> Tensor:
        """Return one image as uint8 of shape (3, H, W)."""
        raise NotImplementedError

    def _sizes(self) -> Iterable[tuple[int, int]]:
        """Return the two sides of each image, in any order."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images)"

    def crops(self, n: int, size: int, generator: torch.Generator, permute_colors: bool = False) -> Tensor:
        """Draw random square crops, flipped at random.

        Args:
            n: Number of crops.
            size: Side of a crop in pixels.
            generator: Generator on the CPU. The same generator state gives the same crops from memory and from files.
            permute_colors: Whether half of the crops get their color channels in a random order, so that a few
                photographs cover more colors.

        Returns:
            float32 crops in [0, 1] of shape (n, 3, size, size), on the device of the images.

        Raises:
            ValueError: If an image is smaller than a crop.
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
        """Draw the same crops as `crops`, but as uint8, which needs a quarter of the memory.

        Args:
            n: Number of crops in all parts together.
            size: Side of a crop in pixels.
            generator: Generator on the CPU.
            permute_colors: Whether half of the crops get their color channels in a random order.
            part: (k, m) returns the k-th of m equal parts of the crops, and reads only the images of this part.

        Returns:
            uint8 crops of shape (n / m, 3, size, size).

        Raises:
            ValueError: If an image is smaller than a crop.
        """
        positions, batch = range(part[0] * n // part[1], (part[0] + 1) * n // part[1]), []
        for position, index in enumerate(torch.randint(len(self), (n,), generator=generator).tolist()):
            if position not in positions:
                _draw_cut(size, size, size, generator, permute_colors)  # draws equally many numbers for every size
                continue
            image = self._pixels(index)
            height, width = image.shape[1:]
            _check_size(self.names[index], height, width, size)
            batch.append(_cut(image, size, _draw_cut(height, width, size, generator, permute_colors)))
        return torch.stack(batch)

    def check_crop(self, size: int) -> None:
        """Check that all images are large enough for crops.

        Args:
            size: Side of a crop in pixels.

        Raises:
            ValueError: If an image is too small. The message names the first one.
        """
        for name, (height, width) in zip(self.names, self._sizes(), strict=True):
            _check_size(name, height, width, size)


class PhotoSet(_ImageSet):
    """Photographs in memory. `photos[i]` is float32 in [0, 1] of shape (3, H, W); a slice is a smaller set.

    Args:
        images: uint8 images of shape (3, H, W).
        names: A name for each image.

    Raises:
        ValueError: If the numbers of names and images differ.
    """

    def __init__(self, images: Sequence[Tensor], names: Sequence[str]):
        if len(images) != len(names):
            raise ValueError(f"names must have one entry for each of the {len(images)} images, got {len(names)}")
        self.images, self.names = list(images), list(names)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> PhotoSet: ...

    def __getitem__(self, index: int | slice) -> Tensor | PhotoSet:
        if isinstance(index, slice):
            return PhotoSet(self.images[index], self.names[index])
        return self.images[index].float() / 255

    def _pixels(self, index: int) -> Tensor:
        return self.images[index]

    def _sizes(self) -> Iterable[tuple[int, int]]:
        return ((image.size(1), image.size(2)) for image in self.images)

    def to(self, device: torch.device | str) -> PhotoSet:
        """Return the same set on another device."""
        return PhotoSet([image.to(device) for image in self.images], self.names)


class ImageFiles(_ImageSet):
    """Images that stay on disk because they need too much memory; `load_image` decodes each one on access.

    `files[i]` is float32 in [0, 1] of shape (3, H, W), and a slice is a smaller set. Crops are the same as those of a
    PhotoSet of the same images. Access raises ValueError if a file is damaged or missing.

    Args:
        paths: Image files.
    """

    def __init__(self, paths: Sequence[str | Path]):
        self.paths = [Path(path) for path in paths]
        self.names = [path.name for path in self.paths]

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> ImageFiles: ...

    def __getitem__(self, index: int | slice) -> Tensor | ImageFiles:
        if isinstance(index, slice):
            return ImageFiles(self.paths[index])
        return self._pixels(index).float() / 255

    def _pixels(self, index: int) -> Tensor:
        return load_image(self.paths[index])

    def _sizes(self) -> Iterable[tuple[int, int]]:
        """Read sizes from headers; a rotation may swap the two sides."""
        return map(stored_size, progress_bar(self.paths, unit="header", delay=1))


class _Cut(NamedTuple):
    """Position of a crop, and its changes in this order: swapped sides, reordered colors, flips."""

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
    if cut.colors:  # on a GPU, indexing with a list would wait for all pending work
        crop = torch.stack([crop[channel] for channel in cut.colors])
    return crop.flip([axis for axis, flip in ((1, cut.flip_y), (2, cut.flip_x)) if flip])


def _check_size(name: str, height: int, width: int, size: int) -> None:
    if min(height, width) < size:
        raise ValueError(
            f"{name} is {width}×{height} pixels; crops of {size}×{size} need at least {size} pixels on each side. "
            f"Use smaller crops or remove the image"
        )


def folder(path: str | Path) -> PhotoSet:
    """Load all images of a folder into memory, sorted by name.

    Args:
        path: Folder with image files.

    Raises:
        ValueError: If the folder is missing or has no images, or if a file cannot be read.
    """
    return _in_memory(_files(path))


def load_images(paths: Iterable[str | Path]) -> PhotoSet:
    """Load image files, and all images of folders, into memory.

    Args:
        paths: Image files and folders.

    Returns:
        The images in the given order; the images of a folder are sorted by name.

    Raises:
        ValueError: If a file cannot be read or a folder has no images.
    """
    return _in_memory([file for path in map(Path, paths) for file in (_files(path) if path.is_dir() else [path])])


def training_images(path: str | Path, memory: int = 2**30) -> PhotoSet | ImageFiles:
    """Load all images of a folder if they fit into memory.

    Args:
        path: Folder with image files.
        memory: Largest size of the decoded images in bytes, with 3 bytes per pixel.

    Returns:
        The images in memory, or the files if the images are larger. Headers are read only until this is decided.

    Raises:
        ValueError: If the folder is missing or has no images, or if a file that was read is damaged.
    """
    files, size = _files(path), 0
    for file in files:
        size += 3 * math.prod(stored_size(file))
        if size > memory:
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
    """Load the bundled photographs.

    Their sources and licenses are listed in data/photographs/sources.csv.

    Args:
        split: "train" or "test".

    Raises:
        ValueError: If the split is unknown.

    >>> import labkit as lk
    >>> lk.datasets.photos("test")
    PhotoSet(13 images)
    """
    if split not in ("train", "test"):
        raise ValueError(f'split must be "train" or "test", got {split!r}')
    return folder(paths.data() / "photographs" / split)
