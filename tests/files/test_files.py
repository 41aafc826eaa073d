"""Files decode to the network's latents with any thread count and memory layout; forgeries cause no crash."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from compressai.ops import compute_padding

from labkit import networks, portable, rans, training
from labkit.files import codec as files
from labkit.files.container import HASH_DIGITS, Container
from labkit.fixed_point import convolution


@pytest.fixture(scope="module")
def trained():
    return networks.pretrained()


@pytest.fixture(scope="module")
def photo(test_photos):
    return test_photos.images[1]


def noise(height, width):
    return torch.randint(256, (3, height, width), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@torch.no_grad()
def code_with_network(net, image):
    """Return the strings and the decoded image of the network; NumPy pads, crops and rounds."""
    height, width = image.shape[1:]
    (left, right, top, bottom), _ = compute_padding(height, width, min_div=net.downsampling_factor)
    padded = np.pad(image.numpy(), ((0, 0), (top, bottom), (left, right)), mode="edge")
    coded = net.compress(torch.from_numpy(padded)[None].float() / 255)
    x_hat = net.decompress(**coded)["x_hat"][0].numpy()[:, top : top + height, left : left + width]
    decoded = np.rint(np.clip(x_hat, 0, 1) * np.float32(255)).astype(np.uint8)
    return tuple(string for group in coded["strings"] for string in group), decoded


@pytest.mark.parametrize("height, width", [(1, 1), (63, 65)])
@pytest.mark.parametrize("name", networks.names())
def test_the_file_of_every_network_decodes_to_its_reconstruction(name, height, width):
    net, image = networks.get(name), noise(height, width)
    container = Container.unpack(files.compress(image, net).pack())
    decoded = files.decompress(container, net)
    strings, expected = code_with_network(net.eval(), image)
    assert container.strings == strings and decoded.dtype == torch.uint8
    assert np.array_equal(decoded.numpy(), expected)
    assert (container.network, container.size, container.width, container.height) == (name, "tiny", width, height)
    assert networks.SIZES[name]["tiny"] == (container.N, container.M)


@pytest.mark.parametrize("height, width", [(1, 1), (63, 65), (256, 200)])
def test_the_file_of_a_pretrained_network_decodes_to_its_reconstruction(trained, photo, height, width):
    image = photo[:, :height, :width]
    container = files.compress(image, trained)
    strings, expected = code_with_network(trained, image)
    assert container.strings == strings and np.array_equal(files.decompress(container, trained).numpy(), expected)
    assert container.weights == training.weights_hash(trained)[:HASH_DIGITS]


def test_the_decoded_image_is_the_rounded_output_of_the_forward_pass(trained, photo):
    """Without a context model, the forward pass in evaluation mode computes the same reconstruction in another way.

    Fixed point rounds μ to 14 binary digits, so few 8-bit values differ, and fewer by more than one.
    """
    image = photo[:, :128, :192]
    with torch.no_grad():
        x_hat = trained.eval()(image[None].float() / 255)["x_hat"][0]
    rounded = (x_hat.clamp(0, 1) * 255).round().to(torch.uint8)
    difference = (files.decompress(files.compress(image, trained), trained).int() - rounded.int()).abs()
    assert (difference > 0).float().mean() < 0.05 and (difference > 1).float().mean() < 0.01
    first = files.compress(image, portable(trained, False))
    assert torch.equal(files.decompress(first, portable(trained)), rounded)


def test_thread_count_arithmetic_and_training_mode_are_restored_and_have_no_effect(trained, test_photos):
    """With two threads, the network itself would decode three 8-bit values of this photograph differently."""
    image = test_photos.images[0]
    container, first = files.compress(image, trained), files.compress(image, portable(trained, False))
    latents, decoded = files.decode(container, portable(trained)).latents, files.decompress(first, trained)
    torch.set_num_threads(2)
    trained.train()
    try:
        assert torch.equal(files.decode(container, trained).latents, latents)
        assert torch.equal(files.decompress(first, trained), decoded)
        assert files.compress(image, portable(trained, False)) == first
        assert torch.equal(files.decode(container, trained).latents, latents)
        assert torch.get_num_threads() == 2 and trained.training and not trained.portable
        with pytest.raises(ValueError):
            files.decompress(replace(container, weights="0" * 16), trained)
        assert torch.get_num_threads() == 2 and trained.training and not trained.portable
    finally:
        torch.set_num_threads(1)
        portable(trained.eval())


def test_the_memory_layout_of_the_trainer_has_no_effect(test_photos):
    """In that layout, the network itself would decode seven 8-bit values of this photograph differently."""
    net, image = networks.pretrained("mean_scale_hyperprior"), test_photos.images[0]
    container, first = files.compress(image, net), files.compress(image, portable(net, False))
    net.to(memory_format=torch.channels_last)
    assert files.decode(container, net).same_latents and files.compress(image, net) == first


def test_the_checksum_of_the_latents_is_that_of_the_input_of_the_synthesis_transform(trained, photo):
    container, given = files.compress(photo[:, :63, :65], trained), []
    handle = trained.g_s.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    decoded = files.decode(container, trained)
    handle.remove()
    assert torch.equal(decoded.latents, given[0]) and given[0].shape == (1, trained.M, 4, 6)
    assert container.latents_checksum == zlib.crc32(b"".join(value.tobytes() for value in given[0].numpy().flatten()))
    assert container.version == 2 and decoded.same_latents and decoded.same_image


@pytest.mark.parametrize("name", ["joint_autoregressive", "elic"])
def test_masked_weights_have_no_effect(name):
    """A masked convolution sets its masked weights to zero when it first runs. This must not change the hash."""
    net, fresh, image = networks.get(name), networks.get(name), noise(64, 64)
    fresh.update()
    container = files.compress(image, net)
    with torch.no_grad():
        net(torch.zeros(1, 3, 64, 64))
    assert torch.equal(files.decompress(container, net), files.decompress(container, fresh))


def test_a_file_without_verification_has_no_checksum_and_decodes(trained, photo):
    image = photo[:, :64, :64]
    verified, plain = files.compress(image, trained), files.compress(image, trained, verify=False)
    assert plain == replace(verified, image_checksum=None, latents_checksum=None)
    assert verified.image_checksum is not None and files.decode(plain, trained)[2:] == (None, None)
    assert torch.equal(files.decompress(plain, trained), files.decompress(verified, trained))


def test_other_latents_and_in_version_1_another_image_are_returned_only_with_ignore_checksum(trained, photo):
    container, first = (files.compress(photo[:, :64, :64], portable(trained, on)) for on in (True, False))
    portable(trained)
    image, other_latents, other = (
        replace(each, **{field: getattr(each, field) ^ 1})
        for each, field in ((container, "image_checksum"), (container, "latents_checksum"), (first, "image_checksum"))
    )
    with pytest.raises(ValueError, match=r"^the decoded latents differ from the verified ones"):
        files.decompress(other_latents, trained)
    with pytest.raises(ValueError, match=r"^the decoded image differs from the verified one: a file of version 1"):
        files.decompress(other, trained)
    for each in (image, other_latents, other):
        decoded = files.decompress(each, trained, ignore_checksum=True)
        assert torch.equal(decoded, files.decompress(first if each is other else container, trained))
    assert torch.equal(
        files.decompress(image, trained), files.decompress(container, trained)
    )  # g_s may round otherwise
    assert files.decode(image, trained)[2:] == (False, True)


def test_decoding_never_builds_coder_tables(photo):
    net = networks.get("mean_scale_hyperprior")
    container = files.compress(photo[:, :64, :64], net)  # builds them
    loaded = networks.get("mean_scale_hyperprior")
    with pytest.raises(ValueError, match=r"^entropy_bottleneck has no coder tables: run update\(\) and save them"):
        files.decompress(container, loaded)
    loaded.load_state_dict(net.state_dict())
    net.entropy_bottleneck._quantized_cdf[:, 1] += 1  # other tables, as another machine may build them
    with pytest.raises(ValueError, match="it was coded with other weights"):
        files.decompress(container, net)
    assert files.decode(container, loaded).same_latents


def test_weights_and_network_are_checked_before_decoding(trained, photo):
    container = files.compress(photo[:, :64, :64], trained, verify=False)
    other = networks.pretrained(lmbda=networks.pretrained_lmbdas()[0])
    hashes = rf"other weights \(hash {container.weights}\) than these \(hash {training.weights_hash(other)[:16]}\)"
    with pytest.raises(ValueError, match=hashes):
        files.decompress(container, other)
    with pytest.raises(ValueError, match=r"with patch_hyperprior tiny \(N = 192, M = 192\), not with elic \(N = 24"):
        files.decompress(container, networks.get("elic"))
    for count in (1, 3):
        with pytest.raises(ValueError, match=f"has {count} strings, but patch_hyperprior writes 2"):
            files.decompress(replace(container, strings=container.strings[:1] * count), trained)


def test_the_bundled_network_is_found_by_its_hash(photo):
    bundled = [(name, lmbda) for name in networks.names() for lmbda in networks.pretrained_lmbdas(name)]
    for name, lmbda in bundled:
        net = networks.pretrained(name, lmbda)
        container = files.compress(photo[:, :64, :64], net, verify=False)
        assert training.weights_hash(files.bundled_network(container)) == training.weights_hash(net)
    with pytest.raises(ValueError, match=r"N = 192.* weights have the hash 0{16}; no bundled .* with --weights"):
        files.bundled_network(replace(container, weights="0" * 16))
    with pytest.raises(ValueError, match="coded with elic tiny"):
        files.bundled_network(replace(container, network="elic"))


@pytest.mark.parametrize(
    "image, message",
    [
        (torch.zeros(3, 8, 8), "image must be uint8 of shape"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), "image must be uint8 of shape"),
        (torch.zeros(3, 0, 8, dtype=torch.uint8), "image must be uint8 of shape"),
        (torch.zeros(3, 1, 1, dtype=torch.uint8).expand(3, 1, 65536), "width must be 1 to 65,535"),
        (torch.zeros(3, 1, 1, dtype=torch.uint8).expand(3, 20_000, 20_000), "must be at most 100,000,000 pixels"),
    ],
)
def test_an_image_that_the_format_cannot_hold_is_rejected_before_coding(trained, image, message):
    with pytest.raises(ValueError, match=message):
        files.compress(image, trained)


def test_any_exception_of_the_decoder_becomes_an_error_of_one_line(trained, photo, monkeypatch):
    container = files.compress(photo[:, :64, :64], trained)

    def fail(*_):
        raise RuntimeError("a line\nand another")

    monkeypatch.setattr(trained, "decompress", fail)
    with pytest.raises(ValueError, match="its strings cannot be decoded: a line and another"):
        files.decompress(container, trained)


@pytest.mark.parametrize("name", ["patch_linear", "patch_hyperprior", "patch_context"])
def test_parts_of_a_large_image_code_to_the_same_strings_and_latents(name, photo, monkeypatch):
    """Strips, blocks of symbols and parts of convolutions save memory; a small image has only one of each."""
    net = networks.build(name, 16, 16)
    net.start(0.01, photo[None, :, :64, :64].float() / 255)
    net.update()
    image = photo[:, 3:103, 5:75]
    whole = files.compress(image, net)
    decoded = files.decode(whole, net)
    monkeypatch.setattr(files, "STRIP", 32 * 96)
    monkeypatch.setattr(rans, "BLOCK", 40)
    monkeypatch.setattr(convolution, "VALUES", 40)
    assert files.compress(image, net).strings == whole.strings
    again = files.decode(whole, net)
    assert again.same_latents and torch.equal(again.latents, decoded.latents)
    assert (again.image.int() - decoded.image.int()).abs().max() <= 1
