"""Models and images of the tests of the diagnosis."""

import torch
from compressai import models

import labkit as lk
from labkit import diagnosis, networks

PHOTOS = [lk.datasets.photos("test")[i][:, :128, :128] for i in (0, 3)]


def healthy(cls=models.MeanScaleHyperprior):
    """A plain CompressAI model with the bundled weights, and tables that fit them."""
    model = cls(24, 36).eval()
    net = networks.pretrained("mean_scale_hyperprior", 0.0035)
    model.load_state_dict(net.state_dict(), strict=False)
    model.update(force=True)
    return model


def factorized():
    """A codec that is all DCT and fitted densities, so that its entropy bottleneck codes all its bits."""
    net = networks.patch_linear("tiny", seed=0).eval()
    net.start(0.0067, torch.stack(PHOTOS))
    net.update(force=True, update_quantiles=True)
    return net


def found(model, kind, photos=PHOTOS, **options):
    return diagnosis.diagnose(model, photos, progress=False, **options).of(kind)


def real_bits(model, photos=PHOTOS):
    with torch.no_grad():
        coded = [model.compress(photo[None]) for photo in photos]
    return 8 * sum(len(string) for one in coded for group in one["strings"] for string in group)


def estimated_bits(model, photos=PHOTOS):
    """Bits of the images according to the likelihoods of the present mode."""
    with torch.no_grad():
        likelihoods = [value for photo in photos for value in model(photo[None])["likelihoods"].values()]
    return sum(float(-value.log2().sum()) for value in likelihoods)
