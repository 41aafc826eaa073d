"""Every image codec has the architecture, keys and bytes of CompressAI, trains with a scheme, and has known costs.

CompressAI has no channel-wise autoregressive model; the tests use one written here from CompressAI's layers.
"""

import copy
import inspect

import compressai.layers as layers
import compressai.models as models
import pytest
import torch
from compressai.registry import MODELS
from torch import nn

import labkit as lk
from labkit import defaults, entropy, networks, schemes, training


class MinnenSingh(models.CompressionModel):
    """The channel-wise autoregressive model, written from the text of the paper with a plain loop over slices.

    At M = 320 the channel counts are those of the authors' code, and other sizes scale them. Keys are those of labkit.
    """

    def __init__(self, N, M):
        super().__init__()
        self.N, self.M = N, M
        wide, context = 256 * M // 320, (224 * M // 320, 128 * M // 320)
        conv, deconv, GDN = models.utils.conv, models.utils.deconv, layers.GDN
        down = [part for width in (3, N, N) for part in (conv(width, N), GDN(N))]
        up = [part for width in (M, N, N) for part in (deconv(width, N), GDN(N, inverse=True))]
        self.g_a, self.g_s = nn.Sequential(*down, conv(N, M)), nn.Sequential(*up, deconv(N, 3))

        def transform(inputs):
            first, second = conv(inputs, context[0], 5, 1), conv(context[0], context[1], 5, 1)
            return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), conv(context[1], M // 10, 3, 1))

        def slice_parts(support):
            means, scales = transform(M + support), transform(M + support)
            parameters = nn.ModuleDict({"means": means, "scales": scales})
            parts = {"gaussian_conditional": models.base.GaussianConditional(None), "entropy_parameters": parameters}
            return nn.ModuleDict(parts | {"residual": transform(M + support + M // 10)})

        def branch():
            first, second = deconv(N, N), deconv(N, wide)
            return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), conv(wide, M, 3, 1), nn.ReLU())

        last = nn.Conv2d(wide, N, 5, 2, 2, bias=False)
        hyper = {
            "entropy_bottleneck": models.base.EntropyBottleneck(N),
            "h_a": nn.Sequential(conv(M, M, 3, 1), nn.ReLU(), conv(M, wide), nn.ReLU(), last),
            "h_s": nn.ModuleDict({"means": branch(), "scales": branch()}),
        }
        slices = nn.ModuleDict({f"y{k}": slice_parts(M // 10 * min(k, 5)) for k in range(10)})
        y = nn.ModuleDict({"latent_codec": slices})
        self.latent_codec = nn.ModuleDict({"y": y, "hyper": nn.ModuleDict(hyper)})

    def decoded(self, z_hat, coded):
        """Return ŷ; `coded(k, gaussian, σ, μ)` returns slice k before latent residual prediction."""
        branches, parts = self.latent_codec["hyper"]["h_s"], self.latent_codec["y"]["latent_codec"]
        means, scales, slices = branches["means"](z_hat), branches["scales"](z_hat), []
        for k, part in enumerate(parts.values()):
            mean_support = torch.cat([means, *slices[:5]], 1)
            mu = part["entropy_parameters"]["means"](mean_support)
            sigma = part["entropy_parameters"]["scales"](torch.cat([scales, *slices[:5]], 1))
            y_hat = coded(k, part["gaussian_conditional"], sigma, mu)
            slices.append(y_hat + torch.tanh(part["residual"](torch.cat([mean_support, y_hat], 1))) / 2)
        return torch.cat(slices, 1)

    def forward(self, x):
        y, likelihoods = self.g_a(x), []
        z_hat, z_likelihood = self.latent_codec["hyper"]["entropy_bottleneck"](self.latent_codec["hyper"]["h_a"](y))

        def coded(k, gaussian, sigma, mu):
            y_hat, likelihood = gaussian(y.chunk(10, 1)[k], sigma, means=mu)
            likelihoods.append(likelihood)
            return y_hat

        x_hat = self.g_s(self.decoded(z_hat, coded))
        return {"x_hat": x_hat, "likelihoods": {"y": torch.cat(likelihoods, 1), "z": z_likelihood}}

    def compress(self, x):
        y, strings, bottleneck = self.g_a(x), [], self.latent_codec["hyper"]["entropy_bottleneck"]
        z = self.latent_codec["hyper"]["h_a"](y)
        z_string, size = bottleneck.compress(z), z.shape[2:]

        def coded(k, gaussian, sigma, mu):
            strings.append(gaussian.compress(y.chunk(10, 1)[k], gaussian.build_indexes(sigma), mu))
            return gaussian.decompress(strings[-1], gaussian.build_indexes(sigma), means=mu)

        self.decoded(bottleneck.decompress(z_string, size), coded)
        return {
            "strings": [*strings, z_string],
            "shape": {"y": [part[0].shape for part in y.chunk(10, 1)], "hyper": size},
        }

    def decompress(self, strings, shape):
        z_hat = self.latent_codec["hyper"]["entropy_bottleneck"].decompress(strings[-1], shape["hyper"])

        def coded(k, gaussian, sigma, mu):
            return gaussian.decompress(strings[k], gaussian.build_indexes(sigma), means=mu)

        return {"x_hat": self.g_s(self.decoded(z_hat, coded)).clamp(0, 1)}


THEIRS = {
    "factorized_prior": models.FactorizedPrior,
    "scale_hyperprior": models.ScaleHyperprior,
    "mean_scale_hyperprior": models.MeanScaleHyperprior,
    "joint_autoregressive": models.JointAutoregressiveHierarchicalPriors,
    "cheng2020_anchor": lambda N, M: models.Cheng2020Anchor(N),
    "cheng2020_attention": lambda N, M: models.Cheng2020Attention(N),
    "elic": lambda N, M: models.Elic2022Official(N, M, [M * share // 20 for share in (1, 1, 2, 4, 12)]),
    "channel_autoregressive": MinnenSingh,
}
SEQUENTIAL = ("joint_autoregressive", "cheng2020_anchor", "cheng2020_attention")
CARRIERS = {name: 2 for name in THEIRS} | {"factorized_prior": 1, "elic": 6, "channel_autoregressive": 11}
every_network = pytest.mark.parametrize("name", THEIRS)


def image(batch=1, height=64, width=64):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def flat(output):
    return {"x_hat": output["x_hat"], **output["likelihoods"]}


def differences(a, b):
    """Return the names of the outputs in which a and b differ."""
    return {key for key, value in flat(b).items() if not torch.equal(flat(a)[key], value)}


@torch.no_grad()
def spread(model):
    """Scale the last layers of the analysis transforms so that latents cover several integers."""
    for path, part in model.eval().named_modules():
        if path.rpartition(".")[2] in ("g_a", "h_a"):
            last = [layer for layer in part if isinstance(layer, nn.Conv2d)][-1]
            values = []
            handle = last.register_forward_hook(lambda _module, _inputs, output, values=values: values.append(output))
            model(image())
            handle.remove()
            for parameter in last.parameters():
                parameter.mul_(3 / values[-1].std())


_built = {}


@pytest.fixture
def theirs(name):
    """CompressAI's tiny model with tables, medians other than zero, and latents that cover several integers."""
    if name not in _built:
        torch.manual_seed(3)
        model = THEIRS[name](*networks.SIZES[name]["tiny"]).eval()
        spread(model)
        for part in model.modules():
            if isinstance(part, models.base.EntropyBottleneck):
                part.quantiles.data[:, :, 1].uniform_(-0.4, 0.4)
        model.update()
        _built[name] = model
    return copy.deepcopy(_built[name])


def ours_like(name, theirs, scheme=None):
    net = networks.get(name, "tiny", scheme)
    net.load_state_dict(theirs.state_dict())
    return net.eval()


# Evaluation and coding are CompressAI's -------------------------------------------------------------------------------


@pytest.mark.slow
@every_network
@torch.no_grad()
def test_state_dicts_load_in_both_directions_and_evaluation_is_identical(name, theirs):
    """Outputs, strings and decoded images agree, also after loading the weights back into CompressAI's model."""
    ours = ours_like(name, theirs)
    back = THEIRS[name](ours.N, ours.M).eval()
    back.load_state_dict(ours.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = image(1, 64, 128)
    output, coded = theirs(x), theirs.compress(x)
    decoded = theirs.decompress(coded["strings"], coded["shape"])["x_hat"]
    assert sum(len(string) for group in coded["strings"] for string in group) > 100  # something was coded
    lk.portable(ours, False)
    for net in (ours, back, copy.deepcopy(ours)):
        assert not differences(net(x), output)
        again = net.compress(x)
        assert again["strings"] == coded["strings"] and again["shape"] == coded["shape"]
        assert torch.equal(net.decompress(again["strings"], again["shape"])["x_hat"], decoded)


@pytest.mark.slow
@every_network
@torch.no_grad()
def test_portable_coding_decodes_what_floating_point_decodes(name, theirs):
    """Fixed point rounds μ to 14 binary digits. Few latents lie so close to a tie that they change by a step."""
    net, x, decoded = ours_like(name, theirs), image(1, 64, 128), {}
    for portable in (True, False):
        coded = lk.portable(net, portable).compress(x)
        assert coded["arithmetic"] == ("fixed-1" if portable else "floating-point")
        decoded[portable] = net.decompress(**coded)["x_hat"]
    difference = (decoded[True] - decoded[False]).abs()
    assert difference.median() < 1e-4 and (difference > 1 / 255).float().mean() < 0.01
    del coded["arithmetic"]
    with pytest.raises(ValueError, match=r"coded in fixed-1 arithmetic and the model decodes in floating-point: call"):
        net.decompress(**coded, arithmetic="fixed-1")


@pytest.mark.slow
@every_network
def test_paper_size_has_the_published_shapes(name):
    """CompressAI's class with the published channel counts has the same keys, shapes and parameter count."""
    N, M = (192, 192) if name.startswith("cheng") else (192, 320)
    model = models.Elic2022Official() if name == "elic" else THEIRS[name](N, M)
    net = networks.get(name, "paper")
    assert (net.N, net.M, net.size, net.kind) == (N, M, "paper", name)
    assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    row = networks.table().set_index(["network", "size"]).loc[(name, "paper")]
    assert row["parameters"] == sum(p.numel() for p in model.parameters())


@every_network
@torch.no_grad()
def test_the_decoder_reconstructs_the_latent_of_the_encoder(name, theirs, monkeypatch):
    """Compare the latents at the input of the synthesis transform, with a scale bound other than 0.11."""
    with pytest.warns(UserWarning, match="scale bound") if name != "factorized_prior" else pytest.MonkeyPatch.context():
        net = lk.portable(ours_like(name, theirs, schemes.noise(scale_lower_bound=0.3)), False)
    net.update()
    x, encoders, decoded = image(1, 64, 128), [], []
    if name in SEQUENTIAL:
        code = net._compress_ar  # it changes ŷ in place, with a border of two
        monkeypatch.setattr(net, "_compress_ar", lambda y_hat, *rest: (code(y_hat, *rest), encoders.append(y_hat))[0])
    coded = net.compress(x)
    handle = net.g_s.register_forward_pre_hook(lambda _module, inputs: decoded.append(inputs[0].clone()))
    net.decompress(**coded)
    handle.remove()
    if name in SEQUENTIAL:
        expected = encoders[0][..., 2:-2, 2:-2]
    elif name == "elic":
        expected = coded["y_hat"]
    else:  # the input of the synthesis transform in the evaluation forward
        handle = net.g_s.register_forward_pre_hook(lambda _module, inputs: encoders.append(inputs[0].clone()))
        net(x)
        handle.remove()
        expected = encoders[0]
    assert len(expected.round().unique()) > 3
    assert torch.equal(decoded[0], expected)


every_size = pytest.mark.parametrize(
    "size", ["tiny", *(pytest.param(each, marks=pytest.mark.slow) for each in ("small", "paper"))]
)


@every_size
@every_network
def test_every_size_decodes_its_rounded_latents_after_a_training_step(name, size, train_photos, monkeypatch):
    """The decoded image equals the reconstruction of the evaluation forward, or that of the encoder's latent.

    The second case applies to codecs that code pixel by pixel, and to ELIC. The forward of ELIC predicts the means in
    one pass and its coder in two passes, so the means may differ in their last bits.
    """
    net = lk.portable(networks.get(name, size, schemes.mixed(), seed=2), False)
    spread(net)
    first = next(net.g_a.parameters())
    before = first.detach().clone()
    (step,) = training.stream(net, train_photos[:1], lmbda=0.01, steps=1, crop=64, batch_size=1)
    assert step.loss > 0 and not torch.equal(first, before)
    net.update()
    x, latents = train_photos[1][None, :, :64, :64], []
    with torch.no_grad():
        if name in SEQUENTIAL:  # it changes ŷ in place, with a border of two
            code = net._compress_ar
            keep = lambda y_hat, *rest: (code(y_hat, *rest), latents.append(y_hat[..., 2:-2, 2:-2]))[0]  # noqa: E731
            monkeypatch.setattr(net, "_compress_ar", keep)
        handle = net.g_s.register_forward_pre_hook(lambda _module, inputs: latents.append(inputs[0].clone()))
        coded = net.compress(x)
        decoded = net.decompress(coded["strings"], coded["shape"])["x_hat"]
        handle.remove()
        rounded = net(x)["x_hat"]
        if name == "elic":
            torch.testing.assert_close(decoded, rounded.clamp(0, 1), rtol=0, atol=1e-4)
            latents = [coded["y_hat"]]
        if name in (*SEQUENTIAL, "elic"):
            rounded = net.g_s(latents[0])
    assert len(latents[0].round().unique()) > 3
    assert torch.equal(decoded, rounded.clamp(0, 1))


@pytest.mark.slow
@every_network
@torch.no_grad()
def test_a_checkpoint_of_compressai_loads_and_codes_identically(name):
    """Load a state dict with tables from a model of CompressAI in the published size."""
    torch.manual_seed(3)
    model = THEIRS[name](*networks.SIZES[name]["paper"])
    spread(model)
    model.update()
    net = networks.get(name, "paper").eval()
    net.load_state_dict(model.state_dict())
    x = image()
    assert not differences(net(x), model(x))
    coded = model.compress(x)
    assert (
        lk.portable(net, False).compress(x)["strings"] == coded["strings"]
        and sum(len(group[0]) for group in coded["strings"]) > 200
    )


def test_from_state_dict_works_as_in_compressai():
    for cls, model in (
        (networks.ChannelAutoregressive, MinnenSingh(24, 40)),
        (networks.Cheng2020Anchor, models.Cheng2020Anchor(24)),
        (networks.Cheng2020Attention, models.Cheng2020Attention(24)),
        (networks.JointAutoregressive, models.JointAutoregressiveHierarchicalPriors(24, 36)),
    ):
        net = cls.from_state_dict(model.state_dict())
        assert type(net) is cls and (net.N, net.M) == (model.N, model.M)
        assert len(entropy.carriers(net)) == CARRIERS[cls.kind]


# Training follows the scheme ------------------------------------------------------------------------------------------


@every_network
def test_the_scheme_reaches_every_carrier(name):
    first, second = schemes.annealed(scale_lower_bound=0.2), schemes.straight_through(scale_lower_bound=0.3)
    net = networks.get(name, scheme=first)
    net.update()
    for scheme in (first, second):
        net.set_scheme(scheme)
        carriers = entropy.carriers(net)
        assert net.scheme is scheme and len(carriers) == CARRIERS[name]
        assert all(carrier.scheme is scheme for carrier in carriers)
        bounds = [float(c.lower_bound_scale.bound) for c in carriers if isinstance(c, entropy.GaussianConditional)]
        assert bounds == pytest.approx([scheme.scale_lower_bound] * (CARRIERS[name] - 1))
        assert {id(m) for m in net.modules() if "scheme" in vars(m)} == {id(m) for m in (net, *carriers)}
        bottleneck = next(c for c in carriers if isinstance(c, entropy.EntropyBottleneck))
        assert bottleneck.main == (name == "factorized_prior")


@every_network
@torch.no_grad()
def test_each_path_is_random_exactly_if_its_surrogate_is(name, theirs):
    """Outputs of training forwards with different seeds differ exactly if they depend on noise."""
    net = ours_like(name, theirs)
    x, latents = image(2), {"y", "z"} if name != "factorized_prior" else {"y"}
    seen = {}
    for scheme in ("straight_through", "mixed", "noise"):
        net.set_scheme(schemes.get(scheme))
        outputs = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            outputs.append(net.train()(x))
        seen[scheme] = differences(*outputs)
    assert seen == {"straight_through": set(), "mixed": latents, "noise": {"x_hat", *latents}}


@every_network
def test_training_equals_training_of_the_adopted_model(name, theirs):
    """With the same seed, outputs and gradients equal those of CompressAI's model after `adopt`."""
    scheme = schemes.stochastic_rounding(0.5)
    net = ours_like(name, theirs, scheme)
    x, outputs = image(2), []
    for model in (net, lk.adopt(theirs, scheme)):
        torch.manual_seed(5)
        outputs.append(model.train()(x))
        training.rate_distortion(outputs[-1], x, 0.01).total.backward()
    for key, value in flat(outputs[1]).items():  # the strided skips of Cheng et al. sum in another order
        torch.testing.assert_close(flat(outputs[0])[key], value, rtol=1e-4, atol=1e-6, msg=key)
    for (key, ours), other in zip(net.named_parameters(), theirs.parameters(), strict=True):
        if other.grad is not None:
            size = other.grad.abs().max()
            torch.testing.assert_close(ours.grad, other.grad, rtol=1e-3, atol=1e-4 * float(size), msg=key)


@every_network
def test_a_few_steps_lower_the_loss(name):
    """The loss is measured on one fixed batch with fixed noise, but training uses other crops and noise."""
    net = networks.get(name, "tiny", schemes.mixed(), seed=1)
    photos = lk.datasets.photos("train")[:4]
    batch = photos.crops(4, 64, torch.Generator().manual_seed(9))

    @torch.no_grad()
    def loss():
        torch.manual_seed(0)
        return training.rate_distortion(net.train()(batch), batch, 0.01).total.item()

    before = loss()
    steps = list(
        training.stream(net, photos, lmbda=0.01, steps=12, crop=64, batch_size=4, lr=5e-3, precision="float32")
    )
    assert len(steps) == 12 and loss() < 0.8 * before


def test_chengs_strided_skips_train_in_the_channels_last_layout():
    """Compare gradients in the channels-last layout with those of CompressAI in the default layout."""
    torch.manual_seed(0)
    model = models.Cheng2020Anchor(24).train()
    net = networks.cheng2020_anchor().train()
    net.load_state_dict(model.state_dict())
    net.to(memory_format=torch.channels_last)
    x = image(1, 128, 128)
    for g_a, batch in ((model.g_a, x), (net.g_a, x.contiguous(memory_format=torch.channels_last))):
        g_a(batch).square().sum().backward()
    for i in (0, 2, 4):
        ours, other = net.g_a[i].skip.weight.grad, model.g_a[i].skip.weight.grad
        torch.testing.assert_close(ours, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


@every_network
@torch.no_grad()
def test_checkpoints_survive_a_round_trip(name, theirs, tmp_path):
    scheme = schemes.annealed()
    net = ours_like(name, theirs, scheme)
    training.save_checkpoint(net, tmp_path / "net.safetensors", lmbda=0.01)
    again, info = training.load_checkpoint(tmp_path / "net.safetensors", network=name)
    assert type(again) is type(net) and again.scheme == scheme
    assert (info["network"], info["size"], info["channels"]) == (name, "tiny", [net.N, net.M])
    x = image()
    assert not differences(again(x), net(x)) and again.compress(x)["strings"] == net.compress(x)["strings"]


# By name --------------------------------------------------------------------------------------------------------------


def test_table_has_a_row_for_each_network_and_size():
    table = networks.table()
    assert list(table["network"].unique()) == list(networks.names())
    assert [name for name in networks.names() if not name.startswith("patch")] == list(THEIRS)
    assert list(zip(table["network"], table["size"], strict=True)) == [
        (name, size) for name in networks.names() for size in networks.SIZES[name]
    ]
    assert (table["latents_per_pixel"] == table["M"] / 256).sum() == 3 + 2  # codecs without z
    table = table[table["network"].isin(THEIRS)]
    assert list(table["size"]) == ["tiny", "small", "paper"] * len(THEIRS)
    assert table["year"].between(2017, 2022).all() and table["paper"].str.contains(" et al., | & ").all()
    for _, rows in table.groupby("network"):
        assert rows["parameters"].is_monotonic_increasing and rows["macs_per_pixel"].is_monotonic_increasing


@pytest.mark.parametrize("size", ["tiny", "small", "paper"])
def test_multiply_adds_of_the_factorized_prior_equal_the_count_by_hand(size):
    """Count four 5×5 layers each way on 1/4 to 1/256 of the pixels, N×N for GDN, and 66 per likelihood."""
    N, M = networks.SIZES["factorized_prior"][size]
    one_way = 25 * (3 * N / 4 + N * N / 16 + N * N / 64 + N * M / 256) + N * N * (1 / 4 + 1 / 16 + 1 / 64)
    likelihood = 2 * (1 * 3 + 3 * 3 + 3 * 3 + 3 * 3 + 3 * 1)  # the cumulative function at both ends of a bin
    row = networks.table().set_index(["network", "size"]).loc[("factorized_prior", size)]
    assert row["macs_per_pixel"] == pytest.approx(2 * one_way + likelihood * M / 256, rel=1e-12)


@every_network
def test_each_network_has_a_constructor_with_its_name(name):
    make = getattr(networks, name)
    net, same = make("tiny", seed=4), networks.get(name, "tiny", seed=4)
    assert type(net) is type(same) and net.kind == make.__name__ == name and net.downsampling_factor in (16, 64)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), same.parameters(), strict=True))
    assert list(inspect.signature(make).parameters) == ["size", "scheme", "seed"]
    assert net.scheme == schemes.get(defaults.SCHEME)


@pytest.mark.parametrize("alias, name", networks.ALIASES.items())
def test_names_of_compressai_are_accepted(alias, name, tmp_path):
    for spelling in (alias, alias.replace("-", "_")):
        net, same = networks.get(spelling, seed=4), networks.get(name, seed=4)
        assert net.kind == name and training.weights_hash(net) == training.weights_hash(same)
        assert networks.build(spelling, 40, 40).kind == name
        training.save_checkpoint(net, tmp_path / "net.safetensors")
        _, info = training.load_checkpoint(tmp_path / "net.safetensors", network=spelling)
        assert info["network"] == name
        with pytest.raises(ValueError, match="does not fit"):
            training.load_checkpoint(tmp_path / "net.safetensors", network="mbt2018" if name == "elic" else "elic")
        assert networks.pretrained_lmbdas(spelling) == networks.pretrained_lmbdas(name)


def test_aliases_are_those_of_compressais_zoo_and_registry():
    for alias, name in networks.ALIASES.items():
        assert MODELS[alias] in type(networks.get(name)).__mro__
    assert networks.pretrained("mbt2018-mean").kind == "mean_scale_hyperprior"


@pytest.mark.parametrize(
    "wrong, near",
    [("elik", "elic"), ("cheng2020_atention", "cheng2020_attention"), ("joint", "joint_autoregressive")],
)
def test_unknown_names_suggest_similar_ones(wrong, near):
    for make in (networks.get, lambda name: networks.build(name, 24, 40)):
        with pytest.raises(ValueError, match=f"unknown network '{wrong}'; did you mean {near}"):
            make(wrong)


def test_impossible_channel_counts_are_refused():
    with pytest.raises(ValueError, match=r"M must equal N = 24 .*, got 36"):
        networks.build("cheng2020_anchor", 24, 36)
    with pytest.raises(ValueError, match=r"M must be an integer ≥ 20 .*, got 19"):
        networks.build("elic", 24, 19)
    with pytest.raises(ValueError, match=r"M must be a multiple of 10, .*, got 36"):
        networks.build("channel_autoregressive", 24, 36)
    assert networks.build("elic", 24, 36).latent_codec["y"].groups == [1, 1, 3, 7, 24]


@every_network
@torch.no_grad()
def test_coded_shape_follows_from_the_size_of_the_image(name, theirs):
    net = ours_like(name, theirs)
    assert net.compress(image(1, 128, 64))["shape"] == net.coded_shape(128, 64)
