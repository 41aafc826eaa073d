"""The codec in JavaScript codes and decodes what Python does, and takes no damaged file for a right one."""

import base64
import json
import random
import struct
import zlib

import numpy as np
import pytest
import torch

import labkit as lk
from labkit.files import codec
from labkit.files.container import Container
from labkit.networks.patch import PatchLinear
from labkit.web import weights
from tests.browser.chromium import chromium
from tests.web.codecs import Page, decoded_elsewhere, photograph, steps
from tests.web.damage import damaged, with_checksums

LMBDAS = lk.networks.pretrained_lmbdas("patch_hyperprior")


@pytest.fixture(scope="module")
def page():
    """Return a page with the codec."""
    with chromium() as browser:
        yield Page(browser.new_page())


@pytest.fixture(scope="module")
def nets(page):
    """Return the bundled networks by λ; the page has them under the same names."""
    nets = {f"{lmbda:g}": lk.networks.pretrained("patch_hyperprior", lmbda) for lmbda in LMBDAS}
    for name, net in nets.items():
        page.load(name, net)
    return nets


@pytest.fixture(scope="module")
def photos():
    return lk.datasets.photos("test").images


def linear(seed=0):
    """Return a `patch_linear` that has not been trained, with coder tables."""
    torch.manual_seed(seed)
    net = PatchLinear(24, 24).eval()
    net.start(0.02, torch.rand(2, 3, 64, 64))
    net.update()
    return net


def check_both_ways(page, name, net, image):
    """Check a file of Python in the page, and a file of the page in Python; return the latter."""
    container = codec.compress(image, net)
    decoded = page.decode(name, container.pack())
    assert decoded["latentsOk"] is True
    most, part = steps(decoded["pixels"], codec.decompress(container, net))
    assert most <= 1 and part < 0.001

    file, _ = page.encode(name, image)
    coded = Container.unpack(file)
    there = decoded if coded.strings == container.strings else page.decode(name, file)
    assert zlib.crc32(there["pixels"]) == coded.image_checksum
    most, part = steps(there["pixels"], codec.decompress(coded, net))  # it raises if the latents differ
    assert most <= 1 and part < 0.001
    assert abs(len(file) - container.file_bytes) <= 8 + 0.001 * container.file_bytes
    return decoded


@pytest.mark.slow  # since a browser takes a second to start
def test_a_small_photograph_decodes_both_ways(page, photos):
    net = linear()
    page.load("linear", net)
    fractions = check_both_ways(page, "linear", net, photograph(photos[0], 61, 83))["fractions"]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    assert [url for url in page.requests if not url.startswith("blob:")] == []


CANCEL = """
() => {
    const image = {width: 64, height: 64, pixels: new Uint8ClampedArray(4 * 64 * 64)};
    try {
        codec.encode(nets.linear, image, () => { throw new Error("stopped"); });
    } catch (error) {
        return error.message;
    }
}
"""


@pytest.mark.slow
def test_an_error_of_the_callback_ends_the_work(page):
    page.load("linear", linear())
    assert page.page.evaluate(CANCEL) == "stopped"


def test_weights_are_exact_and_scripts_hold_them(tmp_path):
    paths = weights.write(tmp_path)
    assert [path.name for path in paths] == [f"weights-{lmbda:g}.js" for lmbda in LMBDAS]
    data = base64.b64decode(paths[0].read_text().split('"')[3])
    assert zlib.crc32(data[:-4]) == struct.unpack("<I", data[-4:])[0] and len(data) < 2_400_000
    (length,) = struct.unpack_from("<I", data, 8)
    description, place = json.loads(data[12 : 12 + length]), 12 + length
    state = lk.networks.pretrained("patch_hyperprior", LMBDAS[0]).state_dict()
    for name, kind, shape in description["parts"]:
        size = shape[1] if kind == "tables" else {"f16": 2, "f32": 4}[kind] * int(np.prod(shape))
        if name in state:
            values = np.frombuffer(data[place : place + size], {"f16": "<f2", "f32": "<f4"}[kind])
            assert np.array_equal(values.astype("<f4").reshape(shape), state[name].numpy())
        place += size
    assert place == len(data) - 4


def test_weights_of_other_networks_are_refused():
    with pytest.raises(ValueError, match="net must be one of patch_hyperprior, patch_linear, got patch_mlp"):
        weights.pack(lk.networks.patch_mlp("tiny"))
    with pytest.raises(ValueError, match="coder tables"):
        weights.pack(PatchLinear(8, 8))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(13))
def test_photographs_at_every_lmbda_decode_both_ways(page, nets, photos, number):
    """Each photograph is coded whole with one of the weights; the others code its middle, which takes less time."""
    for place, (name, net) in enumerate(nets.items()):
        whole = place == number % len(nets)
        check_both_ways(page, name, net, photos[number] if whole else photograph(photos[number], 70, 100))


MAPS = """
([name, text]) => {
    const { maps } = codec.decode(nets[name], bytesOf(text));
    const names = ["mu", "sigma", "bits", "symbols"];
    return Object.fromEntries(names.map((name) => [name, textOf(new Uint8Array(maps[name].buffer))]));
}
"""


@pytest.mark.slow
def test_python_gives_a_notebook_the_maps_of_the_page(page, nets, photos):
    (name, net), *_ = nets.items()
    view = lk.live.FileView(codec.compress(photograph(photos[0], 70, 100), net), net=net)
    texts = page.page.evaluate(MAPS, [name, base64.b64encode(view.container.pack()).decode()])
    maps = {key: np.frombuffer(base64.b64decode(text), view.maps[key].dtype) for key, text in texts.items()}
    for key in ("mu", "sigma", "symbols"):
        assert np.array_equal(maps[key], view.maps[key].reshape(-1)), key
    assert maps["bits"] == pytest.approx(view.maps["bits"].reshape(-1), abs=1e-5)
    ledger = page.page.evaluate(
        "(text) => codec.inspect(bytesOf(text)).ledger", base64.b64encode(view.container.pack()).decode()
    )
    assert {each["part"]: each["bytes"] for each in ledger} == view.ledger


@pytest.mark.slow
def test_files_of_the_page_decode_with_another_instruction_set(page, nets, photos, tmp_path):
    for name, photo in zip(nets, photos, strict=False):
        file, _ = page.encode(name, photograph(photo, 128, 192))
        (tmp_path / f"{name}.lkc").write_bytes(file)
        np.save(tmp_path / f"{name}.npy", page.decode(name, file)["pixels"])
    results = decoded_elsewhere(tmp_path)
    assert len(results) == 4
    assert all(same and most <= 1 and part < 0.001 for same, most, part in results), results


# Files that are not what they claim to be -----------------------------------------------------------------------------


@pytest.mark.slow
def test_damaged_files_are_refused_in_one_line_or_decode_with_matching_checksums(page, nets, photos):
    draw = random.Random(23)
    name, net = next(iter(nets.items()))
    file, other = (codec.compress(photograph(photo, 96, 96), net).pack() for photo in photos[:2])
    right = page.decode(name, file)["pixels"]
    files = [damaged(file, other, draw) for _ in range(200)]
    results = page.decode_damaged(name, files)
    print(f"slowest: {max(result['milliseconds'] for result in results):.0f} ms")
    assert all(result["milliseconds"] < 2000 for result in results)
    refused = [result for result in results if "error" in result]
    assert len(refused) >= 150
    for result in refused:
        text = result["error"]
        assert result["kind"] == "Error" and "\n" not in text and text.endswith(".") and 20 < len(text) < 200, text
    for result, data in zip(results, files, strict=True):
        if "error" not in result and not np.array_equal(result["pixels"], right):
            # The latents are right, but the header claims a size with the same padding; or the file was not verified.
            assert result["latentsOk"] is not True or (data[23:27] != file[23:27] and result["imageOk"] is False)


CASES = {
    "empty": "The file is empty.",
    "text": "This is not an .lkc file: its first bytes are different.",
    "line ends": "The file is damaged: its first bytes have changed, as in a transfer in text mode.",
    "version 1": "The file has format version 1, which decodes only on similar processors.",
    "version 3": "A newer labkit wrote the file: its format has version 3, and this page reads version 2.",
    "network": "The file was coded with elic. This page decodes only patch_hyperprior and patch_linear",
    "header": "The file is damaged: its header does not match its checksum.",
    "section": "The file is damaged: string 1 of 2 does not match its checksum.",
    "cut": "The file is cut off or damaged: string 2 of 2 claims",
    "short": "The file is cut off: it ends after 20 bytes, inside its header.",
    "trailing": "The file is damaged: 3 bytes follow its last string.",
    "pixels": "The image has 65535×65535 pixels, but a file holds at most 100,000,000.",
    "large": "The file claims a larger image than its string of",
    "weights": "The file was coded with patch_hyperprior tiny, weights",
    "latents": "The decoded latents differ from the verified ones",
}


@pytest.mark.slow
def test_each_kind_of_bad_file_has_its_own_line(page, nets, photos):
    (name, net), *_ = nets.items()
    file = codec.compress(photograph(photos[0], 64, 64), net).pack()

    def changed(place, *values, repair=True):
        data = bytearray(file)
        data[place : place + len(values)] = values
        return with_checksums(data) if repair else bytes(data)

    cases = {
        "empty": b"",
        "text": b"<html>an error page</html>" * 4,
        "line ends": file.replace(b"\r\n", b"\n", 1),
        "version 1": changed(8, 1),
        "version 3": changed(8, 3),
        "network": changed(9, 6),
        "header": changed(24, 1, repair=False),
        "section": changed(60, 0, 1, 2, 3, repair=False),
        "cut": file[:-4],
        "short": file[:20],
        "trailing": file + b"end",
        "pixels": changed(23, 255, 255, 255, 255),
        "large": changed(23, 255, 31, 255, 31),
        "weights": changed(15, 0),
        "latents": changed(34, 0, 0, 0, 0),
    }
    assert set(cases) == set(CASES)
    for (case, text), result in zip(CASES.items(), page.decode_damaged(name, list(cases.values())), strict=True):
        assert result.get("error", "no error").startswith(text), (case, result)
