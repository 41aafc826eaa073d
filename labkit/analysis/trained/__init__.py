"""Train–test mismatch and gradient risk of surrogates in a trained network, on images.

The theory in `labkit.analysis` needs a source of known density. Here the source is photographs, so all quantities are
measured:

    training mode, many draws ─┬─ loss, minus that of the rounded evaluation ──► mismatch
                               └─ gradient ─┬─ spread over draws, batches ─────► variance
                                            └─ along directions, against a
                                               finite difference of the
                                               rounded loss ───────────────────► bias

All schemes see the same images, the same noise seeds and the same directions.
"""

from labkit.analysis.trained.gradient import network_gradient_risk
from labkit.analysis.trained.latent_rates import CodecLatents, codec_latents
from labkit.analysis.trained.means import gradient_at_means
from labkit.analysis.trained.mismatch import network_mismatch

__all__ = ["CodecLatents", "codec_latents", "gradient_at_means", "network_gradient_risk", "network_mismatch"]
