"""Subclasses of CompressAI modules that quantize outside their entropy models. In training, they follow a scheme.

Each subclass runs CompressAI's own code in evaluation mode. In training, one draw of noise (or one for each path)
is used in all places where a latent y is quantized:

    y ─┬─ rate path around μ ─────────────────────────────────────► likelihood, given μ and σ
       ├─ distortion path around μ ───────────────────────────────► ŷ, for the synthesis transform
       └─ distortion path, of y itself ──► context model ─► μ, σ        raster scan, checkerboard in one pass
          or around the anchors' own μ ──► context model ─► μ, σ        checkerboard in two passes

In one pass, the context model cannot read a ŷ that was quantized around μ, because it predicts μ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from compressai import latent_codecs
from compressai.models import JointAutoregressiveHierarchicalPriors
from torch import Tensor

from labkit import entropy, rans
from labkit.schemes import Noise


class AdoptedHyperLatentCodec(latent_codecs.HyperLatentCodec):
    """A hyper-latent codec that always returns the hyper distortion path in training, regardless of `quantizer`."""

    def forward(self, y: Tensor) -> dict[str, Any]:
        """Return the likelihoods of z and the parameters that the hyper-synthesis transform predicts.

        Args:
            y: Latent of shape (batch, M, height, width).
        """
        if not self.training:
            return dict(super().forward(y))
        z_hat, likelihood = self.entropy_bottleneck(self.h_a(y))
        return {"likelihoods": {"z": likelihood}, "params": self.h_s(z_hat)}


class AdoptedGaussianConditionalLatentCodec(latent_codecs.GaussianConditionalLatentCodec):
    """A Gaussian latent codec that always returns the distortion path in training, regardless of `quantizer`."""

    def forward(self, y: Tensor, ctx_params: Tensor) -> dict[str, Any]:
        """Return the likelihoods of y and ŷ.

        Args:
            y: Latent of shape (batch, M, height, width).
            ctx_params: Input of the entropy-parameter network.
        """
        if not self.training:
            return dict(super().forward(y, ctx_params))
        scales, means = self._chunk(self.entropy_parameters(ctx_params))
        y_hat, likelihood = self.gaussian_conditional(y, scales, means=means)
        return {"likelihoods": {"y": likelihood}, "y_hat": y_hat}


class AdoptedRasterScanLatentCodec(latent_codecs.RasterScanLatentCodec):
    """A raster-scan codec that, in training, quantizes y for the context model and y − μ for the decoder."""

    def forward(self, y: Tensor, params: Tensor) -> dict[str, Any]:
        """Return the likelihoods of y and ŷ.

        Args:
            y: Latent of shape (batch, M, height, width).
            params: Output of the hyper-synthesis transform.
        """
        if not self.training:
            return dict(super().forward(y, params))
        y_hat, likelihood = _raster_scan(
            self.gaussian_conditional,
            y,
            lambda context: self.entropy_parameters(self.merge(params, self.context_prediction(context))),
        )
        return {"likelihoods": {"y": likelihood}, "y_hat": y_hat}

    def decompress(self, strings: Any, shape: Any, ctx_params: Tensor, **options: Any) -> dict[str, Any]:
        """Return ŷ from CompressAI's own method, but never read memory beyond the strings.

        Args:
            strings: List with one string for each image, inside a list.
            shape: Height and width of the latent.
            ctx_params: Output of the hyper-synthesis transform.
            **options: Passed to CompressAI's method.
        """
        latents = ctx_params[0, 0].numel() * self.context_prediction.in_channels
        padded = [[rans.padded(string, latents) for string in group] for group in strings]
        return dict(super().decompress(padded, shape, ctx_params, **options))


class AdoptedJointAutoregressive(JointAutoregressiveHierarchicalPriors):
    """An autoregressive model that, in training, quantizes y for the context model and y − μ for the decoder.

    The models are those of Minnen et al., 2018, https://arxiv.org/abs/1809.02736, and of Cheng et al., 2020,
    https://arxiv.org/abs/2001.01568.
    """

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Return the reconstruction and the likelihoods of y and z.

        Args:
            x: Images of shape (batch, 3, height, width) in [0, 1].
        """
        if not self.training:
            return dict(super().forward(x))
        y = self.g_a(x)
        z_hat, z_likelihood = self.entropy_bottleneck(self.h_a(y))
        params = self.h_s(z_hat)
        y_hat, y_likelihood = _raster_scan(
            self.gaussian_conditional,
            y,
            lambda context: self.entropy_parameters(torch.cat((params, self.context_prediction(context)), dim=1)),
        )
        return {"x_hat": self.g_s(y_hat), "likelihoods": {"y": y_likelihood, "z": z_likelihood}}

    def _decompress_ar(self, y_string: bytes, y_hat: Tensor, *rest: Any) -> None:
        """Decode one image into `y_hat` with CompressAI's own method, but never read memory beyond the string."""
        super()._decompress_ar(rans.padded(y_string, y_hat.numel()), y_hat, *rest)


def _raster_scan(
    gaussian: entropy.GaussianConditional, y: Tensor, parameters: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return ŷ and its likelihood; `parameters` predicts (σ, μ) from the distortion path of y itself."""
    noise = gaussian.draw(y)
    scales, means = parameters(gaussian.quantize_distortion(y, None, noise)).chunk(2, 1)
    y_hat, likelihood = gaussian(y, scales, means=means, noise=noise)
    return y_hat, likelihood


class AdoptedCheckerboardLatentCodec(latent_codecs.CheckerboardLatentCodec):
    """A checkerboard codec that, in training, draws noise for y once and uses it for anchors, non-anchors and rate.

    The codec is the one of He et al., 2021, https://arxiv.org/abs/2103.15306. CompressAI's two methods for two passes
    are the same computation here, because CompressAI requires pointwise `entropy_parameters`: at the anchors, where the
    context is masked, the second pass predicts the same as the first.
    """

    def _forward_onepass(self, y: Tensor, side_params: Tensor) -> dict[str, Any]:
        if not self.training:
            return dict(super()._forward_onepass(y, side_params))
        gaussian = self.latent_codec["y"].gaussian_conditional
        noise = gaussian.draw(y)
        return self._code_with_anchors(gaussian.quantize_distortion(y, None, noise), y, side_params, noise)

    def _forward_twopass(self, y: Tensor, side_params: Tensor) -> dict[str, Any]:
        if not self.training:
            return dict(super()._forward_twopass(y, side_params))
        return self._train_in_two_passes(y, side_params)

    def _forward_twopass_faster(self, y: Tensor, side_params: Tensor) -> dict[str, Any]:
        if not self.training:
            return dict(super()._forward_twopass_faster(y, side_params))
        return self._train_in_two_passes(y, side_params)

    def _train_in_two_passes(self, y: Tensor, side_params: Tensor) -> dict[str, Any]:
        gaussian = self.latent_codec["y"].gaussian_conditional
        noise = gaussian.draw(y)
        _, means = self._predict(self._y_ctx_zero(y), side_params)
        return self._code_with_anchors(gaussian.quantize_distortion(y, means, noise), y, side_params, noise)

    def _code_with_anchors(self, anchors: Tensor, y: Tensor, side_params: Tensor, noise: Noise) -> dict[str, Any]:
        """Score and quantize y. The context model reads only the anchors."""
        context = self.context_prediction(self._keep_only(anchors, "anchor"))
        scales, means = self._predict(self._keep_only(context, "non_anchor"), side_params)
        y_hat, likelihood = self.latent_codec["y"].gaussian_conditional(y, scales, means=means, noise=noise)
        return {"likelihoods": {"y": likelihood}, "y_hat": y_hat}

    def _predict(self, context: Tensor, side_params: Tensor) -> tuple[Tensor, Tensor]:
        inner = self.latent_codec["y"]
        scales, means = inner._chunk(
            inner.entropy_parameters(self.entropy_parameters(self.merge(context, side_params)))
        )
        return scales, means
