"""Train–test mismatch and gradient risk of a surrogate in a trained network, on images.

The theory beside it needs a source whose density is known; here the source is photographs, so everything is measured:

    training mode, many draws ─┬─ loss, minus that of the rounded evaluation ──► mismatch
                               └─ gradient ─┬─ spread over draws, batches ─────► variance
                                            └─ along directions, against a
                                               finite difference of the
                                               rounded loss ───────────────────► bias

Whatever is compared sees the same images, the same noise seeds and the same directions.
"""

from labkit.analysis.trained.figures import plot_gradient_risk, plot_mismatch
from labkit.analysis.trained.gradient import network_gradient_risk
from labkit.analysis.trained.means import gradient_at_means
from labkit.analysis.trained.mismatch import network_mismatch

__all__ = ["gradient_at_means", "network_gradient_risk", "network_mismatch", "plot_gradient_risk", "plot_mismatch"]
