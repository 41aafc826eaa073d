"""The checks of the capstone accept the reference solution and recognize mistakes in it."""

import json
import types

import numpy as np
import pytest
import torch

from labkit import course
from labkit.course import capstone, record
from labkit.course.capstone import catalog, grading
from labkit.course.capstone.pictures import Pictured
from labkit.course.capstone.stages import coder, curve, files, hyperprior, loop, prior, surrogates, transform
from labkit.course.capstone.stages.verdicts import Wrong
from labkit.course.capstone.stages.work import as_tensor

REFERENCE = catalog.solutions(9)
CHECKS = {1: surrogates.check, 2: transform.check, 3: prior.check, 5: coder.check}
MISTAKES = [
    (1, "generator=generator) - 0.5\n\n\ndef straight", "generator=generator)\n\n\ndef straight", "mean ½"),
    (1, "y + torch.rand(y.shape, generator=generator) - 0.5", "y + 2 * torch.rand(y.shape, generator=generator) - "
    "1", "two"),
    (1, "y + torch.rand(y.shape, generator=generator) - 0.5", "y + torch.rand(y.shape) - 0.5", "generator"),
    (1, "y + torch.rand(y.shape, generator=generator) - 0.5", "y + torch.rand(1, generator=generator) - "
    "0.5", "one number"),
    (1, "torch.rand(y.shape, generator=generator) - 0.5", "0.29 * torch.randn(y.shape, generator=generator)", "Normal"),
    (1, "torch.round(y).detach() + (y - y.detach())", "torch.round(y)", "slope 0"),
    (1, "torch.round(y).detach() + (y - y.detach())", "torch.floor(y).detach() + (y - y.detach())", "⌊y⌋"),
    (1, "/ tau + u", "* tau + u", "should divide"),
    (1, "low + ((y - low - 0.5) / tau + u + 0.5).clamp(0, 1)", "torch.round(y + tau * u)", "hard form"),
    (1, "/ tau + u + 0.5", "/ tau + 0.5", "not random"),
    (1, "/ tau + u + 0.5", "/ tau + u", "lacks the ½"),
    (1, "    return low +", "    y = y + 0 * u\n    return y - y.detach() + low +", "derivative of its mean"),
    (2, "matrix[0] /= math.sqrt(2)", "matrix[0] /= 1", "orthonormal"),
    (2, "np.where(c > 0, 12, 1)", "np.where(c > 0, 1, 1)", "factor 12"),
    (2, "cuviyx", "cuvixy", "rows and columns"),
    (2, "-0.5 * gain * basis.sum(1)", "0 * basis.sum(1)", "subtract ½"),
    (2, "-0.5 * gain * basis.sum(1)", "0 * basis.sum(1) - 0.5", "its weights are right"),
    (2, "math.sqrt(math.log(2) * lmbda / 30)", "math.log(2) * lmbda / 30", "times as large"),
    (2, "[:, :, None, None] / gain", "[:, :, None, None] * gain", "it divides"),
    (2, "to_pixels.bias.fill_(0.5)", "to_pixels.bias.fill_(0)", "add ½"),
    (2, "nn.init.zeros_(self.outer.bias)", "nn.init.zeros_(self.inner.weight)\n        "
    "nn.init.zeros_(self.outer.bias)\n"
     "        nn.init.zeros_(self.inner.bias)", "Only W₂"),
    (3, "(0.5 - distance)", "(1e-3 - distance)", "differs from cdf"),
    (3, "distance = (y[..., None] - means).abs()", "distance = means - y[..., None]", "Above the means"),
    (3, "        return (weights * mass).sum(-1).clamp_min(1e-9)", "        return self.cdf(y + 1) - "
    "self.cdf(y)", "(y, y + 1)"),
    (3, "        return (weights * mass).sum(-1).clamp_min(1e-9)",
     "        return (self.cdf(y + 1e-4) - self.cdf(y - 1e-4)) / 2e-4", "density"),
    (3, "        return (weights * mass).sum(-1).clamp_min(1e-9)", "        return (weights * "
    "mass).sum(-1)", "not finite"),
    (3, "torch.tensor([-2.0, -0.5, 1.0])", "torch.tensor([0.0, 0.0, 0.0])", "start apart"),
    (3, "-torch.log2(likelihood).sum()", "-torch.log(likelihood).sum()", "nats"),
    (3, "* 255**2 *", "*", "255²"),
    (3, "pixels = x.shape[0] * x.shape[2] * x.shape[3]", "pixels = x.numel()", "three of them"),
    (3, "pixels = x.shape[0] * x.shape[2] * x.shape[3]", "pixels = x.shape[2] * x.shape[3]", "forgets the batch"),
    (5, ".astype(int) + 1\n    frequencies[p.argmax()] += 65536", ".astype(int)\n    frequencies[p.argmax()] += "
    "65536", "at least 1"),
    (5, "frequencies[p.argmax()] += 65536 - frequencies.sum()", "pass", "end at 65,536"),
    (5, "np.cumsum(frequencies).tolist()", "np.cumsum(frequencies)", "Python integers, got int64"),
    (5, "(low + 2**24 - 1) >> 24", "low >> 24", "the end of the stream"),
    (5, '(1 + shifts, "big")', '(1 + shifts, "little")', "little-endian"),
    (5, "first = size * tables[index][symbol] >> 16\n        low, size = low + first, (size * tables[index][symbol "
    "+ 1] >> 16)"
     " - first", "first = (size >> 16) * tables[index][symbol]\n        low, size = low + first, (size >> 16) * "
     "tables[index][symbol + 1] - first", "symbols from symbol"),
    (5, "symbol = bisect_right(cumulative, (((code + 1) << 16) - 1) // size) - 1",
     "symbol = max(0, bisect_right(cumulative, (code << 16) // size) - 2)", "it reads other symbols"),
    (5, "    if encode(symbols, indexes, tables) != data:\n", "    if False:\n", "accepts a stream"),
]  # fmt: skip


def module(source):
    """Return a module with this source."""
    codec = types.ModuleType("my_codec")
    exec(compile(source, "my_codec.py", "exec"), codec.__dict__)
    return codec


def mutated(old, new):
    assert old in REFERENCE, old
    return module(REFERENCE.replace(old, new, 1))


@pytest.mark.parametrize("number", CHECKS)
def test_the_reference_passes(number):
    assert CHECKS[number](module(REFERENCE), None).message


@pytest.mark.parametrize(("number", "old", "new", "fragment"), MISTAKES)
def test_a_mistake_gets_the_message_meant_for_it(number, old, new, fragment):
    with pytest.raises(Wrong) as wrong:
        CHECKS[number](mutated(old, new), None)
    assert fragment in str(wrong.value), wrong.value


def test_every_stage_has_at_least_two_mistakes():
    for number in CHECKS:
        assert sum(mistake[0] == number for mistake in MISTAKES) >= 2


# Parts of the stages that train, without training

PARTS = [
    (hyperprior._check_likelihood, "gaussian_likelihood", "torch.special.ndtr((0.5 - distance) / sigma)",
     "torch.special.ndtr((0.5 - distance) / sigma**0.5)", "gaussian_likelihood differs"),
    (hyperprior._check_likelihood, "gaussian_likelihood", "distance = (y - mu).abs()\n    mass",
     "distance = mu - y\n    mass",
     "loses its digits"),
    (hyperprior._check_bound, "lower_bound", "return _LowerBound.apply(x, bound)", "return x.clamp_min(bound)",
     "torch.clamp"),
    (hyperprior._check_bound, "lower_bound", "(x >= ctx.bound) | (gradient < 0)", "(x == x)", "sinks ever deeper"),
    (hyperprior._check_center, "zero_center", "mu.detach() if stop else mu", "mu", "Nothing is stopped"),
    (hyperprior._check_center, "zero_center", "surrogate(y - mu) + mu\n", "surrogate(y)\n", "around 0"),
    (hyperprior._check_center, "zero_center", "    mu = mu.detach() if stop else mu\n    return surrogate(y - mu) + mu",
     "    return surrogate(y - (mu.detach() if stop else mu)) + mu", "inside the surrogate only"),
    (curve.check_interval, "paired", "ddof=1", "ddof=0", "n − 1"),
    (curve.check_interval, "paired", "2.776", "1.96", "normal quantile"),
    (curve.check_interval, "paired", "2.776 * differences.std(ddof=1) / math.sqrt(5)",
     "2.776 * math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 5)", "adds the variances"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "name", "old", "new", "fragment"), PARTS)
def test_a_mistake_in_a_part_gets_the_message_meant_for_it(check, name, old, new, fragment):
    check(getattr(module(REFERENCE), name))
    with pytest.raises(Wrong, match=fragment.replace("(", "\\(")):
        check(getattr(mutated(old, new), name))


PASSES = [
    (loop, "Factorized", "scored = read = torch.round(y)", "scored = read = y", "A file can only hold integers"),
    (loop, "Factorized", "scored, read = noise(y, None, generator), straight_through(y, None, generator)",
     "scored = read = noise(y, None, generator)", "must read rounded latents"),
    (loop, "Factorized", "scored, read = noise(y, None, generator), straight_through(y, None, generator)",
     "scored = read = straight_through(y, None, generator)", "Score y + u"),
    (hyperprior, "Hyperprior", "y = zero_center(y, mu, torch.round, stop=False)", "y = torch.round(y)", "reads ⌊y⌉"),
    (hyperprior, "Hyperprior", "noise(z, None, generator)", "straight_through(z, None, generator)", "Score z + u"),
    (hyperprior, "Hyperprior", "return mu, lower_bound(log_sigma.exp(), BOUND)", "return mu, log_sigma.exp()",
     "bound σ"),
    (hyperprior, "Hyperprior", "read = zero_center(y, mu, lambda r: straight_through(r, None, generator), stop=True)",
     "read = zero_center(y, mu, lambda r: torch.round(r).detach(), stop=False) + 0 * y", "through μ"),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "name", "old", "new", "fragment"), PASSES)
def test_a_mistake_in_a_pass_gets_the_message_meant_for_it(stage, name, old, new, fragment, test_photos):
    x = test_photos[0][None, :, :64, :64]
    messages = []
    for codec in (module(REFERENCE), mutated(old, new)):
        torch.manual_seed(0)
        net = getattr(codec, name)(0.0067, 12, 8) if name == "Factorized" else codec.Hyperprior(0.0067, 12, 8, 24)
        if name == "Hyperprior":
            with torch.no_grad():
                net.start(x)
                net.h_a[2].weight *= 20  # so that z is not zero everywhere
                net.h_s[2].bias[12:] -= 3  # and σ comes below the bound
        try:
            stage.check_evaluation(net, x)
            stage.check_training(net, x)
            messages.append("")
        except Wrong as wrong:
            messages.append(str(wrong))
    assert messages[0] == "" and fragment in messages[1]


@pytest.mark.parametrize(
    ("old", "new", "fragment"),
    [
        ("return mu, lower_bound(log_sigma.exp(), BOUND)", "return mu, log_sigma.exp()", "must bound σ"),
        ("return mu, lower_bound(log_sigma.exp(), BOUND)", "return log_sigma, mu.exp().clamp_min(BOUND)", "the last M"),
        ("lower_bound(log_sigma.exp(), BOUND)", "0.1 + nn.functional.softplus(log_sigma)", "σ must be lower_bound"),
        ("nn.ConvTranspose2d(Z, N, 2, 2), nn.ReLU()", "nn.ConvTranspose2d(Z, N, 2, 2), nn.GELU()", "GELU"),
    ],
)
def test_a_mistake_in_the_distribution_gets_the_message_meant_for_it(old, new, fragment):
    hyperprior.check_distribution(module(REFERENCE).Hyperprior(0.0067, 12, 8, 24))
    with pytest.raises(Wrong) as wrong:
        hyperprior.check_distribution(mutated(old, new).Hyperprior(0.0067, 12, 8, 24))
    assert fragment in str(wrong.value)


CROPS = [
    ("crop[..., rng.permutation(3)] if i % 2 else crop", "crop", "the colors of 0 in 24 crops"),
    (
        "x_hat, likelihoods = codec(x, generator)",
        "x_hat, likelihoods = codec(x)",
        "different losses with the same seed",
    ),
]


@pytest.mark.parametrize(("old", "new", "fragment"), CROPS)
def test_a_mistake_in_the_batches_of_training_gets_the_message_meant_for_it(old, new, fragment):
    photos = list(np.random.default_rng(0).integers(0, 256, (4, 128, 160, 3), dtype=np.uint8))
    loop.check_crops(module(REFERENCE), photos)
    with pytest.raises(Wrong, match=fragment):
        loop.check_crops(mutated(old, new), photos)


FILES = [
    ("(mu + 2**11) >> 12, level", "(mu + 2**11) / 4096, level", "must return integers for μ"),
    ("(mu + 2**11) >> 12, level", "(mu + 2**19) >> 20, level", "in whole steps"),
    ("weight = integers(first.weight, 12)", "weight = integers(first.weight, 9)", "off by"),
    ("math.ceil(6 * math.exp(LOG_MIN + i * LOG_STEP) - 1e-9)", "math.ceil(6 * math.exp(LOG_MIN + i * LOG_STEP) + 1e-9)",
     "level 63 must reach from −L to L, with L = 15 + ⌈6σ − 10⁻⁹⌉ = 399: 800 entries, got 802"),
    ('struct.pack(">2sHHI"', 'struct.pack("<2sHHI"', "The header must be"),
    ("[0] != zlib.crc32(data[:-4])", "[0] < 0", "latents accepts a file"),
    ("other.h_a[0].weight /= scale", "pass", "h_a must give the same z"),
    ("other.h_s[2].bias[codec.M :] += math.log(scale)", "pass", "add log"),
    ("layer.inner.weight /= scale", "layer.inner.weight *= scale", "g_a must give latents"),
]  # fmt: skip


def first_complaint(codec, photo):
    """Return the message of the first check of files and rescaling that fails, with an untrained network."""
    torch.manual_seed(0)
    net = codec.Hyperprior(0.0067, 12, 8, 24)
    with torch.no_grad():
        net.start(as_tensor(photo))
        net.h_a[2].weight *= 20  # so that z is not zero everywhere
        for each in (*net.g_a[2:], *net.g_s[:2]):
            each.outer.weight += 0.01
    net.eval()
    try:
        files.check_fixed_point(codec, net, photo)
        data = codec.compress(net, photo)
        files.check_ledger(codec, net, photo, data)
        files.check_image(codec, net, photo, data)
        files.check_damage(codec, net, data)
        curve.check_rescale(codec, net, photo)
    except Wrong as wrong:
        return str(wrong)
    return ""


def test_a_mistake_in_a_file_gets_the_message_meant_for_it(test_photos):
    photo = (test_photos[0][:, :128, :160] * 255).byte().permute(1, 2, 0).numpy()
    assert first_complaint(module(REFERENCE), photo) == ""
    for old, new, fragment in FILES:
        message = first_complaint(mutated(old, new), photo)
        assert fragment in message, (fragment, message)


def test_training_that_starts_anew_after_rescaling_gets_the_message_meant_for_it():
    photos = list(np.random.default_rng(0).integers(0, 256, (4, 128, 160, 3), dtype=np.uint8))
    codec = module(REFERENCE)
    torch.manual_seed(0)
    net = codec.Hyperprior(0.0067, 12, 8, 24)
    codec.train(net, photos, 2, 0)
    curve.check_goes_on(codec, net, photos)
    with pytest.raises(Wrong, match="starts over"):
        curve.check_goes_on(mutated("    other.started = True\n", ""), net, photos)


def test_the_best_toy_loss_agrees_with_a_simulation():
    rng = np.random.default_rng(0)
    x = rng.laplace(size=400_000)
    losses = []
    for gain in np.linspace(0.4, 1.2, 9):
        k = np.rint(gain * x)
        share = np.unique(k, return_counts=True)[1] / k.size
        error = ((k * (k * x).sum() / (k * k).sum() - x) ** 2).mean()
        losses.append(-(share * np.log2(share)).sum() + curve.WEIGHT * error)
    assert min(losses) == pytest.approx(curve.best_toy_loss(), abs=0.02)


@pytest.mark.slow
def test_the_reference_passes_every_stage_in_a_process_of_its_own(tmp_path, capsys):
    """With a third of the steps, and therefore without the thresholds, which tests/bench/capstone.py measures."""
    file = tmp_path / "my_codec.py"
    file.write_text(REFERENCE)
    for stage in capstone.STAGES:
        run = grading.run(file, stage, grading.thresholds(), shortened=3)
        with capsys.disabled():
            print(f"\nstage {stage.number}: {run.message}")
        assert run.passed, run.message
        assert (run.picture is not None) == (stage.number in (4, 6, 8))
        if run.picture is not None:
            picture = Pictured("Stage", run.message, run.picture)
            assert "JPEG has" in str(picture) and "<img" in picture._repr_html_() and picture.state == "passed"
    seeded = "torch.Generator().manual_seed(seed)\n\n    def samples"
    assert seeded in REFERENCE
    file.write_text(REFERENCE.replace(seeded, "torch.default_generator\n\n    def samples"))
    run = grading.run(file, catalog.stage(8), {}, shortened=40)
    assert not run.passed and "only on its seed" in run.message


# The process of the learner's file


def attempt(folder, text, number=1, **options):
    file = folder / "my_codec.py"
    file.write_text(text)
    return grading.run(file, catalog.stage(number), {}, **options)


@pytest.mark.parametrize("package", ["labkit", "compressai", "labkit.surrogates"])
def test_labkit_and_compressai_cannot_be_imported(tmp_path, package):
    run = attempt(tmp_path, f"import {package}\n")
    assert not run.passed and "ImportError" in run.message and "line 1" in run.message and "\n" not in run.message


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("x = [1, 2\n\ny = x[7]\n", "SyntaxError"),
        ("x = [1, 2]\n\ny = x[7]\n", "IndexError: list index out of range (line 3 of my_codec.py)"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import os\n\nos._exit(4)", "ended early (status 4)"),
        ("x = bytearray(6 * 2**30)", "more memory"),
    ],
)
def test_an_error_becomes_one_line(tmp_path, text, fragment):
    run = attempt(tmp_path, text)
    assert not run.passed and fragment in run.message and "\n" not in run.message


@pytest.mark.parametrize(
    ("text", "waiting", "fragment"),
    [
        ("while True:\n    pass\n", 100, "stopped after 1 s of CPU time; the reference solution needs about 5 s"),
        ("import time\n\ntime.sleep(99)\n", 0.5, "Does your code wait for something?"),
    ],
)
def test_a_check_that_does_not_end_is_stopped(tmp_path, monkeypatch, text, waiting, fragment):
    monkeypatch.setattr(grading, "WAITING", waiting)
    assert fragment in attempt(tmp_path, text, seconds=1).message


# Records


def test_missing_files_and_stubs_are_not_attempts(tmp_path, monkeypatch):
    file = tmp_path / "my_codec.py"
    verdict = capstone.check(file, 1)
    assert verdict.state == "not attempted" and f"There is no my_codec.py in {tmp_path} yet" in verdict.message
    monkeypatch.chdir(tmp_path)
    assert "in the folder of this notebook yet" in capstone.check("my_codec.py", 1).message
    for stage in capstone.STAGES:
        file.write_text(stage.stub)
        assert capstone.check(file, stage.number).state == "not attempted"
    file.write_text("def noise(y, tau, generator):\n    return y\n")
    assert "Still to write: straight_through, relaxed" in capstone.check(file, 1).message
    assert record.read()["exercises"] == {}


def test_a_syntax_error_is_an_attempt_and_names_the_line(tmp_path):
    file = tmp_path / "my_codec.py"
    file.write_text("def noise(y, tau, generator):\n    return y +\n")
    verdict = capstone.check(file, 1)
    assert verdict.state == "failed" and "line 2" in verdict.message
    assert record.read()["exercises"]["capstone.surrogates"] == {
        "state": "failed",
        "tries": 1,
        "message": verdict.message,
    }


def test_a_verdict_is_recorded(tmp_path, monkeypatch):
    file = tmp_path / "my_codec.py"
    file.write_text(REFERENCE)
    runs = [grading.Run(passed, message, {}) for passed, message in ((False, "bad"), (True, "good"), (False, "bad"))]
    monkeypatch.setattr(grading, "run", lambda *_: runs.pop(0))
    expected = [("failed", {"message": "bad"}), ("passed", {}), ("passed", {})]
    for tries, (state, message) in enumerate(expected, start=1):
        capstone.check(file, 2)
        assert record.read()["exercises"]["capstone.transform"] == {"state": state, "tries": tries, **message}
    assert "1 of 8 stages solved" in str(course.progress())


def test_starting_later_backs_up_the_file_and_records_what_was_given(tmp_path):
    file = tmp_path / "my_codec.py"
    file.write_text("mine\n")
    record.write("exercises", "capstone.surrogates", {"state": "passed", "tries": 2})
    card = capstone.start_from(3, file)
    assert (tmp_path / "my_codec.1.py").read_text() == "mine\n" and "my_codec.1.py" in str(card)
    text = file.read_text()
    assert "def transforms" in text and "class Prior(nn.Module)" in text and "torch.sigmoid" not in text
    assert {key: entry["state"] for key, entry in record.read()["exercises"].items()} == {
        "capstone.surrogates": "passed",
        "capstone.transform": "given",
    }
    capstone.start_from(1, file)
    assert (tmp_path / "my_codec.2.py").read_text() == text
    module(file.read_text())
    assert capstone.check(file, 1).state == "not attempted"


@pytest.mark.parametrize("number", [0, 9, "1"])
def test_an_unknown_stage_is_refused(number):
    with pytest.raises(ValueError, match="stage must be a number from 1 to 8"):
        capstone.start_from(number)


def test_the_thresholds_were_measured_over_seeds():
    measured = json.loads((catalog.FILE / "thresholds.json").read_text())
    assert {"stage 4: loss", "stage 6: loss"} <= set(measured["numbers"])
    for entry in measured["numbers"].values():
        assert entry["limit"] > max(entry["values"])
    limits = grading.thresholds()
    assert limits["stage 6: loss"] < min(measured["numbers"]["stage 4: loss"]["values"])  # a hyperprior must help
    assert limits.get("stage 8: BD-rate", -1) < 0  # and the codec must be better than JPEG
    assert files.HEADER + files.CHECKSUM == 14
