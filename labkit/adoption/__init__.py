"""Adding a quantization scheme to a CompressAI model in place, and removing it again."""

import labkit.entropy  # noqa: F401  # imports CompressAI without the warning of one of its dependencies
from labkit.adoption.codecs import (
    AdoptedCheckerboardLatentCodec,
    AdoptedGaussianConditionalLatentCodec,
    AdoptedHyperLatentCodec,
    AdoptedJointAutoregressive,
    AdoptedRasterScanLatentCodec,
)
from labkit.adoption.models import adopt, attach_scheme, check_adopted, release, set_temperature, summary

__all__ = [
    "AdoptedCheckerboardLatentCodec",
    "AdoptedGaussianConditionalLatentCodec",
    "AdoptedHyperLatentCodec",
    "AdoptedJointAutoregressive",
    "AdoptedRasterScanLatentCodec",
    "adopt",
    "attach_scheme",
    "check_adopted",
    "release",
    "set_temperature",
    "summary",
]
