"""Stage 8: a rate–distortion curve in real bytes next to JPEG's, and a paired experiment on a toy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import stats

from .verdicts import Array, Result, Wrong, array, close, require
from .work import HIGH, LMBDA, LOW, Jpeg, as_tensor, picture, psnr

STEPS, WEIGHT = 500, 4.0  # number of training steps, and weight of the squared error in the toy's loss


def check(codec: Any, work: Any) -> Result:
    """Check the experiment and the rescaling, train at two further λ, and measure real files."""
    check_interval(codec.paired)
    verdict = check_ablation(codec)
    base = work.load(codec.Hyperprior(LMBDA), "hyperprior", 6)
    check_rescale(codec, base, work.test_photos[0][:128, :160])
    check_goes_on(codec, base, work.train_photos)
    points, shown = [], None
    for lmbda in (LOW, LMBDA, HIGH):
        net = base
        if lmbda != LMBDA:
            net = codec.rescale(base, lmbda)
            work.train(net, codec.train, STEPS)
        files = [codec.compress(net, photo) for photo in work.test_photos]
        images = [codec.decompress(net, data) for data in files]
        rows = [
            (8 * len(data) / photo[..., 0].size, psnr(image, photo))
            for data, image, photo in zip(files, images, work.test_photos, strict=True)
        ]
        points.append(np.mean(rows, 0))
        if lmbda == LMBDA:
            shown = images, [float(len(data)) for data in files]
    curve = np.array(points)
    require(
        (np.diff(curve, axis=0) > 0).all(),
        f"Rate and PSNR must rise with λ; got {curve.round(3).tolist()} (bpp, dB) for λ = {LOW}, {LMBDA}, {HIGH}.",
    )
    jpeg = Jpeg(work.test_photos)
    saved = jpeg.bd_rate(curve)
    require(saved < 0, f"BD-rate to JPEG is {saved:+.1f}%: at equal quality your files are larger than JPEG's.")
    work.limit(
        "stage 8: BD-rate",
        saved,
        "Does training continue from the rescaled codec, without a new start, with its own cosine? Are the files "
        "larger than estimated (stage 7)?",
    )
    assert shown is not None
    described = ", ".join(f"{bpp:.3f} bpp {quality:.2f} dB (JPEG {jpeg.psnr_at(bpp):.2f})" for bpp, quality in curve)
    return Result(
        f"In real bytes: {described}. BD-rate to JPEG {saved:+.1f}%. {verdict}",
        {"stage 8: BD-rate": saved, **{f"bpp {i}": float(bpp) for i, (bpp, _) in enumerate(curve)}},
        picture(work.test_photos, *shown, curve, jpeg),
    )


def check_interval(paired: Any) -> None:
    """Compare mean and interval with SciPy's paired t-test."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 0.3, 5), rng.normal(0.9, 0.3, 5)
    answer = paired(a.tolist(), b.tolist())
    require(
        isinstance(answer, tuple) and len(answer) == 3,
        "paired must return three numbers: the mean and the ends of its interval.",
    )
    got = np.array([float(each) for each in answer])
    interval = stats.ttest_rel(a, b).confidence_interval()
    expected = np.array([np.mean(a - b), interval.low, interval.high])
    if close(got, expected, 1e-3):
        return
    independent = 2.776 * np.sqrt(a.var(ddof=1) / 5 + b.var(ddof=1) / 5)
    width = got[2] - got[0]
    if abs(width - independent) < 1e-3:
        raise Wrong(
            "paired adds the variances of both arms. Take the differences first: what a seed does to both cancels."
        )
    if abs(width / (expected[2] - expected[0]) - np.sqrt(0.8)) < 1e-3:
        raise Wrong("paired divides the squares by n. An estimated variance divides by n − 1 (ddof=1).")
    if abs(width / (expected[2] - expected[0]) - 1.96 / 2.776) < 1e-3:
        raise Wrong("paired uses the normal quantile 1.96. With five differences Student's t has 2.776.")
    if abs(width / (expected[2] - expected[0]) - np.sqrt(5)) < 1e-3:
        raise Wrong("paired uses the deviation of one difference. The deviation of their mean is smaller by √5.")
    raise Wrong(f"paired returned {got.round(4).tolist()}; expected {expected.round(4).tolist()}.")


def best_toy_loss() -> float:
    """Return the lowest loss of a uniform quantizer with a linear decoder on a Laplacian, by formulas and a grid."""
    k = np.arange(1, 200)
    best = np.inf
    for gain in np.linspace(0.5, 4, 351):
        low, high = (k - 0.5) / gain, (k + 0.5) / gain
        p = (np.exp(-low) - np.exp(-high)) / 2
        moment = ((low + 1) * np.exp(-low) - (high + 1) * np.exp(-high)) / 2  # E[x; cell k]
        zero = 1 - np.exp(-0.5 / gain)
        p = p[p > 0]
        entropy = -zero * np.log2(zero) - 2 * (p * np.log2(p)).sum()
        squared = 2 - (2 * (k * moment).sum()) ** 2 / (2 * (k[: len(p)] ** 2 * p).sum())
        best = min(best, entropy + WEIGHT * squared)
    return float(best)


def check_ablation(codec: Any) -> str:
    """Run two seeds again, compare them with the learner's table, and return the verdict in a sentence."""
    answer = codec.ablation()
    require(
        isinstance(answer, tuple) and len(answer) == 2 and all(len(each) == 5 for each in answer),
        "ablation must return two lists of five losses: with `noise`, and with `straight_through`, in the "
        "reconstruction.",
    )
    with_noise, with_rounding = (np.array(each, float) for each in answer)
    best = best_toy_loss()
    for name, losses in (("noise", with_noise), ("straight_through", with_rounding)):
        if losses.min() < best - 0.03:
            raise Wrong(
                f"With {name} the toy reaches {losses.min():.3f}, less than any uniform quantizer can ({best:.3f}). Is "
                "the loss that of rounded latents on fresh samples, in bits plus 4 times the squared error?"
            )
        if losses.max() > 1.15 * best:
            raise Wrong(
                f"With {name} the toy ends at {losses.max():.3f}; the best quantizer has {best:.3f}. Compare "
                "source (its variance is 2), loss, steps and learning rate with the text."
            )
        require(np.ptp(losses) > 0, f"With {name} all seeds give the same loss. Does the seed reach the generator?")
    for name, losses, seed in (("noise", with_noise, 1), ("straight_through", with_rounding, 3)):
        again = codec.toy_loss(getattr(codec, name), seed)
        require(
            abs(again - losses[seed]) < 1e-6,
            f"toy_loss({name}, {seed}) gives {again:.5f} now and {losses[seed]:.5f} in the table. A run must depend "
            "only on its seed, or nothing is paired.",
        )
    mean, low, high = codec.paired(with_noise.tolist(), with_rounding.tolist())
    if low <= 0 <= high:
        return f"Your experiment is inconclusive: noise − straight-through = {mean:+.4f} [{low:+.4f}, {high:+.4f}]."
    better = "straight-through" if mean > 0 else "noise"
    return f"Your experiment favors {better}: noise − straight-through = {mean:+.4f} [{low:+.4f}, {high:+.4f}]."


def check_rescale(codec: Any, base: Any, photo: Array) -> None:
    """Check that a rescaled codec has latents √(λ′/λ) times as large, and that everything else matches."""
    x = as_tensor(photo)
    other = codec.rescale(base, HIGH)
    require(other is not None, "rescale returned nothing; end it with a return statement.")
    require(other is not base, "rescale must return a new codec; the old one is still needed.")
    require(abs(other.lmbda - HIGH) < 1e-9, f"The rescaled codec must have lmbda = {HIGH}, got {other.lmbda}.")
    scale = float(np.sqrt(HIGH / LMBDA))
    with torch.no_grad():
        y, scaled = base.g_a(x), other.g_a(x)
        z, other_z = base.h_a(y), other.h_a(scaled)
        images = base.g_s(y), other.g_s(scale * y)
        (mu, sigma), (other_mu, other_sigma) = base.distribution(torch.round(z)), other.distribution(torch.round(z))
    pairs = [
        ("g_a must give latents √(λ′/λ) times as large", scale * y, scaled),
        ("g_s must give the same image from latents √(λ′/λ) times as large; divide its first weights, too", *images),
        ("h_a must give the same z; divide its first weights by the scale", z, other_z),
        ("μ must be √(λ′/λ) times as large", scale * mu, other_mu),
    ]
    for advice, expected, got in pairs:
        a, b = array(expected, "the codec"), array(got, "the rescaled codec")
        largest = np.abs(a - b).max()
        require(
            largest < 1e-3 * max(1.0, np.abs(a).max()),
            f"After rescale, {advice}. The largest difference is {largest:.3g}.",
        )
    above = array(sigma, "σ") > 0.12
    require(
        np.allclose(array(other_sigma, "σ")[above], scale * array(sigma, "σ")[above], rtol=1e-2),
        "After rescale, σ must be √(λ′/λ) times as large: add log √(λ′/λ) to the bias of log σ.",
    )


def check_goes_on(codec: Any, base: Any, photos: list[Array]) -> None:
    """Check that training a rescaled codec does not start over: one Adam step must not move a weight far."""
    net = codec.rescale(base, HIGH)
    before = {name: value.clone() for name, value in net.named_parameters()}
    codec.train(net, photos, 1, 0)
    with torch.no_grad():
        moved = max(float((value - before[name]).abs().max()) for name, value in net.named_parameters())
    require(
        moved < 0.05,
        f"In the first step after rescale, a weight moves by {moved:.2f}; Adam moves it by at most 0.004. `train` "
        "starts over: rescale must return a codec that counts as started.",
    )
