"""Image files of all kinds are read: rotated, 16-bit, indexed, transparent, animated and damaged ones."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from labkit.datasets import MAX_PIXELS, load_image

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)


def load(path):
    """Load an image, check its type and layout, and return an array of shape (H, W, 3)."""
    image = load_image(path)
    assert image.dtype == torch.uint8 and image.size(0) == 3 and image.is_contiguous()
    return image.permute(1, 2, 0).numpy()


def as_rgb(gray):
    return np.repeat(gray[..., None], 3, axis=-1)


def png(path, array, color_type, depth, *chunks):
    """Write a PNG by hand, since Pillow does not write 16-bit color."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = array.shape[:2]
    rows = b"".join(b"\0" + row.astype(f">u{depth // 8}").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *(chunk(*part) for part in chunks), chunk(b"IDAT", zlib.compress(rows))]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    return path


# For each EXIF orientation, the function that turns the stored array upright
TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a[::-1].transpose(1, 0, 2),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a[:, ::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
@pytest.mark.parametrize("orientation", TURNED)
def test_photographs_are_turned_upright(orientation, suffix, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLORS).save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(load(path), TURNED[orientation](COLORS))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_jpeg_is_turned_upright_and_loads_even_if_its_exif_data_are_damaged(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    colors = Image.fromarray(np.kron(COLORS, np.ones((8, 8, 1), np.uint8)))
    colors.save(tmp_path / "plain.jpg", quality=95)
    colors.save(tmp_path / "turned.jpg", quality=95, exif=exif)
    plain = load(tmp_path / "plain.jpg")
    np.testing.assert_array_equal(load(tmp_path / "turned.jpg"), TURNED[6](plain))
    data = (tmp_path / "turned.jpg").read_bytes()
    start = data.index(b"Exif\0\0")
    for garbage in (b"\xff" * 8, b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08"):
        damaged = data[: start + 6] + garbage + data[start + 14 :]
        (tmp_path / "damaged.jpg").write_bytes(damaged)
        image = load(tmp_path / "damaged.jpg")
        assert any(np.array_equal(image, turn(plain)) for turn in TURNED.values())


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bit_gray_is_scaled_and_not_clipped(suffix, tmp_path):
    """The upper byte remains. It restores eight-bit values that were multiplied by 256 or by 257."""
    for factor in (256, 257):
        Image.fromarray(GRAY.astype(np.uint16) * np.uint16(factor)).save(tmp_path / f"a.{suffix}")
        np.testing.assert_array_equal(load(tmp_path / f"a.{suffix}"), as_rgb(GRAY))
    Image.fromarray(DEEP).save(tmp_path / f"b.{suffix}")
    np.testing.assert_array_equal(load(tmp_path / f"b.{suffix}"), as_rgb(DEEP // 256))


def test_sixteen_bit_color_is_scaled_like_sixteen_bit_gray(tmp_path):
    deep = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    np.testing.assert_array_equal(load(png(tmp_path / "rgb.png", deep, 2, 16)), deep // 256)
    np.testing.assert_array_equal(load(png(tmp_path / "gray.png", deep[..., 0], 0, 16)), as_rgb(deep[..., 0] // 256))
    with_alpha = np.stack([deep[..., 0], np.full((5, 7), 65535, np.uint16)], -1)
    np.testing.assert_array_equal(load(png(tmp_path / "la.png", with_alpha, 4, 16)), as_rgb(deep[..., 0] // 256))


def test_sixteen_bit_gray_can_be_turned_or_transparent(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(DEEP).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(load(tmp_path / "turned.png"), TURNED[6](as_rgb(DEEP // 256)))
    path = png(tmp_path / "keyed.png", DEEP, 0, 16, (b"tRNS", struct.pack(">H", int(DEEP[2, 3]))))
    expected = (DEEP // 256).astype(np.uint8)
    expected[np.equal(DEEP, DEEP[2, 3])] = 255
    np.testing.assert_array_equal(load(path), as_rgb(expected))


@pytest.mark.parametrize("array", [DEEP.astype(np.float32), DEEP.astype(np.int32) * 100, -DEEP.astype(np.int32)])
def test_samples_without_a_known_range_are_rejected(array, tmp_path):
    Image.fromarray(array).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif cannot be read as an image: its samples .* more than 16 bits"):
        load_image(tmp_path / "a.tif")


def test_gray_and_one_bit_images_get_three_equal_channels(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "l.png")
    np.testing.assert_array_equal(load(tmp_path / "l.png"), as_rgb(GRAY))
    Image.fromarray(GRAY > 127).save(tmp_path / "1.png")
    np.testing.assert_array_equal(load(tmp_path / "1.png"), as_rgb(np.uint8(255) * (GRAY > 127)))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_blended_with_white(mode, tmp_path):
    """The result is c·α + 255·(1 − α), within one level of rounding."""
    colors = COLORS if mode == "RGBA" else as_rgb(GRAY)
    channels = COLORS if mode == "RGBA" else GRAY[..., None]
    Image.fromarray(np.concatenate([channels, DEEP[..., None].astype(np.uint8)], -1)).save(tmp_path / "a.png")
    alpha = DEEP.astype(np.uint8)[..., None] / 255
    np.testing.assert_allclose(load(tmp_path / "a.png"), colors * alpha + 255 * (1 - alpha), atol=1)


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palettes_with_and_without_transparency_become_colors(suffix, tmp_path):
    palette = RNG.integers(0, 256, (4, 3), dtype=np.uint8)
    index = (GRAY % 4).astype(np.uint8)
    image = Image.fromarray(index)
    image.putpalette(palette.tobytes())
    image.save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(load(tmp_path / f"a.{suffix}"), palette[index])
    image.save(tmp_path / f"b.{suffix}", transparency=2)
    expected = np.where(index[..., None] == 2, 255, palette[index])
    np.testing.assert_array_equal(load(tmp_path / f"b.{suffix}"), expected)


def test_cmyk_becomes_rgb(tmp_path):
    """The result is (1 − ink)(1 − black), within one level. TIFF stores the inks unchanged."""
    inks = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    Image.merge("CMYK", [Image.fromarray(inks[..., k]) for k in range(4)]).save(tmp_path / "a.tif")
    expected = (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255
    np.testing.assert_allclose(load(tmp_path / "a.tif"), expected, atol=1)


@pytest.mark.parametrize("suffix", ["png", "webp", "gif", "tif"])
def test_the_first_frame_of_an_animation_is_loaded(suffix, tmp_path):
    frames = [Image.new("RGB", (7, 5), color) for color in ("red", "lime", "blue")]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        assert image.n_frames == 3
    assert (load(tmp_path / f"a.{suffix}") == [255, 0, 0]).all()


def write_header(path, width, height):
    """Write a PNG file whose header claims a size, without pixels that could be decoded."""
    data = png(path, np.zeros((1, 1), np.uint8), 0, 8).read_bytes()
    claim = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    header = struct.pack(">I", 13) + b"IHDR" + claim + struct.pack(">I", zlib.crc32(b"IHDR" + claim))
    path.write_bytes(data[:8] + header + data[33:])
    return path


def test_a_huge_image_is_rejected_before_it_is_decoded(tmp_path):
    with pytest.raises(ValueError, match=rf"12000×10000 pixels, more than {MAX_PIXELS:,}"):
        load_image(write_header(tmp_path / "huge.png", 12_000, 10_000))


def test_a_large_image_within_the_limit_is_opened_without_pillows_warning(tmp_path, recwarn):
    with pytest.raises(ValueError, match="truncated"):
        load_image(write_header(tmp_path / "large.png", 9_900, 9_900))
    assert not recwarn.list


@pytest.mark.filterwarnings("ignore")  # Pillow warns about damaged EXIF data
def test_a_damaged_jpeg_gives_an_image_or_a_one_line_error(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    path, rng = tmp_path / "a.jpg", np.random.default_rng(1)
    buffer = io.BytesIO()
    Image.fromarray(COLORS).resize((48, 32)).save(buffer, "jpeg", exif=exif)
    rejected = 0
    for number in range(400):
        data = bytearray(buffer.getvalue())
        data[rng.integers(len(data) if number % 2 else 120)] = rng.integers(256)  # every other change is in a header
        path.write_bytes(data)
        try:
            assert load(path).shape[2] == 3
        except ValueError as error:
            rejected += 1
            assert "\n" not in str(error) and str(error).startswith(str(path))
    assert 10 < rejected < 390


DECODE = """
import sys
from labkit.datasets import load_image
try:
    load_image(sys.argv[1])
except ValueError as error:
    print(error, file=sys.stderr)
print("later messages are shown", file=sys.stderr)
"""


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_a_damaged_tiff_gives_a_one_line_error(compression, tmp_path):
    """libtiff writes directly to file descriptor 2, where only the message of labkit may appear."""
    buffer = io.BytesIO()
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "tiff", compression=compression)
    data = bytearray(buffer.getvalue())
    for position in range(200, 2000, 7):
        data[position] ^= 0x5A
    (tmp_path / "damaged.tif").write_bytes(data)
    with pytest.raises(OSError):  # without labkit, Pillow reports an error and libtiff writes its own lines
        Image.open(tmp_path / "damaged.tif").load()
    command = [sys.executable, "-W", "ignore", "-c", DECODE, str(tmp_path / "damaged.tif")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    assert len(lines) == 2 and "damaged.tif cannot be read as an image" in lines[0]
    assert lines[1] == "later messages are shown"
