"""The specification of files suffices to write a decoder."""

import numpy as np
import pytest
import torch

import labkit as lk
from labkit.files import codec
from labkit.networks import save_checkpoint
from labkit.networks.patch import PatchLinear
from tests.web import from_format


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """Return a `patch_linear` that has started, and its checkpoint."""
    net = PatchLinear(24, 24).eval()
    photos = lk.datasets.photos("test").images
    net.start(0.02, torch.stack([photo[:, :96, :96] for photo in photos[:3]]).float() / 255)
    net.update()
    path = tmp_path_factory.mktemp("linear") / "linear.safetensors"
    save_checkpoint(net, path)
    return net, path.read_bytes()


@pytest.mark.parametrize(("height", "width", "gain"), [(75, 101, 1), (16, 160, 1), (1, 1, 1), (64, 64, 60)])
def test_a_decoder_written_from_the_specification_decodes_patch_linear(linear, height, width, gain):
    net, checkpoint = linear
    photo = lk.datasets.photos("test").images[4][:, :height, :width].contiguous()
    with torch.no_grad():  # a gain takes many latents out of their tables, so that they are escaped
        latents = (gain * net.g_a(photo[None].float() / 255), None) if gain > 1 else None
    container = codec.compress(photo, net, latents=latents)
    image, checksum, expected = from_format.decode(container.pack(), checkpoint)
    assert checksum == expected == container.latents_checksum
    other = codec.decompress(container, net).permute(1, 2, 0).numpy()
    steps = np.abs(image.astype(int) - other)
    assert image.shape == other.shape and steps.max() <= 1 and (steps > 0).mean() < 0.001


def test_the_decoder_of_the_specification_refuses_other_weights(linear):
    net, checkpoint = linear
    container = codec.compress(torch.zeros(3, 32, 32, dtype=torch.uint8), net)
    changed = bytearray(checkpoint)
    changed[-1] ^= 1
    with pytest.raises(AssertionError):
        from_format.decode(container.pack(), bytes(changed))
