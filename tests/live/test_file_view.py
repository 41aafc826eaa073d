"""What the view of a coded file sends to a notebook: the ledger, the maps and the images; and its errors."""

import dataclasses
import re

import numpy as np
import pytest
import torch

import labkit as lk
from labkit.evaluation import bitstream
from labkit.files import codec
from labkit.files.container import Container


@pytest.fixture(scope="module")
def photo():
    """Return an image of an odd size, and the network that codes it."""
    return lk.datasets.photos("test")[0][:, 40:121, 100:231]


@pytest.fixture(scope="module")
def net():
    return lk.networks.pretrained("patch_hyperprior", lmbda=0.0067)


@pytest.fixture(scope="module")
def view(photo, net):
    return lk.live.FileView(codec.compress((255 * photo).round().byte(), net), photo, channel=4)


def arrays(view, name, kind=np.float32):
    frame = view.frame
    return np.frombuffer(frame[name], kind).reshape(-1, frame["rows"], frame["columns"])


def test_the_ledger_has_every_byte_of_the_file(view):
    data = view.container.pack()
    lengths, place = [], 42
    while place < len(data):  # sections, by the bytes of the file
        lengths.append(int.from_bytes(data[place : place + 4], "little"))
        place += 8 + lengths[-1]
    y, z = lengths
    assert view.ledger == {"header": 42, "y": y - 8, "z": z - 8, "section headers": 16, "flush": 16}
    assert {each["part"]: each["bytes"] for each in view.frame["ledger"]} == view.ledger
    assert sum(view.ledger.values()) == view.frame["bytes"] == len(data)


def test_the_maps_agree_with_the_network_and_with_the_coder(view, photo, net):
    """In floating point, μ and σ differ by steps of 2⁻¹⁴; the bits of all latents are those of the string."""
    padding = codec._padding(*photo.shape[1:], net)
    with torch.no_grad():
        y = net.g_a(torch.nn.functional.pad((255 * photo[None]).round() / 255, padding, mode="replicate"))
        z_hat, _ = net.entropy_bottleneck(net.h_a(y), training=False)
        sigma, mu = net.h_s(z_hat).chunk(2, 1)
        _, likelihoods = net.gaussian_conditional(y, sigma, means=mu, training=False)
    assert arrays(view, "mu") == pytest.approx(mu[0].numpy(), abs=0.01)
    assert arrays(view, "sigma") == pytest.approx(sigma[0].clamp(min=0.11).numpy(), abs=0.01)
    symbols, bits = arrays(view, "symbols", np.int32), arrays(view, "bits")
    assert np.abs(symbols - (y - mu)[0].numpy()).max() < 0.52
    string = view.container.strings[0]
    assert bits.sum() == pytest.approx(8 * len(string) - bitstream.flush_bits(string), abs=1)
    total = arrays(view, "total")[0]
    assert total == pytest.approx(-likelihoods[0].log2().sum(0).numpy(), rel=0.1)
    assert total == pytest.approx(bits.sum(0), rel=1e-5)
    assert view.maps["bits"].shape == (net.M, *total.shape) == bits.shape


def test_the_images_are_those_of_the_file_and_of_the_argument(view, photo):
    shape = (*photo.shape[1:], 4)
    image, original = (np.frombuffer(view.frame[name], np.uint8).reshape(shape) for name in ("image", "original"))
    decoded = codec.decompress(view.container, codec.bundled_network(view.container))
    assert np.array_equal(image[..., :3].transpose(2, 0, 1), decoded.numpy()) and (image[..., 3] == 255).all()
    assert np.abs(original[..., :3] / 255 - photo.permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6
    psnr = lk.evaluation.psnr(decoded / 255, lk.evaluation.metrics.eight_bits(photo))
    assert 10 * np.log10(255**2 / view.frame["mse"]) == pytest.approx(psnr, abs=1e-3)


def test_the_view_is_a_widget_with_a_still_and_a_short_text(view):
    data, _ = view._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG") and "application/vnd.jupyter.widget-view+json" in data
    assert data["text/plain"] == repr(view) == f"FileView({view.container!r})"
    still = np.asarray(view.still())
    assert still.shape == (480, 960, 3) and (still[0, 0] == 255).all() and len(np.unique(still)) > 100
    assert view.frame["label"] == f"A file of {len(view.container.pack()):,} bytes, with an image of 131×81 pixels"


def test_the_script_holds_the_elements_and_the_functions_of_the_page():
    script = lk.live.FileView._esm
    assert "https://" not in script and "</script" not in script
    for part in ("function showLedger(", 'id=\\"ledger\\"', "attachShadow", "transferToImageBitmap", "#ledger small"):
        assert part in str(script), part


def test_a_view_without_the_original_takes_a_path(view, tmp_path):
    view.container.write(tmp_path / "photo.lkc")
    alone = lk.live.FileView(tmp_path / "photo.lkc")
    assert "original" not in alone.frame and "mse" not in alone.frame and alone.frame["bits"] == view.frame["bits"]


def test_bad_input_gives_one_line(view, photo, net, tmp_path):
    (tmp_path / "text.lkc").write_text("not coded")
    good = view.container
    unknown = dataclasses.replace(good, weights="0" * 16, image_checksum=None, latents_checksum=None)
    other = dataclasses.replace(good, network="elic")
    huge = dataclasses.replace(good, width=4000, height=3000)
    forged = dataclasses.replace(good, latents_checksum=1)
    shorter = dataclasses.replace(good, strings=good.strings[:1])
    cases = [
        ((tmp_path / "none.lkc",), "there is no such file"),
        ((tmp_path / "text.lkc",), "its first bytes are different"),
        ((other,), "^file must be coded by patch_hyperprior, got elic"),
        ((huge,), "^file must have at most 2,000,000 pixels, got 4000×3000$"),
        ((unknown,), "no bundled weights have this hash"),
        ((forged,), "differ from the verified ones"),
        ((shorter,), "string"),
        (
            (good, photo[:, :64]),
            r"^original must have the shape of the coded image, \(3, 81, 131\), got \(3, 64, 131\)$",
        ),
        ((good, None, lk.networks.pretrained("patch_hyperprior", 0.018)), "other weights"),
    ]
    for arguments, problem in cases:
        with pytest.raises(ValueError, match=problem) as error:
            lk.live.FileView(*arguments)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=f"^channel must be 0 to {net.M - 1}, got {net.M}$"):
        lk.live.FileView(good, channel=net.M)
    assert re.match(r"FileView\(Container\(", repr(view)) and isinstance(good, Container)
