"""Fixed point against integers of Python and NumPy, and against exact bounds."""

import copy
import math
from decimal import Decimal, getcontext
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labkit import networks
from labkit.fixed_point import FixedPoint, convolution
from labkit.fixed_point.arithmetic import LARGEST_SUM, LIMIT, UNIT, NotCodable, integer_weights, tanh, tanh_table


def exact_convolution(x, weight, bias, stride, padding):
    """The same convolution in Python's integers, one output after the other."""
    integers = np.floor(np.clip(x.double().numpy(), -LIMIT, LIMIT) * UNIT + 0.5).astype(np.int64).astype(object)
    weights = np.floor(weight.detach().double().numpy() * UNIT + 0.5).astype(np.int64).astype(object)
    biases = np.floor(bias.detach().double().numpy() * UNIT**2 + 0.5).astype(np.int64).astype(object)
    padded = np.pad(integers, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    side = weight.size(-1)
    height, width = ((padded.shape[i] - side) // stride + 1 for i in (2, 3))
    out = np.empty((len(x), len(weights), height, width), dtype=object)
    for n, k, i, j in np.ndindex(out.shape):
        patch = padded[n, :, i * stride : i * stride + side, j * stride : j * stride + side]
        out[n, k, i, j] = (int((patch * weights[k]).sum() + biases[k]) + 2**13) // 2**14
    return torch.from_numpy((out.astype(np.float64) / UNIT).astype(np.float32))


@pytest.mark.parametrize("stride, padding, side", [(1, 1, 3), (2, 2, 5), (1, 0, 1)])
def test_a_convolution_equals_that_of_integers(stride, padding, side):
    g = torch.Generator().manual_seed(0)
    x = 300 * torch.randn(2, 5, 9, 8, generator=g)
    x[0, 0, 0, 0], x[1, 2, 3, 3] = 2.0**31, -(2.0**40)  # what a damaged string may decode to
    layer = nn.Conv2d(5, 4, side, stride, padding)
    with torch.no_grad(), FixedPoint():
        y = layer(x)
    assert torch.equal(y, exact_convolution(x, layer.weight, layer.bias, stride, padding))


def test_a_transposed_convolution_is_the_gradient_of_a_convolution():
    g = torch.Generator().manual_seed(1)
    x = torch.floor(100 * torch.randn(1, 6, 5, 7, generator=g)) / 64
    layer = nn.ConvTranspose2d(6, 3, 5, stride=2, padding=2, output_padding=1)
    with torch.no_grad(), FixedPoint():
        y = layer(x)
    weight, bias = integer_weights(layer.weight, layer.bias, transposed=True)
    image = torch.zeros(1, 3, 10, 14, dtype=torch.float64, requires_grad=True)
    product = (F.conv2d(image, weight, stride=2, padding=2) * (x.double() * UNIT)).sum()  # linear in the image
    (total,) = torch.autograd.grad(product, image)
    wanted = torch.floor((total + bias.view(1, -1, 1, 1)) / UNIT + 0.5) / UNIT
    assert torch.equal(y, wanted.float())


GEOMETRIES = [(1, 1, 0), (3, 1, 1), (3, 1, 0), (5, 1, 2), (5, 1, 4), (2, 1, 3), ((3, 1), 1, 0), (3, 2, 1)]
TRANSPOSED = [(2, 2, 0), (5, 2, 2, 1), (5, 3, 4, 2), (3, 4, 0, 3), (4, 2, 3), (1, 3, 0)]


@pytest.mark.parametrize("values", [1, 2**20])
@pytest.mark.parametrize(
    "kind, geometry",
    [(nn.Conv2d, each) for each in GEOMETRIES] + [(nn.ConvTranspose2d, each) for each in GEOMETRIES + TRANSPOSED],
)
def test_every_geometry_gives_the_sums_of_torch(kind, geometry, values, monkeypatch):
    """Also with strides beyond the kernel, output padding, and outputs computed row by row."""
    monkeypatch.setattr(convolution, "VALUES", values)
    g = torch.Generator().manual_seed(2)
    layer = kind(3, 4, *geometry)
    for height, width in ((9, 7), (7, 9)):
        x = torch.floor(100 * torch.randn(2, 3, height, width, generator=g)) / 64
        with torch.no_grad(), FixedPoint():
            y = layer(x)
        exact = copy.deepcopy(layer).double()
        weight, bias = integer_weights(layer.weight, layer.bias, transposed=kind is nn.ConvTranspose2d)
        exact.weight.data, exact.bias.data = weight, bias
        with torch.no_grad():
            sums = exact(x.double() * UNIT)
        assert torch.equal(y, (torch.floor(sums / UNIT + 0.5) / UNIT).float())


def test_a_whole_hyper_decoder_equals_integers_from_symbols_to_indexes():
    """Every table index and every μ, against Python's integers and fractions; one symbol is clamped."""
    net = networks.build("mean_scale_hyperprior", 2, 4).eval()
    net.update()
    g = torch.Generator().manual_seed(0)
    z = torch.round(4 * torch.randn(1, 2, 2, 3, generator=g))
    z[0, 0, 0, 0] = 2.0**31
    with torch.no_grad():
        net.h_s[4].bias[:4] += 1  # σ above the lowest table
    with torch.no_grad(), FixedPoint():
        scales, means = net.h_s(z).chunk(2, 1)
        indexes = net.gaussian_conditional.build_indexes(scales)

    x, first, second, last = z, net.h_s[0], net.h_s[2], net.h_s[4]
    for layer in (first, second):
        n, channels, height, width = x.shape
        between = torch.zeros(n, channels, 2 * height, 2 * width)
        between[:, :, ::2, ::2] = x
        x = exact_convolution(between, layer.weight.transpose(0, 1).flip(2, 3), layer.bias, stride=1, padding=2)
        slope = float(np.float32(net.h_s[1].negative_slope))
        x = torch.where(x > 0, x, (x.double() * slope).float())  # 48 digits, which float64 holds; then one rounding
    exact = exact_convolution(x, last.weight, last.bias, stride=1, padding=1)
    table = [Fraction(bound) for bound in net.gaussian_conditional.scale_table[:-1].tolist()]
    wanted = [sum(Fraction(sigma) > bound for bound in table) for sigma in exact[:, :4].flatten().tolist()]
    assert indexes.flatten().tolist() == wanted and torch.equal(means, exact[:, 4:])
    assert len(set(wanted)) >= 5


def test_sums_stay_exact_up_to_the_bound():
    """The largest inputs and weights that are allowed, and one input that makes the sum odd."""
    share = LARGEST_SUM / (LIMIT * UNIT) / UNIT / 64  # of 64 weights that together just miss the bound
    layer = nn.Conv2d(64, 1, 1)
    with torch.no_grad():
        layer.weight.fill_(share - 2 / UNIT)
        layer.bias.fill_(1 / UNIT)
    x = torch.full((1, 64, 1, 1), 2.0**20)  # clamped to 2¹³
    x[0, 0] = 1 / UNIT
    with torch.no_grad(), FixedPoint() as mode:
        y = layer(x).double()
        (weight, bias), *_ = mode._integers.values()
    total = sum(int(w) * n for w, n in zip(weight.flatten().tolist(), [1] + [2**27] * 63, strict=True)) + int(bias)
    assert total < LARGEST_SUM and y.item() == np.float32(((total + 2**13) // 2**14) / UNIT)
    with torch.no_grad():
        layer.weight.fill_(share + 1)
    with pytest.raises(
        ValueError, match=r"^a convolution is too large for exact sums: .* and fixed point allows less than 2048$"
    ):
        integer_weights(layer.weight, layer.bias)


def test_tanh_is_rounded_correctly_everywhere():
    """Against tanh in 40 digits, at every point of the table that is nearest to a tie, and at 2,000 others."""
    getcontext().prec = 40
    k = np.arange(len(tanh_table()))
    distance = np.abs((np.tanh(k / UNIT) * UNIT) % 1 - 0.5)
    assert distance.min() > 1e-7  # a hundred thousand times the error of any mathematical library
    for i in [*np.argsort(distance)[:50], *np.random.default_rng(0).integers(0, len(k), 2000)]:
        e = (Decimal(2) * int(i) / 2**14).exp()
        assert tanh_table()[i] == math.floor((e - 1) / (e + 1) * 2**14 + Decimal("0.5")), i
    x = torch.tensor([0.0, -0.5, 0.5, 7.0, -1e9, 1e-6])
    assert torch.equal(tanh(x)[2], -tanh(x)[1]) and tanh(x)[3] == 1 and tanh(x)[4] == -1 and tanh(x)[5] == 0


@pytest.mark.parametrize(
    "layer, name",
    [
        (nn.GELU(), "gelu"),
        (nn.Softplus(), "softplus"),
        (nn.Linear(4, 4), "addmm|mm|linear"),
        (nn.BatchNorm2d(3).eval(), "batch_norm"),
        (lambda x: x.mean((2, 3)), "mean"),
        (lambda x: torch.add(x, x, alpha=0.3), "add"),
    ],
)
def test_what_is_not_exact_is_refused_by_name(layer, name):
    message = rf"({name}).* is a floating-point operation between the symbols"
    with pytest.raises(ValueError, match=message), torch.no_grad(), FixedPoint():
        layer(torch.randn(2, 3, 4, 4))


def test_values_that_are_not_finite_are_refused_by_the_layer_that_reads_them():
    layer = nn.Conv2d(1, 1, 1)
    mode = FixedPoint({id(layer.weight): "h_s.0.weight"})
    with pytest.raises(NotCodable, match=r"^h_s\.0\.weight is given values that are not finite"), torch.no_grad(), mode:
        layer(torch.full((1, 1, 1, 1), math.nan))
