"""The latents of a codec give its rates and losses at another scale bound."""

import math

import numpy as np
import pytest
import torch

from labkit import datasets, evaluation, networks, schemes
from labkit.analysis.trained import CodecLatents, codec_latents
from tests.analysis.oracles import bounded_bits


@pytest.fixture(scope="module")
def photos():
    crops = datasets.photos("test").crops_uint8(2, 128, torch.Generator().manual_seed(0))
    return datasets.PhotoSet([crops[0], crops[1, :, :64]], ["a", "b"])


@pytest.fixture(scope="module")
def latents(photos):
    return codec_latents(networks.pretrained("mean_scale_hyperprior", lmbda=0.0035), photos)


def test_rates_and_losses_at_another_bound_agree_with_numpy_and_the_evaluator(latents, photos):
    net = networks.pretrained("mean_scale_hyperprior", lmbda=0.0035)
    np.testing.assert_allclose(latents.losses, evaluation.rounded_losses(net, photos), rtol=1e-5)
    net.set_scheme(schemes.mixed(scale_lower_bound=0.3))
    np.testing.assert_allclose(latents.losses_at(0.3), evaluation.rounded_losses(net, photos), rtol=1e-4)
    start, rates = 0, []
    for count, pixels in zip(latents.counts, latents.pixels, strict=True):
        part = slice(start, start + count)
        residuals, scales = (tensor[part].double().numpy() for tensor in (latents.residuals, latents.scales))
        rates.append(bounded_bits(np.round(residuals), np.maximum(scales, 0.3)).sum() / pixels)
        start += count
    assert latents.rates("ste", 1.0, 0.3) == pytest.approx((np.mean(rates), np.mean(rates)), rel=2e-4)
    assert latents.rates("aun", 1.0, 0.3)[0] > latents.rates("aun", 1.0, 0.3)[1]
    assert not net.gaussian_conditional._forward_pre_hooks


def test_parts_are_joined_in_order(latents, photos):
    net = networks.pretrained("mean_scale_hyperprior", lmbda=0.0035)
    joined = CodecLatents.joined([codec_latents(net, photos[i : i + 1]) for i in range(2)])
    assert torch.equal(joined.residuals, latents.residuals) and joined.counts == latents.counts
    assert np.array_equal(joined.losses, latents.losses) and np.array_equal(joined.pixels, latents.pixels)
    assert repr(joined) == f"CodecLatents({len(joined.scales):,} latents of 2 images, bound 0.11)"


def test_the_lower_bound_on_likelihoods_limits_the_bits():
    latents = CodecLatents(torch.full((4,), 3.0), torch.full((4,), 0.1), [1, 3], np.ones(2), 0.1, np.zeros((2, 2)))
    expected = [-math.log2(1e-9), -3 * math.log2(1e-9)]
    np.testing.assert_allclose(latents.bpp(latents.residuals, 0.11), expected, rtol=1e-5)
