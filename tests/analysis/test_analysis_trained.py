"""Mismatch and gradient risk of trained networks agree with CompressAI, NumPy, quadrature and autograd."""

import copy
import math

import compressai.layers
import compressai.models
import numpy as np
import pytest
import torch
from torch import nn

from labkit import adoption, datasets, entropy, networks, schemes, surrogates
from labkit.analysis import trained
from labkit.analysis.trained import gradient as risk_module
from labkit.analysis.trained.layers import gradient_vectors, layers_of
from labkit.analysis.trained.sums import Welford

LMBDA = 0.0035


@pytest.fixture(scope="module")
def net():
    return networks.pretrained("mean_scale_hyperprior", LMBDA)


@pytest.fixture(scope="module")
def crops(test_photos):
    return [test_photos[0][:, 64:192, 64:192].contiguous(), test_photos[4][:, 100:164, 40:168].contiguous()]


@pytest.fixture(scope="module")
def compressai_net(net):
    codec = compressai.models.MeanScaleHyperprior(net.N, net.M)
    codec.load_state_dict({k: v for k, v in net.state_dict().items() if k in codec.state_dict()}, strict=False)
    return codec.eval()


def bits_per_pixel(likelihood, x):
    return -np.log2(likelihood.detach().double().numpy()).sum() / (x.size(-1) * x.size(-2))


def squared_error(x_hat, x):
    return 255**2 * np.square(x_hat.detach().double().numpy() - x.double().numpy()).mean()


def pick(table, **conditions):
    for column, value in conditions.items():
        table = table[table[column] == value]
    return table


# ---------------------------------------------------------------------------------------------- mismatch


def test_straight_through_has_no_mismatch_and_rounded_losses_equal_those_of_compressai(net, crops, compressai_net):
    table = trained.network_mismatch(net, crops, "ste", lmbda=LMBDA, draws=2)
    assert (table["se"] == 0).all()  # nothing is random
    for index, image in enumerate(crops):
        x = image[None]
        with torch.no_grad():
            output = compressai_net(x)
        parts = {f"rate_{k}": bits_per_pixel(p, x) for k, p in output["likelihoods"].items()}
        expected = {**parts, "rate": sum(parts.values()), "distortion": squared_error(output["x_hat"], x)}
        expected["loss"] = expected["rate"] + LMBDA * expected["distortion"]
        rows = pick(table, image=str(index)).set_index("quantity")
        assert set(rows.index) == set(expected)
        for quantity, value in expected.items():
            assert rows.loc[quantity, "rounded"] == pytest.approx(value, rel=1e-6)
            # training computes (y − μ) + μ in float32
            assert rows.loc[quantity, "training"] == pytest.approx(value, rel=1e-4)
    assert (table["training"] - table["rounded"] == table["mismatch"]).all()


def test_the_mismatch_of_rounding_without_zero_center_agrees_with_the_modules_of_compressai(net, crops, compressai_net):
    """The mismatch is not zero, because training uses ⌊y⌉ and the codec uses ⌊y − μ⌉ + μ."""
    table = trained.network_mismatch(
        net, crops[:1], schemes.straight_through(zero_center=False), lmbda=LMBDA, draws=2
    ).set_index(["image", "quantity"])
    x = crops[0][None]
    codec = compressai_net
    with torch.no_grad():
        y = codec.g_a(x)
        z_hat = torch.round(codec.h_a(y))
        z_likelihood = codec.entropy_bottleneck._likelihood(z_hat.transpose(0, 1).reshape(codec.N, 1, -1))[0]
        scales, means = codec.h_s(z_hat).chunk(2, 1)
        y_likelihood = codec.gaussian_conditional._likelihood(torch.round(y), scales, means)
        distortion = squared_error(codec.g_s(torch.round(y)), x)
        rounded = squared_error(codec(x)["x_hat"], x)
    rows = table.loc["0"]
    assert rows.loc["rate_y", "training"] == pytest.approx(bits_per_pixel(y_likelihood.clamp(min=1e-9), x), rel=1e-5)
    assert rows.loc["rate_z", "training"] == pytest.approx(bits_per_pixel(z_likelihood.clamp(min=1e-9), x), rel=1e-5)
    assert rows.loc["distortion", "mismatch"] == pytest.approx(distortion - rounded, rel=1e-3)
    assert abs(rows.loc["distortion", "mismatch"]) > 0.1


def test_additive_noise_agrees_with_the_training_forward_pass_of_compressai(net, crops, compressai_net):
    """CompressAI draws noise of the same distribution, so differences are within five standard errors."""
    draws, x = 24, crops[1][None]
    table = trained.network_mismatch(net, [crops[1]], "aun", lmbda=LMBDA, draws=draws, seed=3)
    model = copy.deepcopy(compressai_net)
    samples = {"rate_y": [], "rate_z": [], "distortion": []}
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        rounded = model.eval()(x)
        for _ in range(draws):
            output = model.train()(x)
            for part in ("y", "z"):
                rates = [bits_per_pixel(o["likelihoods"][part], x) for o in (output, rounded)]
                samples[f"rate_{part}"].append(rates[0] - rates[1])
            samples["distortion"].append(squared_error(output["x_hat"], x) - squared_error(rounded["x_hat"], x))
    for quantity, values in samples.items():
        row = pick(table, image="0", quantity=quantity).iloc[0]
        error = np.std(values, ddof=1) / math.sqrt(draws)
        assert abs(row["mismatch"] - np.mean(values)) < 5 * math.hypot(error, row["se"])
        assert 0.4 < row["se"] / error < 2.5  # each standard error is known to about one part in seven
    assert pick(table, image="0", quantity="distortion")["mismatch"].item() > 0


def test_the_table_has_means_over_images_and_their_standard_errors(net, crops):
    table = trained.network_mismatch(net, crops, ["aun", "mixed"], lmbda=LMBDA, draws=3)
    for _, rows in table.groupby(["label", "quantity"]):
        first, second, mean = (rows[rows["image"] == name].iloc[0] for name in ("0", "1", "mean"))
        for column in ("training", "rounded", "mismatch"):
            assert mean[column] == pytest.approx((first[column] + second[column]) / 2)
        assert mean["se"] == pytest.approx(math.hypot(first["se"], second["se"]) / 2)
        assert mean["se_images"] == pytest.approx(abs(first["mismatch"] - second["mismatch"]) / 2)
    # with common random numbers, both schemes draw the same noise for the rate of z
    a, b = (pick(table, label=label, quantity="rate_z")["training"].to_numpy() for label in ("aun", "mixed"))
    assert (a == b).all()


def test_images_are_padded_with_their_edge_pixels(net, test_photos):
    image = test_photos[0][:, :100, :128]
    padded = torch.nn.functional.pad(image[None], (0, 0, 14, 14), mode="replicate")[0]
    table, padded_table = (trained.network_mismatch(net, [x], "ste", lmbda=LMBDA, draws=2) for x in (image, padded))
    assert table.equals(padded_table)


# ----------------------------------------------------------------------------------------- gradient risk


class Gain(nn.Module):
    """The network y = g x of the surrogates page, with a fixed decoder and scale: quadrature gives its gradients."""

    def __init__(self, gain=0.5):
        super().__init__()
        self.gain, self.fixed = nn.Parameter(torch.tensor(gain, dtype=torch.float64)), gain
        self.gaussian_conditional = entropy.GaussianConditional(None)

    def forward(self, x):
        y = self.gain * x
        y_hat, likelihood = self.gaussian_conditional(y, torch.full_like(y, self.fixed), torch.zeros_like(y))
        return {"x_hat": y_hat / self.fixed, "likelihoods": {"y": likelihood}}


def gain_by_quadrature(g=0.5, weight=6.0):
    """Return the exact gradient of the test loss and the expected gradients of straight-through and additive noise."""
    phi = lambda t: 0.5 * torch.special.erfc(torch.as_tensor(-t / math.sqrt(2))).numpy()  # noqa: E731
    density = lambda t: np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)  # noqa: E731
    bits = lambda y: -np.log2(phi((0.5 - np.abs(y)) / g) - phi((-0.5 - np.abs(y)) / g))  # noqa: E731

    def slope(y):
        mass = phi((0.5 - np.abs(y)) / g) - phi((-0.5 - np.abs(y)) / g)
        slope_of_mass = density((-0.5 - np.abs(y)) / g) - density((0.5 - np.abs(y)) / g)
        return -np.sign(y) * slope_of_mass / (g * mass * math.log(2))

    k = np.arange(-6, 6)
    x = (k + 0.5) / g
    jump = bits(k + 1) - bits(k) + weight * (((k + 1) / g - x) ** 2 - (k / g - x) ** 2)
    exact = np.sum(density(x) / g * jump * x)
    edges = np.linspace(-6, 6, 4801)
    x = (edges[1:] + edges[:-1]) / 2

    def expected(y_tilde):
        gradient = (slope(y_tilde) + 2 * weight * (y_tilde / g - x) / g) * x
        return np.sum(density(x) * gradient) * (edges[1] - edges[0])

    noise = (np.arange(64) + 0.5) / 64 - 0.5
    return exact, expected(np.round(g * x)), np.mean([expected(g * x + u) for u in noise])


def test_bias_and_derivative_of_the_gain_agree_with_quadrature():
    """Sample the surrogates page's worked example, with a tolerance of five standard errors and 0.01 for curvature."""
    exact, straight_through, noise = gain_by_quadrature()
    assert (exact, straight_through - exact, noise - exact) == pytest.approx((2.4151, -0.606, -0.249), abs=2e-3)
    points = torch.randn(2_000_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    table = trained.network_gradient_risk(
        Gain(), points, ["ste", "aun"], lmbda=6.0, batches=24, batch_size=10_000, draws=2, directions=1, step=0.02
    ).set_index("label")
    for label, expected in (("ste", straight_through), ("aun", noise)):
        row = table.loc[label]
        assert row["derivative_se"] < 0.1 and row["bias_se"] < 0.1
        assert abs(row["derivative"] - exact) < 5 * row["derivative_se"] + 0.01
        assert abs(row["bias"] - (expected - exact)) < 5 * row["bias_se"] + 0.01
        assert abs(row["slope"] - exact / expected) < 5 * row["slope_se"] + 0.01
    assert table.loc["ste", "bias"] < -5 * table.loc["ste", "bias_se"]  # the samples show the bias
    # for noise, one sample has a standard deviation of 15.5; 24 batches estimate its square to 30%
    total = (table["variance_draws"] + table["variance_batches"]) * 10_000
    assert np.sqrt(total["aun"]) == pytest.approx(15.5, rel=0.5)
    assert table.loc["ste", "variance_draws"] == 0


@pytest.mark.slow
def test_differences_agree_with_autograd_for_parts_where_straight_through_is_exact(net, crops):
    """The synthesis transform and the factorized entropy model read rounded values and do not change them."""
    double_net = copy.deepcopy(net).double()
    images = [crop.double() for crop in crops]
    settings = {"lmbda": LMBDA, "draws": 2, "batches": 3, "crop": 64, "directions": 2, "by": "part"}
    table = trained.network_gradient_risk(double_net, images, "ste", step=1e-5, **settings).set_index("layer")
    for part in ("g_s", "entropy_bottleneck"):
        row = table.loc[part]
        assert row["slope"] == pytest.approx(1, abs=1e-4) and row["slope_se"] < 1e-4
        assert abs(row["bias"]) < 1e-4 * row["norm"] and row["agreed"] == pytest.approx(row["found"], rel=1e-3)
    automatic = trained.network_gradient_risk(net, crops, "ste", **settings).set_index("layer")
    assert abs(automatic.loc["g_s", "slope"] - 1) < 5 * risk_module.CURVATURE
    assert (automatic["step"] <= risk_module.LARGEST_STEP).all() and automatic["step"].nunique() > 1
    again = trained.network_gradient_risk(double_net, images, "ste", step=1e-5, **settings)
    assert again.set_index("layer").equals(table)  # same seed, same numbers


def test_a_doubled_gradient_is_visible_in_the_table(net, crops, monkeypatch):
    original = gradient_vectors

    def doubled(*arguments):
        return [2 * gradient for gradient in original(*arguments)]

    monkeypatch.setattr(risk_module, "gradient_vectors", doubled)
    table = trained.network_gradient_risk(
        copy.deepcopy(net).double(),
        [crop.double() for crop in crops],
        "ste",
        lmbda=LMBDA,
        draws=2,
        batches=2,
        crop=64,
        directions=1,
        by="part",
        step=1e-5,
    ).set_index("layer")
    assert table.loc["g_s", "slope"] == pytest.approx(0.5, abs=1e-4)
    assert table.loc["g_s", "agreed"] == pytest.approx(2 * table.loc["g_s", "found"], rel=1e-3)
    assert table.loc["g_s", "bias"] == pytest.approx(table.loc["g_s", "derivative"], rel=1e-3)


@pytest.mark.slow
def test_mean_and_variance_of_stored_gradients_agree_with_numpy(net, crops, monkeypatch):
    """NumPy computes the norm of the mean and the variances within and between batches for one small layer."""
    kept, original = [], gradient_vectors

    def keep(net, layers, *arguments):
        gradients = original(net, layers, *arguments)
        kept.append(gradients[[layer.name for layer in layers].index("h_a.4")].numpy())
        return gradients

    monkeypatch.setattr(risk_module, "gradient_vectors", keep)
    draws, batches = 3, 4
    table = trained.network_gradient_risk(
        net, crops, "aun", lmbda=LMBDA, draws=draws, batches=batches, crop=64, directions=1, step=0.01
    )
    row = table.set_index("layer").loc["h_a.4"]
    stored = np.array(kept[1:]).reshape(batches, draws, -1)  # the first gradient determined the direction
    assert stored.shape[-1] == row["parameters"] == sum(p.numel() for p in net.h_a[4].parameters())
    assert row["part"] == "h_a"
    within = stored.var(1, ddof=1).sum(-1)
    between = stored.mean(1).var(0, ddof=1).sum() - within.mean() / draws
    assert row["norm"] == pytest.approx(np.linalg.norm(stored.mean((0, 1))), rel=1e-9)
    assert row["variance_draws"] == pytest.approx(within.mean(), rel=1e-9)
    assert row["variance_draws_se"] == pytest.approx(within.std(ddof=1) / 2, rel=1e-9)
    assert row["variance_batches"] == pytest.approx(between, rel=1e-9)
    # the table has every parameter once, except the quantiles, which have no gradient in this loss
    quantiles = net.entropy_bottleneck.quantiles.numel()
    assert table["parameters"].sum() == sum(p.numel() for p in net.parameters()) - quantiles


def test_the_gradient_is_that_of_the_training_loss(net, crops):
    """The reference is PyTorch's backward pass with straight-through rounding."""
    codec = copy.deepcopy(net).train()
    entropy.set_scheme(codec, schemes.straight_through())
    x = crops[0][None]
    output = codec(x)
    bits = sum(p.log2().sum() for p in output["likelihoods"].values()) / -(128 * 128)
    (bits + LMBDA * 255**2 * (output["x_hat"] - x).square().mean()).backward()
    gradients = gradient_vectors(codec, layers_of(codec, "layer"), x, LMBDA)
    for layer, gradient in zip(layers_of(codec, "layer"), gradients, strict=True):
        expected = torch.cat([p.grad.flatten().double() for p in layer.parameters])
        assert (gradient - expected).norm() <= 1e-4 * expected.norm() + 1e-9


def test_straight_through_has_no_variance_over_draws_and_stochastic_rounding_has_the_most(net, crops):
    table = trained.network_gradient_risk(
        net, crops, ["ste", "sr", "aun"], lmbda=LMBDA, draws=3, batches=3, crop=64, directions=1, step=0.01, by="part"
    )
    variance = table.pivot(index="layer", columns="label", values="variance_draws")
    assert (variance["ste"] == 0).all()
    assert (variance["aun"] > 0).all() and (
        variance.loc[["g_a", "g_s"], "sr"] > variance.loc[["g_a", "g_s"], "aun"]
    ).all()


def test_the_slope_and_its_standard_error_are_right_for_synthetic_numbers():
    """Simulate 400 experiments in which predictions are truth + noise and measurements are 0.7 · truth + noise."""
    rng = np.random.default_rng(0)
    batches, directions, draws, slopes, errors = 20, 3, 4, [], []
    for _ in range(400):
        truth = rng.normal(size=(batches, directions))
        predicted = truth[..., None] + rng.normal(size=(batches, directions, draws))
        measured = 0.7 * truth[..., None] + rng.normal(size=(batches, directions, 2)) / 2
        result = risk_module._bias(predicted, measured)
        slopes.append(result["slope"])
        errors.append(result["slope_se"])
    # if the draws' noise were not subtracted, the slope would be 0.7 / (1 + 1/4) = 0.56; a ratio's bias is about 1/60
    assert np.mean(slopes) == pytest.approx(0.7, abs=0.03)
    assert np.mean(errors) == pytest.approx(np.std(slopes), rel=0.2)


def test_welford_is_accurate_far_from_zero():
    samples = np.random.default_rng(0).normal(1e6, 1e-2, (50, 3))
    running = Welford()
    for sample in samples:
        running.add(torch.from_numpy(sample))
    assert running.variance == pytest.approx(samples.var(0, ddof=1).sum(), rel=1e-6)
    np.testing.assert_allclose(running.mean.numpy(), samples.mean(0), rtol=1e-14)


def test_schemes_share_random_numbers_on_the_toy():
    toy = networks.toy_2d(seed=1)
    points = datasets.banana(500, torch.Generator().manual_seed(0))
    table = trained.network_mismatch(
        toy, points, {"a": "noise", "b": "annealed"}, lmbda=1.0, temperatures=[1.0, 0.1], draws=4
    )
    rate = pick(table, image="0", quantity="rate")
    assert rate["label"].tolist() == ["a", "b", "b"] and rate["training"].nunique() == 1  # equal noise for the rate
    assert np.isnan(rate["temperature"].iloc[0]) and rate["temperature"].tolist()[1:] == [1.0, 0.1]
    distortion = pick(table, image="0", quantity="distortion", label="b")["mismatch"].abs().tolist()
    assert distortion[1] < distortion[0]
    risk = trained.network_gradient_risk(
        toy, points, ["aun", "ste"], lmbda=1.0, draws=2, batches=3, batch_size=64, directions=1
    )
    assert set(risk["part"]) == {"g_a", "g_s", "entropy_bottleneck"} and np.isfinite(risk["norm"]).all()


# --------------------------------------------------------------------------- the gradient that reaches μ


def test_stop_gradient_removes_only_the_distortion_from_the_gradient_of_the_means(net, crops):
    table = trained.gradient_at_means(
        net, crops, ["ste", "soft_rounding"], lmbda=LMBDA, draws=2, batches=2, crop=64
    ).set_index(["label", "stop_gradient", "path"])
    for stop in (False, True):  # at a slope of 1, this path has no gradient with or without the stop
        assert table.loc[("ste", stop, "distortion"), ["norm", "variance"]].tolist() == [0, 0]
    assert table.loc[("soft_rounding", False, "distortion"), "norm"] > 0
    assert table.loc[("soft_rounding", False, "distortion"), "variance"] > 0
    assert table.loc[("soft_rounding", True, "distortion"), ["norm", "variance"]].tolist() == [0, 0]
    rate = [table.loc[("soft_rounding", stop, "rate"), "norm"] for stop in (False, True)]
    assert rate[0] == pytest.approx(rate[1], rel=1e-6) and rate[0] > 0
    assert table.loc[("soft_rounding", True, "both"), "norm"] == pytest.approx(rate[1], rel=1e-6)
    assert not net.gaussian_conditional._forward_pre_hooks


# ------------------------------------------------------------------ state of the network afterwards


class NetworkWithSideEffects(nn.Module):
    """A network with dropout, whose forward pass changes weights (masked convolution) and buffers (batch norm)."""

    def __init__(self):
        super().__init__()
        self.g_a = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.BatchNorm2d(4), nn.Dropout(0.2))
        self.entropy_bottleneck = entropy.EntropyBottleneck(4, scheme=schemes.annealed(0.5), main=True)
        self.context = compressai.layers.MaskedConv2d(4, 4, 3, padding=1)
        self.g_s = nn.ConvTranspose2d(4, 3, 4, 4)
        self.calls, self.fails_at = 0, math.inf

    def forward(self, x):
        self.calls += 1
        if self.calls >= self.fails_at:
            raise RuntimeError("the disk is on fire")
        y_hat, likelihood = self.entropy_bottleneck(5 * self.g_a(x))
        return {"x_hat": self.g_s(y_hat + self.context(y_hat)), "likelihoods": {"y": likelihood}}


def fingerprint(net):
    state = {k: v.clone() for k, v in [*net.named_parameters(), *net.named_buffers()]}
    identities = [(p.data_ptr(), id(p), None if p.grad is None else p.grad.sum().item()) for p in net.parameters()]
    identities += [id(buffer) for buffer in net.buffers()]
    carried = [(c.scheme, c.generator, c.generator and c.generator.get_state().tolist()) for c in entropy.carriers(net)]
    return state, (identities, [m.training for m in net.modules()], carried, torch.get_rng_state().tolist())


@pytest.mark.parametrize("function", ["network_mismatch", "network_gradient_risk"])
@pytest.mark.parametrize("fails_at", [math.inf, 3, 8])
def test_the_network_is_restored_even_after_an_error(function, fails_at):
    torch.manual_seed(1)
    net = NetworkWithSideEffects().train()
    net.g_a.eval()
    entropy.set_temperature(net, 0.3)
    entropy.set_generator(net, torch.Generator().manual_seed(4))
    net.g_s.weight.grad = torch.ones_like(net.g_s.weight)
    images = [torch.rand(3, 64, 64)]
    state, rest = fingerprint(net)
    options = {} if function == "network_mismatch" else {"crop": 64, "batches": 2, "directions": 1}
    scheme = schemes.mixed(scale_lower_bound=0.5)

    def call():
        net.calls = 0
        return getattr(trained, function)(net, images, scheme, lmbda=1e-3, draws=8, **options)

    net.fails_at = fails_at
    if fails_at < math.inf:
        with pytest.raises(RuntimeError, match="on fire"):
            call()
    else:
        table = call()
        with torch.random.fork_rng():
            torch.manual_seed(99)
            assert call().equals(table)  # same seed, same numbers, dropout included
    after, rest_after = fingerprint(net)
    assert set(after) == set(state) and all(torch.equal(state[k], after[k]) for k in state)
    assert rest_after == rest


def test_masked_weights_have_no_gradient():
    net = NetworkWithSideEffects().eval()
    layers = layers_of(net, "layer")
    gradient = dict(
        zip(
            [layer.name for layer in layers],
            gradient_vectors(net, layers, torch.rand(1, 3, 64, 64), 1.0),
            strict=True,
        )
    )
    weight = gradient["context"][: net.context.weight.numel()].view_as(net.context.weight)
    assert (weight[net.context.mask == 0] == 0).all() and (weight[net.context.mask == 1] != 0).any()


@pytest.mark.parametrize("kind", ["JointAutoregressiveHierarchicalPriors", "Cheng2020AnchorCheckerboard"])
def test_adopted_models_of_compressai_can_be_measured_and_are_restored(kind, crops):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = adoption.adopt(
            getattr(compressai.models, kind)(N=8, **({"M": 8} if "Joint" in kind else {})), schemes.noise()
        )
    state, rest = fingerprint(model)
    table = trained.network_mismatch(model, crops[1:], ["ste", "annealed"], lmbda=LMBDA, draws=2)
    assert set(table["quantity"]) == {"rate", "rate_y", "rate_z", "distortion", "loss"}
    assert np.isfinite(table["mismatch"]).all()
    risk = trained.network_gradient_risk(
        model, crops[1:], "mixed", lmbda=LMBDA, draws=2, batches=2, crop=64, directions=1, by="part", step=0.003
    )
    assert (risk["norm"] > 0).all() and {"g_a", "g_s"} < set(risk["part"])
    after, rest_after = fingerprint(model)
    assert all(torch.equal(state[k], after[k]) for k in state) and rest_after == rest


def test_the_scale_bound_and_the_tables_are_restored(net, crops):
    net.update(force=True)
    table, bound = net.gaussian_conditional.scale_table, net.gaussian_conditional.scale_bound.clone()
    wide = trained.network_mismatch(net, crops[:1], schemes.noise(scale_lower_bound=0.5), lmbda=LMBDA, draws=2)
    assert net.gaussian_conditional.scale_table is table and torch.equal(net.gaussian_conditional.scale_bound, bound)
    default = trained.network_mismatch(net, crops[:1], "noise", lmbda=LMBDA, draws=2)
    rates = [pick(t, image="0", quantity="rate_y")["rounded"].item() for t in (wide, default)]
    assert rates[0] > rates[1]  # the bound of the scheme applies to the rounded evaluation too


# ----------------------------------------------------------------------------------- arguments, figures


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schemes": "st"}, "unknown surrogate or preset 'st'; did you mean ste"),
        ({"schemes": "soft_then_hard"}, "schemes must have one stage"),
        ({"schemes": 3}, "schemes must be a surrogate, a preset, a scheme, or several of them, got 3"),
        ({"schemes": []}, "schemes must be .* got none"),
        ({"schemes": ["sua", surrogates.get("sua")]}, "schemes has two entries with the label 'sua'"),
        ({"schemes": "sua", "temperatures": -1.0}, "temperature must be a positive"),
        ({"draws": 1}, "draws must be an integer ≥ 2, got 1"),
        ({"seed": -1}, "seed must be an integer ≥ 0, got -1"),
        ({"lmbda": 0.0}, "lmbda must be a positive finite number, got 0.0"),
        ({"images": []}, "images must have at least one image, got none"),
        ({"images": [torch.zeros(3, 64, 64, dtype=torch.uint8)]}, "images must be .* image 0 is torch.uint8"),
        ({"images": [torch.full((3, 64, 64), 2.0)]}, r"images must be \(3, H, W\) in \[0, 1\]"),
        ({"images": [torch.zeros(1, 64, 64)]}, r"images must be .* \(1, 64, 64\)"),
        ({"images": [torch.zeros(3, 64, 64), torch.zeros(9, 2)]}, "images must be all images or all points, got both"),
        ({"net": compressai.models.FactorizedPrior(8, 8)}, "net must carry a scheme, got FactorizedPrior"),
    ],
)
def test_an_invalid_argument_raises_an_error_of_one_line(net, crops, arguments, message):
    for function in (trained.network_mismatch, trained.network_gradient_risk):
        with pytest.raises(ValueError, match=message) as error:
            function(**{"net": net, "images": crops, "schemes": "ste", "lmbda": LMBDA, **arguments})
        assert "\n" not in str(error.value)


def test_invalid_arguments_of_the_gradient_functions_raise_errors(net, crops):
    for arguments, message in (
        ({"by": "tensor"}, 'by must be "layer" or "part", got \'tensor\''),
        ({"crop": 100}, "crop must be a multiple of 64 and at most the smallest side, 64, got 100"),
        ({"crop": 128}, "crop must be a multiple of 64 and at most the smallest side, 64, got 128"),
        ({"batches": 1}, "batches must be an integer ≥ 2"),
        ({"step": 0.0}, "step must be a positive finite number, got 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            trained.network_gradient_risk(net, crops, "ste", lmbda=LMBDA, **arguments)
    with pytest.raises(ValueError, match="schemes must be zero-centered"):
        trained.gradient_at_means(net, crops, schemes.noise(zero_center=False), lmbda=LMBDA, crop=64)
    with pytest.raises(ValueError, match="net must have a Gaussian"):
        trained.gradient_at_means(networks.toy_2d(), torch.zeros(9, 2), "ste", lmbda=1.0)
    frozen = copy.deepcopy(net).requires_grad_(False)
    with pytest.raises(ValueError, match="net must have a parameter that requires a gradient"):
        trained.network_gradient_risk(frozen, crops, "ste", lmbda=LMBDA)
