"""The commands `labkit compress`, `decompress` and `info`."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from labkit import evaluation, networks, training
from labkit.cli import main
from labkit.files import codec as files
from labkit.files.container import Container

README = Path(__file__).resolve().parents[2] / "README.md"


def labkit(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "net.safetensors"
    net = networks.factorized_prior("tiny")
    net.update()
    training.save_checkpoint(net, path, lmbda=0.01)
    return path


@pytest.fixture(scope="module")
def crop(test_photos):
    return test_photos.images[1][:, :80, :100]


@pytest.fixture
def photo(crop, tmp_path):
    Image.fromarray(crop.permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def pixels(path):
    return torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1)


def test_compress_with_refine_writes_the_refined_latents(photo, crop, tmp_path):
    result = labkit("compress", photo, "--refine", 20, "--lmbda", 0.025)
    assert result.exit_code == 0 and "20 steps lowered the loss by" in result.output, result.output
    net = networks.pretrained(lmbda=0.025)
    refined = evaluation.refine(net, crop / 255, steps=20)
    plain = files.compress(crop, net)
    loss = {}
    for label, container in (("plain", plain), ("refined", Container.read(tmp_path / "photo.lkc"))):
        error = ((files.decompress(container, net).double() - crop.double()) ** 2).mean().item()
        loss[label] = 8 * sum(map(len, container.strings)) / crop[0].numel() + net.info["lmbda"] * error
    assert refined.improved and loss["refined"] < loss["plain"]
    assert loss["refined"] == pytest.approx(refined.after.loss, rel=0.01)  # the number of threads changes a few latents


def test_decompress_restores_the_image_that_compress_verified(photo, crop):
    net, coded = networks.pretrained(), photo.with_suffix(".lkc")
    result = labkit("compress", photo)
    container = Container.read(coded)
    assert container == files.compress(crop, net) and coded.stat().st_size == container.file_bytes
    decoded = files.decompress(container, net)
    psnr = -10 * math.log10(np.mean((decoded.numpy() / 255 - crop.numpy() / 255) ** 2))
    size = f"100×80 pixels in {container.file_bytes} bytes, {container.file_bytes / 1000:.4f} bpp, {psnr:.2f} dB PSNR"
    assert result.exit_code == 0 and result.output == f"{coded}: {size}\n"
    result = labkit("decompress", coded, "-o", photo.with_name("back.png"))
    assert result.exit_code == 0 and "identical to the image that was verified during compression" in result.output
    assert torch.equal(pixels(photo.with_name("back.png")), decoded)


@pytest.mark.parametrize("suffix", [".webp", ".ppm", ".bmp", ".tif", ".TIFF"])
def test_every_output_format_is_lossless(photo, crop, suffix):
    coded, output = photo.with_suffix(".lkc"), photo.with_name("back" + suffix)
    container = files.compress(crop, networks.pretrained())
    container.write(coded)
    assert labkit("decompress", coded, "-o", output).exit_code == 0
    assert torch.equal(pixels(output), files.decompress(container, networks.pretrained()))


def test_lmbda_selects_the_closest_bundled_weights_and_decompress_finds_them(photo):
    out = photo.with_name("fine.lkc")
    assert labkit("compress", photo, "-o", out, "--lmbda", 0.1, "--no-verify").exit_code == 0
    container = Container.read(out)
    assert container.image_checksum is None
    assert container.weights == training.weights_hash(networks.pretrained(lmbda=0.025))[:16]
    result = labkit("decompress", out)
    assert result.exit_code == 0 and "fine.png: 100×80 pixels, not verified during compression" in result.output


def test_decompress_asks_for_the_checkpoint_that_compress_used(photo, checkpoint):
    coded = photo.with_suffix(".lkc")
    assert labkit("compress", photo, "--weights", checkpoint).exit_code == 0
    result = labkit("decompress", coded, "-o", photo.with_name("back.png"), "--weights", checkpoint)
    assert result.exit_code == 0, result.output
    result = labkit("decompress", coded, "-o", photo.with_name("again.png"))
    expected = f"factorized_prior tiny (N = 24, M = 36) whose weights have the hash {Container.read(coded).weights}"
    assert result.exit_code == 2 and expected in result.output and len(result.output.splitlines()) == 1
    assert not photo.with_name("again.png").exists()


def test_compress_refuses_a_checkpoint_without_coder_tables(photo, tmp_path):
    """No decoder could read the file, since the tables that this process would build are stored nowhere."""
    path = tmp_path / "without.safetensors"
    training.save_checkpoint(networks.factorized_prior("tiny"), path, lmbda=0.01)
    result = labkit("compress", photo, "--weights", path)
    assert result.exit_code == 2 and "entropy_bottleneck has no coder tables" in result.output
    assert len(result.output.splitlines()) == 1 and not photo.with_suffix(".lkc").exists()


@pytest.mark.parametrize("value", [math.nan, 1e30])
@pytest.mark.parametrize("transform", ["g_a", "h_a", "h_s", "g_s"])
def test_a_weight_that_is_no_number_or_huge_ends_in_one_line(transform, value, photo, crop, tmp_path):
    """In `labkit compress` and in `lk.evaluate`, before CompressAI's coder meets a symbol on which it would hang."""
    net = networks.mean_scale_hyperprior("tiny", seed=0).eval()
    net.update()
    with torch.no_grad():
        next(net.get_submodule(transform).parameters()).fill_(value)
    training.save_checkpoint(net, tmp_path / "net.safetensors")
    result = labkit("compress", photo, "--weights", tmp_path / "net.safetensors")
    assert result.exit_code == 2 and result.output.startswith("labkit: ") and result.output.count("\n") == 1
    with pytest.raises(ValueError, match=r"not finite|too large for exact sums|outside ±8192") as refused:
        evaluation.evaluate(net, [crop / 255], progress=False)
    assert "\n" not in str(refused.value)
    if transform == "g_s" and math.isnan(value):
        assert re.search(r"the first module with such an output is g_s\.0", str(refused.value))


def test_compress_reports_that_transparent_pixels_become_white(photo):
    with Image.open(photo) as image:
        image.putalpha(128)
        image.save(photo)
        image.putalpha(255)
        image.save(photo.with_name("opaque.png"))
    assert "; transparent pixels were blended with white" in labkit("compress", photo).output
    assert "white" not in labkit("compress", photo.with_name("opaque.png")).output


def test_another_image_from_the_verified_latents_is_no_error(photo, crop):
    coded, good = photo.with_suffix(".lkc"), files.compress(crop, networks.pretrained())
    replace(good, image_checksum=good.image_checksum ^ 1).write(coded)
    result = labkit("decompress", coded, "-o", photo.with_name("back.png"))
    assert result.exit_code == 0 and len(result.output.splitlines()) == 1
    assert "decoded from the verified latents, but this processor rounds the synthesis transform" in result.output


def test_other_latents_are_written_only_with_ignore_checksum(photo, crop):
    coded, kept = photo.with_suffix(".lkc"), photo.with_name("kept.png")
    good = files.compress(crop, networks.pretrained())
    changed = {"image_checksum": good.image_checksum ^ 1, "latents_checksum": good.latents_checksum ^ 1}
    replace(good, **changed).write(coded)
    kept.write_text("my own")
    result = labkit("decompress", coded, "-o", kept, "--force")
    assert result.exit_code == 2 and "the decoded latents differ from the verified ones" in result.output
    assert len(result.output.splitlines()) == 1 and kept.read_text() == "my own"
    result = labkit("decompress", coded, "-o", kept, "--force", "--ignore-checksum")
    assert result.exit_code == 0 and "different from the image that was verified during compression" in result.output
    assert torch.equal(pixels(kept), files.decompress(good, networks.pretrained()))


def test_info_prints_the_contents_without_torch(photo, crop):
    coded = photo.with_suffix(".lkc")
    container = files.compress(crop, networks.pretrained())
    container.write(coded)
    run = "import sys; sys.modules['torch'] = None; import labkit.cli; labkit.cli.main(sys.argv[1:])"
    command = [sys.executable, "-c", run, "info", str(coded)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for part in (
        "version 2",
        "every machine (fixed-1 arithmetic)",
        "all checksums are correct",
        "patch_hyperprior tiny (N = 192, M = 192)",
        "100×80",
    ):
        assert part in output
    assert (
        f"latents {container.latents_checksum:08x} and of the image {container.image_checksum:08x}" in output
        and container.weights in output
        and "58 for headers and checksums" in output
    )
    description = json.loads(labkit("info", coded, "--json").output)
    assert description.pop("strings") == [len(string) for string in container.strings]
    assert description == {
        **{name: getattr(container, name) for name in ("network", "size", "N", "M", "weights", "width", "height")},
        **{"version": 2, "arithmetic": "fixed-1", "bytes": container.file_bytes, "bpp": container.bpp},
        **{"image_checksum": container.image_checksum, "latents_checksum": container.latents_checksum},
        "checksums": "good",
    }


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["compress", "FOLDER/absent.png"], "absent.png: there is no such file"),
        (["compress", "FOLDER"], "there is no such file"),
        (["compress", "FOLDER/coded.lkc"], "is the input file: use --output to name another file"),
        (["compress", "FOLDER/photo.png", "-o", "FOLDER/photo.png", "--force"], "is the input file"),
        (
            ["compress", "FOLDER/photo.png", "-o", "FOLDER/kept.png"],
            "kept.png already exists: use --force to overwrite it",
        ),
        (["compress", "FOLDER/photo.png", "-o", "FOLDER", "--force"], "is a folder"),
        (["compress", "FOLDER/photo.png", "-o", "FOLDER/no/x.lkc"], "x.lkc: there is no folder"),
        (["compress", "FOLDER/photo.png", "--lmbda", "0"], "--lmbda must be a positive number, got 0"),
        (["compress", "FOLDER/photo.png", "--lmbda", "nan"], "--lmbda must be a positive number, got nan"),
        (["compress", "FOLDER/photo.png", "--lmbda", "1", "--weights", "x"], "use either --lmbda or --weights"),
        (["compress", "FOLDER/photo.png", "--weights", "absent"], "absent: there is no such checkpoint"),
        (["compress", "FOLDER/kept.png", "-o", "FOLDER/x.lkc"], "kept.png cannot be read as an image"),
        (["decompress", "FOLDER/photo.png"], "photo.png: it is not a .lkc file"),
        (["decompress", "FOLDER/coded.lkc", "-o", "FOLDER/x.jpg"], "x.jpg: JPEG is lossy; use .png"),
        (["decompress", "FOLDER/coded.lkc", "-o", "FOLDER/x"], "x: no image format has the suffix ''; use .png"),
        (["decompress", "FOLDER/coded.lkc", "-o", "FOLDER/kept.png"], "kept.png already exists"),
        (["decompress", "FOLDER/coded.lkc", "-o", "FOLDER/no/x.png"], "x.png: there is no folder"),
        (["decompress", "FOLDER/coded.lkc", "--weights", "CHECKPOINT"], "not with factorized_prior (N = 24, M = 36)"),
        (
            ["decompress", "FOLDER/other.lkc", "-o", "FOLDER/kept.png", "--force"],
            "weights have the hash 0000000000000000",
        ),
        (
            ["decompress", "FOLDER/other.lkc", "-o", "FOLDER/x.png"],
            "other.lkc: it was coded with patch_hyperprior",
        ),
        (["info", "FOLDER/photo.png"], "photo.png: it is not a .lkc file"),
    ],
)
def test_an_error_has_one_line_and_changes_no_file(arguments, message, photo, crop, checkpoint):
    folder = photo.parent
    good = files.compress(crop, networks.pretrained(), verify=False)
    good.write(folder / "coded.lkc")
    replace(good, weights="0" * 16).write(folder / "other.lkc")
    (folder / "kept.png").write_text("my own")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    names = {"CHECKPOINT": str(checkpoint)}
    result = labkit(*(names.get(a, a.replace("FOLDER", str(folder))) for a in arguments))
    assert result.exit_code == 2 and len(result.output.splitlines()) == 1 and message in result.output, result.output
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
