"""What `decompress` says about strings and shapes that `compress` never returned."""

import pytest
import torch

import labkit as lk

KINDS = {"factorized_prior": 1, "mean_scale_hyperprior": 2, "joint_autoregressive": 2}
SLOW = {"elic": 11, "channel_autoregressive": 11}


@pytest.fixture(scope="module", params=[*KINDS, *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)])
def net(request):
    net = lk.networks.get(request.param, "tiny", seed=0).eval()
    net.update()
    return net


@pytest.fixture(scope="module")
def coded(net):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return net.compress(images)


def wrong_strings(strings):
    """Yield what is wrong, and strings of which something is."""
    first, *rest = strings
    yield "no list", b"12345678"
    yield "none", None
    yield "no groups", []
    yield "empty groups", [[] for _ in strings]
    yield "a string for a group", [b"12345678" for _ in strings]
    yield "numbers", [[1, 2] for _ in strings]
    yield "text", [["12345678"] * 2 for _ in strings]
    yield "empty strings", [[b"", b""] for _ in strings]
    yield "short strings", [[b"1234"] * 2 for _ in strings]
    yield "one group too many", [*strings, first]
    yield "one group too many at the start", [first, *strings]
    yield "one group too few", rest
    yield "only one group", [first] if rest else [first, first]
    yield "an image less in one group", [first[:1], *rest] if rest else [[]]
    yield "an image more in one group", [[*first, first[0]], *rest] if rest else [[*first, b""]]


def check(net, strings, shape):
    with pytest.raises(ValueError) as caught:
        net.decompress(strings, shape)
    message = str(caught.value)
    assert "\n" not in message and 10 < len(message) < 300, message


def test_wrong_strings_are_refused_in_one_line(net, coded):
    assert len(coded["strings"]) == (KINDS | SLOW)[net.kind]
    for _, strings in wrong_strings(coded["strings"]):
        check(net, strings, coded["shape"])
    assert torch.isfinite(net.decompress(coded["strings"], coded["shape"])["x_hat"]).all()


def larger(shape, factor):
    if isinstance(shape, dict):
        return {key: larger(value, factor) for key, value in shape.items()}
    if isinstance(shape, list):
        return [larger(value, factor) for value in shape]
    return (*shape[:-2], *(factor * side for side in shape[-2:]))


def test_a_wrong_shape_is_refused_in_one_line(net, coded):
    shape = coded["shape"]
    wrong = [
        None,
        3,
        (),
        (1,),
        (0, 0),
        (-1, -1),
        (1.5, 1.5),
        "12",
        {"y": shape},
        larger(shape, 2),
        larger(shape, 10_000),
    ]
    if isinstance(shape, dict):
        wrong += [{"hyper": shape["hyper"], "y": shape["y"][:-1]}, {"hyper": (2, 2), "y": shape["y"]}]
    for each in wrong:
        check(net, coded["strings"], each)


def test_the_path_in_floating_point_refuses_them_too():
    net = lk.portable(lk.networks.get("mean_scale_hyperprior", "tiny", seed=0).eval(), False)
    net.update()
    coded = net.compress(torch.zeros(2, 3, 64, 64))
    for _, strings in wrong_strings(coded["strings"]):
        check(net, strings, coded["shape"])
    check(net, coded["strings"], (10_000, 10_000))
