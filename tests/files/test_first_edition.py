"""Files of labkit's first edition can still be read."""

from pathlib import Path

import numpy as np
from PIL import Image

from labkit import networks
from labkit.files import codec
from labkit.files.container import Container
from labkit.first_edition import SETTINGS

FOLDER = Path(__file__).resolve().parents[1] / "first_edition"


def test_a_coded_image_decodes_with_the_bundled_weights():
    """The mean difference may be almost 1 of 255, because floating-point sums differ between processors."""
    container = Container.read(FOLDER / "photo.lkc")
    assert container.version == 1 and container.arithmetic == "floating-point"
    net = codec.bundled_network(container)
    decoded = codec.decompress(container, net, ignore_checksum=True).permute(1, 2, 0).numpy()
    expected = np.asarray(Image.open(FOLDER / "decoded.png").convert("RGB"))
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(float) - expected).mean() < 1


def test_the_header_of_a_coded_image_can_be_read():
    container = Container.read(FOLDER / "photo.lkc")
    with Image.open(FOLDER / "photo.png") as image:
        assert (container.width, container.height) == image.size
    assert (container.network, container.size, container.N, container.M) == ("mean_scale_hyperprior", "tiny", 24, 36)
    assert container.image_checksum is not None and len(container.strings) == 2


def test_a_checkpoint_whose_description_has_the_old_names_can_be_loaded():
    net, info = networks.load_checkpoint(FOLDER / "trained.safetensors")
    assert set(SETTINGS) <= set(info)
    assert net.kind == info["network"] and tuple(info["channels"]) == (net.N, net.M)
