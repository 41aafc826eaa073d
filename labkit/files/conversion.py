"""Conversion of image files to `.lkc` files and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from labkit import datasets
from labkit.evaluation import Refined, metrics, refine
from labkit.files import codec
from labkit.files.container import Container
from labkit.files.formats import write_image
from labkit.networks import Codec


@dataclass(frozen=True, eq=False, repr=False)
class CompressedFile:
    """The result of `compress_file`.

    Attributes:
        path: The `.lkc` file.
        container: The contents of the file.
        psnr: PSNR in dB of the decoded image, or None if it was not decoded for verification.
        refined: The result of the refinement, or None if the latents were not refined.
        transparent: True if the image file has transparent pixels, which were blended with white.
    """

    path: Path
    container: Container
    psnr: float | None
    refined: Refined | None
    transparent: bool

    def __repr__(self) -> str:
        return f"CompressedFile({str(self.path)!r}, {self.container.file_bytes} bytes)"

    def __str__(self) -> str:
        container = self.container
        text = f"{self.path}: {container.width}×{container.height} pixels in {container.file_bytes:,} bytes"
        text += f", {container.bpp:.4f} bpp"
        if self.psnr is not None:
            text += f", {self.psnr:.2f} dB PSNR"
        if self.refined:
            gain = 1 - self.refined.after.loss / self.refined.before.loss
            text += f"; {self.refined.steps} steps lowered the loss by {gain:.1%}"
        if self.transparent:
            text += "; transparent pixels were blended with white"
        return text


@dataclass(frozen=True, eq=False, repr=False)
class DecompressedFile:
    """The result of `decompress_file`.

    Attributes:
        path: The image file.
        container: The contents of the `.lkc` file.
        verified: True if the image matches the checksum in the `.lkc` file, False if it does not, or None if the
            `.lkc` file has no checksum of the image.
        same_latents: The same for the latents; None for a `.lkc` file of version 1.
    """

    path: Path
    container: Container
    verified: bool | None
    same_latents: bool | None

    def __repr__(self) -> str:
        return f"DecompressedFile({str(self.path)!r}, verified={self.verified})"

    def __str__(self) -> str:
        note = {
            True: "identical to the image that was verified during compression",
            False: "different from the image that was verified during compression",
            None: "not verified during compression",
        }[self.verified]
        if self.verified is False and self.same_latents:
            note = (
                "decoded from the verified latents, but this processor rounds the synthesis transform differently; "
                "usually a few values differ by 1 of 255, but the file only has a checksum to compare with"
            )
        return f"{self.path}: {self.container.width}×{self.container.height} pixels, {note}"


def compress_file(
    source: str | Path,
    output: str | Path,
    net: Codec,
    *,
    refinement_steps: int = 0,
    verify: bool = True,
) -> CompressedFile:
    """Compress an image file to a `.lkc` file, on the CPU.

    Args:
        source: Image file. Transparent pixels are blended with white.
        output: The `.lkc` file to write.
        net: The network that compresses the image.
        refinement_steps: Number of steps that `labkit.refine` takes to find better latents. 0 keeps the latents of the
            encoder.
        verify: Whether to decode the file again and store checksums of its latents and its image in it.

    Returns:
        The contents of the file and its quality.

    Raises:
        ValueError: If the image cannot be read or coded, or if the file cannot be written.
    """
    image = datasets.load_image(source)
    try:
        refined = refine(net, image / 255, steps=refinement_steps) if refinement_steps else None
        container = codec.compress(image, net, verify=False, latents=(refined.y, refined.z) if refined else None)
        psnr = None
        if verify:
            container, decoded = codec.verified(container, net)
            psnr = metrics.psnr(decoded, image)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    container.write(output)
    return CompressedFile(Path(output), container, psnr, refined, datasets.transparent(source))


def decompress_file(
    source: str | Path, output: str | Path, net: Codec | None = None, *, ignore_checksum: bool = False
) -> DecompressedFile:
    """Decompress a `.lkc` file to an image file of a lossless format, on the CPU.

    Args:
        source: The `.lkc` file.
        output: Image file to write. Its suffix selects the format; see `labkit.files.formats.LOSSLESS`.
        net: The network that compressed the image, or None for the bundled network that the file names.
        ignore_checksum: Whether to write the image even if its latents (in version 1: the image itself) differ from
            those verified during compression.

    Returns:
        The contents of the `.lkc` file, and whether its latents and its image are the verified ones.

    Raises:
        ValueError: If the file is damaged, if it was written with another network, if the latents (in version 1: the
            image) differ from those verified during compression, or if the image file cannot be written.
    """
    container = Container.read(source)
    try:
        decoded = codec.decode(container, net or codec.bundled_network(container))
        if not ignore_checksum:
            codec.check_verified(container, decoded)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    write_image(output, decoded.image)
    return DecompressedFile(Path(output), container, decoded.same_image, decoded.same_latents)
