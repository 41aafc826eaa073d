"""Schemes: their fields and presets, and how the entropy models apply them."""

import itertools
import json
import math
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.models.base import get_scale_table

from labkit import entropy, schedules, schemes, surrogates
from labkit.schemes import QuantizationScheme

SURROGATES = [*surrogates.names()]


def gaussian(scheme, n=4096, sigma=0.7, seed=0):
    """Return a Gaussian module in training mode, with latents, scales and means that require gradients."""
    g = torch.Generator().manual_seed(seed)
    module = entropy.GaussianConditional(scheme=scheme).train()
    module.generator = torch.Generator().manual_seed(seed + 1)
    y = torch.randn(1, 1, 1, n, generator=g).mul(3).requires_grad_()
    means = torch.randn(1, 1, 1, n, generator=g).requires_grad_()
    scales = torch.full((1, 1, 1, n), sigma).requires_grad_()
    return module, y, scales, means


@pytest.mark.parametrize("name", schemes.names())
def test_presets_round_trip_through_json(name):
    scheme = schemes.get(name, scale_lower_bound=0.2)
    assert schemes.from_dict(json.loads(json.dumps(scheme.to_dict()))) == scheme


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"rate": "anu"}, r"rate: unknown surrogate 'anu'; did you mean aun"),
        ({"distortion": 3}, "distortion must be a surrogate or the name of one, got 3"),
        ({"zero_center": 1}, "zero_center must be True or False, got 1"),
        ({"scale_lower_bound": 0}, "scale_lower_bound must be a number between 0 and 256, got 0"),
        ({"temperature": -1}, "temperature must be a positive finite number or a schedule, got -1"),
        ({"temperature": "hot"}, "temperature must be a positive finite number or a schedule, got 'hot'"),
        ({"zero_center": False, "stop_gradient": True}, "stop_gradient requires zero_center=True"),
    ],
)
def test_the_error_names_the_invalid_field(fields, message):
    with pytest.raises(ValueError, match=message):
        QuantizationScheme(**fields)


def test_the_error_names_the_unknown_preset_or_field():
    with pytest.raises(ValueError, match="unknown scheme 'anneal'; did you mean annealed"):
        schemes.get("anneal")
    with pytest.raises(ValueError, match="scheme annealed: unknown field 'tempreature'; did you mean temperature"):
        schemes.get("annealed", tempreature=1)


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("name", SURROGATES)
def test_the_gradient_for_the_mean_is_zero_or_one_minus_the_slope(name, stop):
    """It is zero with stop-gradient and one minus the surrogate's slope without it, for every surrogate."""
    scheme = schemes.noise(temperature=0.4).replace(distortion=surrogates.get(name), stop_gradient=stop)
    module, y, scales, means = gaussian(scheme)
    output, _ = module(y, scales, means)
    to_y, to_mean = torch.autograd.grad(output.sum(), (y, means), allow_unused=True)
    if stop:
        assert to_mean is None or not to_mean.any()
    else:
        torch.testing.assert_close(to_mean, 1 - to_y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stop, shared", list(itertools.product([False, True], [False, True])))
def test_paths_follow_the_scheme(stop, shared):
    """In NumPy, the likelihood follows from additive noise around μ, and the reconstruction from SUA around μ."""
    scheme = schemes.annealed(temperature=0.5, relaxed=False, stop_gradient=stop, shared_noise=shared)
    module, y, scales, means = gaussian(scheme)
    output, likelihood = module(y, scales, means)
    g = torch.Generator().manual_seed(1)
    v = torch.rand(y.shape, generator=g).numpy()
    v_distortion = v if shared else torch.rand(y.shape, generator=g).numpy()
    y, scales, means = (t.detach().double().numpy() for t in (y, scales, means))
    expected = np.round(y - means + 0.5 * (v_distortion - 0.5)) + means
    assert np.mean(np.abs(output.detach().numpy() - expected) > 1e-4) < 1e-3  # float32 may round a tie differently
    from scipy.stats import norm

    noisy = y - means + v - 0.5
    mass = norm.cdf((noisy + 0.5) / scales) - norm.cdf((noisy - 0.5) / scales)
    np.testing.assert_allclose(likelihood.detach().numpy(), np.maximum(mass, 1e-9), rtol=2e-4, atol=1e-7)


def test_the_latent_itself_is_quantized_without_zero_center():
    scheme = schemes.straight_through(zero_center=False)
    module, y, scales, means = gaussian(scheme)
    output, _ = module(y, scales, means)
    assert torch.equal(output, torch.round(y))


def test_the_noise_preset_has_compressais_training_law():
    """Means and variances of outputs and mean bits agree with CompressAI's modules within five standard errors."""
    n = 60_000
    ours, y, scales, means = gaussian(schemes.noise(), n)
    theirs = GaussianConditional(None).train()
    torch.manual_seed(99)  # a random stream other than that of y
    results = []
    for module in (ours, theirs):
        output, likelihood = module(y, scales, means)
        results.append(((output - y).detach().flatten(), -likelihood.detach().log2().flatten()))
    (ours_error, ours_bits), (their_error, their_bits) = results
    for a, b in ((ours_error, their_error), (ours_error**2, their_error**2), (ours_bits, their_bits)):
        assert abs(a.mean() - b.mean()) < 5 * torch.sqrt((a.var() + b.var()) / n)


@pytest.mark.parametrize("bound", [0.11, 0.3, 0.05])
def test_evaluation_equals_compressais_and_the_table_starts_at_the_bound(bound):
    ours = entropy.GaussianConditional(scheme=schemes.noise(scale_lower_bound=bound)).eval()
    theirs = GaussianConditional(None, scale_bound=bound).eval()
    g = torch.Generator().manual_seed(4)
    y, means = torch.randn(2, 1, 3, 8, 8, generator=g).mul(4).unbind()
    scales = torch.rand(1, 3, 8, 8, generator=g)
    for a, b in zip(ours(y, scales, means), theirs(y, scales, means), strict=True):
        assert torch.equal(a, b)
    ours.update_scale_table(get_scale_table())
    assert float(ours.scale_table[0]) == float(torch.tensor(bound))
    at_bound = ours.build_indexes(torch.full((1, 1, 1, 4), bound / 2))
    assert not at_bound.any()  # a latent at the bound is coded with the first table
    if bound == 0.11:
        theirs.update_scale_table(get_scale_table())
        assert ours.compress(y, ours.build_indexes(scales), means) == theirs.compress(
            y, theirs.build_indexes(scales), means
        )


def test_the_gradient_can_only_raise_a_scale_below_the_bound():
    module = entropy.GaussianConditional(scheme=schemes.straight_through(scale_lower_bound=0.5)).train()
    scales = torch.full((1, 1, 1, 2), 0.2, requires_grad=True)
    y = torch.tensor([0.0, 3.0]).view(1, 1, 1, 2)  # y = 0 favors a smaller σ, and y = 3 a larger one
    _, likelihood = module(y, scales)
    (gradient,) = torch.autograd.grad(-likelihood.log2().sum(), scales)
    assert gradient[..., 0] == 0 and gradient[..., 1] < 0


def test_the_bound_of_the_scheme_replaces_that_of_the_state_dict_with_a_warning():
    theirs = GaussianConditional(None)  # bound 0.11
    ours = entropy.GaussianConditional(scheme=schemes.noise(scale_lower_bound=0.3))
    with pytest.warns(UserWarning, match=r"^the scheme's scale bound 0\.3 replaces the bound 0\.11 of the state dict$"):
        ours.load_state_dict(theirs.state_dict())
    assert float(ours.lower_bound_scale.bound) == float(ours.scale_bound) == float(torch.tensor(0.3))


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4, 4)])
def test_the_entropy_bottleneck_has_the_likelihoods_of_compressai(shape):
    """For the same values, the training likelihood is CompressAI's evaluation likelihood."""
    torch.manual_seed(0)
    theirs = EntropyBottleneck(3).eval()
    ours = entropy.EntropyBottleneck(3, scheme=schemes.straight_through())
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        ours.quantiles[:, 0, 1] = theirs.quantiles[:, 0, 1] = torch.tensor([0.3, -0.2, 0.0])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 4
    for mode in (ours.train(), ours.eval()):  # straight-through training rounds around the median, as the coder does
        for a, b in zip(mode(x), theirs(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_two_stages_must_have_the_same_bound():
    with pytest.raises(ValueError, match="both stages must have the same scale_lower_bound"):
        schemes.TwoStages(schemes.noise(), schemes.straight_through(scale_lower_bound=0.3))


@pytest.mark.parametrize("name", schemes.names())
def test_every_preset_accepts_a_temperature_and_a_bound_for_all_its_stages(name):
    falling = schedules.exponential(0.5, 0.05)
    scheme = schemes.get(name, temperature=falling, scale_lower_bound=0.3)
    stages = [scheme] if isinstance(scheme, QuantizationScheme) else [scheme.first, scheme.second]
    assert all((stage.temperature, stage.scale_lower_bound) == (falling, 0.3) for stage in stages)


@pytest.mark.parametrize("shape", schedules.SHAPES)
def test_between_makes_a_schedule_of_each_shape(shape):
    schedule = schedules.between(shape, 0.5, 0.1)
    assert schedule == (schedules.constant(0.5) if shape == "constant" else getattr(schedules, shape)(0.5, 0.1))
    assert (schedule(0, 9), schedule(8, 9)) == pytest.approx((0.5, 0.5 if shape == "constant" else 0.1))


def test_each_kind_of_schedule_has_the_expected_values():
    assert [schedules.linear(1, 0.5)(i, 3) for i in range(3)] == [1, 0.75, 0.5]
    assert schedules.exponential(1.0, 0.01)(1, 3) == pytest.approx(0.1)
    assert schedules.cosine(2, 1)(1, 3) == pytest.approx(1.5)
    assert schedules.constant(0.3)(7, 9) == 0.3 and schedules.linear(1, 2)(0, 1) == 1


def test_delayed_exponential_is_the_schedule_of_stochastic_gumbel_annealing():
    """τ = min(τ_max, exp(−c(t − t₀)) τ_max) with c = 10⁻³, t₀ = 700, τ_max = 0.5 over 2,001 steps."""
    steps, t = 2001, np.arange(2001)
    expected = 0.5 * np.exp(-1e-3 * np.maximum(0, t - 700))
    schedule = schedules.delayed_exponential(0.5, 0.5 * math.exp(-1.3), delay=0.35)
    np.testing.assert_allclose([schedule(int(step), steps) for step in t], expected, rtol=1e-12)


def test_a_piecewise_schedule_interpolates_its_points_and_jumps_at_equal_fractions():
    shares, values = [0, 0.25, 0.75, 1], [1.0, 0.5, 0.4, 0.1]
    schedule = schedules.piecewise(*zip(shares, values, strict=True))
    steps = 81
    actual = [schedule(step, steps) for step in range(steps)]
    np.testing.assert_allclose(actual, np.interp(np.linspace(0, 1, steps), shares, values), rtol=1e-12)
    jump = schedules.piecewise((0, 1), (0.5, 1), (0.5, 0.2), (1, 0.2))
    assert [jump(step, 5) for step in range(5)] == [1, 1, 0.2, 0.2, 0.2] and (jump.start, jump.end) == (1, 0.2)
    assert schemes.from_dict(json.loads(json.dumps(schemes.annealed(temperature=jump).to_dict()))).temperature == jump


@pytest.mark.parametrize(
    "text, schedule",
    [
        ("0.5", schedules.constant(0.5)),
        ("exponential:1:0.05", schedules.exponential(1, 0.05)),
        ("delayed_exponential:0.5:0.1:0.35", schedules.delayed_exponential()),
        ("piecewise:0=1,0.5=0.3,1=0.1", schedules.piecewise((0, 1), (0.5, 0.3), (1, 0.1))),
    ],
)
def test_schedules_are_parsed_from_text(text, schedule):
    assert schedules.parse(text) == schedule


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: schedules.between("linaer", 1, 2), "unknown schedule 'linaer'; did you mean linear"),
        (lambda: schedules.linear(0, 1), "start must be a positive finite number, got 0"),
        (lambda: schedules.Schedule("step", 1, 2), "unknown kind of schedule 'step'; did you mean"),
        (
            lambda: schedules.Schedule("linear", 1, 2, points=((0, 1), (1, 2))),
            "points must be given for a piecewise schedule, and for no other",
        ),
        (lambda: schedules.piecewise((0, 1), (0.5, 2)), "the fractions in points must increase from 0 to 1"),
        (lambda: schedules.piecewise((0, 1), (1, -2)), "end must be a positive finite number, got -2"),
        (lambda: schedules.piecewise(), "points must be pairs"),
        (lambda: schedules.delayed_exponential(delay=1), "delay must be a fraction"),
        (
            lambda: schedules.parse("fast"),
            "a schedule must be a number or KIND:START:END, .*, got 'fast'",
        ),
        (lambda: schedules.parse("linear:1"), "a schedule must be a number or KIND:START:END, .*, got 'linear:1'"),
    ],
)
def test_an_invalid_schedule_raises_a_clear_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_schedule_has_a_table_of_its_values():
    rows = schedules.exponential(1, 0.01).table(101, rows=3).splitlines()
    assert [row.split() for row in rows] == [["step", "value"], ["0", "1"], ["50", "0.1"], ["100", "0.01"]]


@pytest.mark.parametrize("name", schemes.names())
def test_the_description_names_every_path_in_text_and_diagram(name):
    scheme = schemes.get(name, scale_lower_bound=0.2)
    if isinstance(scheme, schemes.TwoStages):
        text, html = str(scheme.describe()), scheme.describe()._repr_html_()
        assert str(scheme.first.describe()) in text and str(scheme.second.describe()) in text and "80%" in html
        return
    text, html = str(scheme.describe()), scheme.describe()._repr_html_()
    diagram = ElementTree.fromstring(html[html.index("<svg") : html.index("</svg>") + 6])  # checks that it is valid XML
    labels = [element.text for element in diagram.iter() if element.text]
    for path in schemes.PATHS:
        surrogate = getattr(scheme, path)
        row = next(line for line in text.splitlines() if line.startswith(path.replace("_", "-") + " "))
        assert surrogate.name in row and surrogate.forward in row and surrogate.derivative in row
        assert any(label.startswith(surrogate.name) for label in labels)
    assert "σ ≥ 0.2" in text and "σ ≥ 0.2" in html
    assert ("no gradient" in text) == ("+ μ, constant" in labels) == scheme.stop_gradient


@pytest.mark.parametrize("name", schemes.names())
def test_repr_is_one_line_and_str_is_the_description(name):
    scheme = schemes.get(name, scale_lower_bound=0.2)
    assert str(scheme) == str(scheme.describe())
    assert "scale_lower_bound=0.2" in repr(scheme) and "\n" not in repr(scheme)
    assert repr(scheme.describe()) == f"SchemeDescription({'2 stages' if name == 'soft_then_hard' else '1 stage'})"
