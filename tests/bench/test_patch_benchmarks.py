"""The pure parts of the benchmarks of patch codecs and of large images."""

import json
import math
import statistics

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from labkit import datasets, evaluation, networks, paths, schemes
from labkit.evaluation import Report
from labkit.evaluation.report import AVERAGED
from labkit.networks.patch_start import dct_basis
from tests.bench import large, patch_codecs, patch_limits, self_tuned
from tests.bench.common import Rows, curve


def report(bpp, psnr):
    image = {"name": "a", "height": 8, "width": 8}
    return Report([dict.fromkeys(AVERAGED, math.nan) | image | {"bpp": bpp, "psnr": psnr}], {})


def test_patches_are_those_of_a_loop_and_a_whole_basis_loses_nothing():
    image = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0))
    x = patch_limits.patches(image)
    loop = [image[:, i : i + 16, j : j + 16].flatten() for i in (0, 16) for j in (0, 16, 32)]
    assert torch.equal(x, torch.stack(loop).double())
    middle = torch.full((768,), 0.5).double()
    basis = dct_basis(768).flatten(1).double()
    assert patch_limits.ceiling(x, basis, middle) > 100
    coefficients = (x - middle) @ basis[:96].T
    error = (middle + coefficients @ basis[:96] - x).square().mean().item()
    assert patch_limits.ceiling(x, basis[:96], middle) == pytest.approx(-10 * math.log10(error))


def test_principal_components_lose_no_more_energy_than_the_dct_on_their_own_patches():
    photos = datasets.PhotoSet([datasets.photos("train").images[0][:, :80, :80]], ["a"])
    components, mean = patch_limits.principal_components(photos)
    assert torch.allclose(components @ components.T, torch.eye(768).double(), atol=1e-9)
    x = patch_limits.patches(photos[0], 8)
    assert torch.allclose(mean, x.mean(0))
    dct = dct_basis(768).flatten(1).double()
    for M in (8, 40):
        assert patch_limits.ceiling(x, components[:M], mean) > patch_limits.ceiling(x, dct[:M], mean)


def test_entropies_are_those_of_the_counts():
    latents = [torch.tensor([[[[0.0, 0.0], [1.0, 1.0]], [[5.0, 5.0], [5.0, 5.0]]]])]
    assert patch_limits.channel_entropies(latents).tolist() == [1, 0]


def test_a_started_codec_is_untrained_and_its_loss_is_above_the_ideal_one():
    photos = datasets.PhotoSet([photo[:, :64, :64] for photo in datasets.photos("test").images[:2]], ["a", "b"])
    row = patch_limits.untrained("patch_linear", 0.0067, photos)
    assert row["ideal_loss"] < row["loss"] and 15 < row["psnr"] < 45
    directions = patch_limits.started("patch_linear", 0.0067).g_s[-1].weight.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(directions, dct_basis(len(directions)).flatten(1))
    assert cosine.min() > 0.999


def test_classical_curves_pass_through_their_points_and_end_with_them():
    anchor = [report(0.2, 26.0), report(0.8, 31.0)]
    assert patch_codecs.interpolated(anchor, math.log(0.2)) == pytest.approx(26)
    assert patch_codecs.interpolated(anchor, math.log(0.4)) == pytest.approx(28.5)
    assert math.isnan(patch_codecs.interpolated(anchor, math.log(0.1)))
    assert patch_codecs.saving(anchor, 0.1, 26.0) == pytest.approx(-50)
    assert patch_codecs.saving(anchor, 0.4, 28.5) == pytest.approx(0)
    assert math.isnan(patch_codecs.saving(anchor, 0.1, 25.0))
    assert [one.mean["bpp"] for one in patch_codecs.within([report(0.1, 20), *anchor], 0.15, 0.6)] == [0.2]


def test_the_excess_is_that_of_equal_seeds():
    assert patch_codecs.excess([1.1, 2.1, 3.0], [1.0, 2.0, 3.0]) == "+5.00% (+0.00 to +10.00)"


def test_a_budget_is_compared_with_the_long_runs_of_its_seeds_once_all_are_there():
    def row(loss, steps=100):
        return {"steps": steps, "seconds": 1.0, "validation": 2 * loss, "kodak": loss}

    name = "budget | patch_mlp λ=0.01 | 15 s | seed {} | {} ×10"
    rows = {name.format(seed, "short"): row(loss, seed) for seed, loss in enumerate((1.1, 2.1, 3.0))}
    rows |= {name.format(seed, "long"): row(loss) for seed, loss in enumerate((1.0, 2.0))}
    assert len(patch_codecs.budget_summary(rows)) == 2  # only the head, because a long run is missing
    rows[name.format(2, "long")] = row(3.0)
    excess = "+5.00% (+0.00 to +10.00)"
    assert patch_codecs.budget_summary(rows)[2:] == [f"| `patch_mlp`, 0.01, 15 s | 1 | 2.1000 | {excess} | {excess} |"]


def test_savings_at_one_rate_are_those_of_a_shifted_curve():
    """A codec that needs half the bits of JPEG at every quality saves 50%."""
    rates = (0.1, 0.2, 0.3, 0.5, 0.9)
    jpeg, half = ([report(share * bpp, 30 + 5 * math.log2(bpp)) for bpp in rates] for share in (1, 0.5))
    (line,) = patch_codecs.curves_summary({"jpeg": jpeg, "webp": jpeg, "half": half})[2:]
    assert line.startswith("| half | -50.0%") and line.endswith("| -50.0% |")


def test_crops_are_central_and_rows_are_measured_once(tmp_path):
    photo = torch.arange(30, dtype=torch.uint8).view(1, 5, 6).expand(3, 5, 6)
    crops = patch_codecs.central_crops(datasets.PhotoSet([photo], ["a"]), 2)
    assert crops.images[0][0].tolist() == [[8, 9], [14, 15]]
    rows = Rows(tmp_path / "rows.json")
    for function in (lambda: 3, None):
        rows.measure("a", str, function)
    assert json.loads((tmp_path / "rows.json").read_text()) == {"a": 3}


def test_tiled_images_have_the_size_and_the_pixels_of_photographs():
    image = large.tiled(300, 700)
    assert image.shape == (3, 300, 700) and image.dtype == torch.uint8
    first = datasets.photos("test").images[0]
    first = first if first.size(1) < first.size(2) else first.mT
    assert torch.equal(image[:, :100, :100], first[:, :100, :100])


@pytest.mark.slow
@pytest.mark.parametrize("command", ["budget", "curves"])
def test_commands_that_train_are_resumed(command, tmp_path, monkeypatch):
    for index, photo in enumerate(datasets.photos("test").images[:2]):
        pixels = photo[:, :192, :192].permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / f"{index}.png")
    options = [command, "--kodak", str(tmp_path), "--json", str(tmp_path / "rows.json")]
    if command == "budget":
        options += f"--validation {tmp_path} --network patch_linear --seconds 1 --seeds 1 --factor 1".split()
    else:
        checkpoint = paths.data() / "weights" / "patch_hyperprior-tiny-0.0067.safetensors"
        options += [str(checkpoint), "--no-bundled", "--table", str(tmp_path / "table.parquet")]
        options += ["--train", "patch_linear", "1", "--lmbda", "0.002", "--lmbda", "0.01"]
    first = CliRunner().invoke(patch_codecs.main, options, catch_exceptions=False)
    monkeypatch.setattr(patch_codecs, "trained", None)
    again = CliRunner().invoke(patch_codecs.main, options, catch_exceptions=False)
    assert again.output.splitlines()[1:] == first.output.splitlines()[1:]
    if command == "curves":
        table = pd.read_parquet(tmp_path / "table.parquet")
        assert set(table["curve"]) == {"jpeg", "webp", "patch_hyperprior, 8,000 steps", "patch_linear, 1 s"}
        assert table["lmbda"].fillna(table["quality"]).notna().all()


@pytest.mark.slow
def test_the_benchmark_of_large_images_measures_both_directions(tmp_path):
    out = tmp_path / "rows.json"
    CliRunner().invoke(large.main, ["--megapixels", "0.1", "--json", str(out)], catch_exceptions=False)
    (row,) = json.loads(out.read_text()).values()
    assert all(row[action]["seconds"] > 0 and row[action]["megabytes"] > 100 for action in ("encode", "decode"))


def test_the_estimated_gain_of_a_linear_decoder_is_the_squared_norm_of_its_columns():
    net = networks.get("patch_linear", scheme=schemes.annealed())
    columns = torch.stack([net.g_s(one[None, :, None, None]).flatten() for one in torch.eye(net.M)])
    columns = columns - net.g_s(torch.zeros(1, net.M, 1, 1)).flatten()
    y = torch.zeros(32, net.M, 8, 8)
    gain = self_tuned.ChannelTemperatures(net, 0.0018, seed=0).gain(y)
    # each of 2,048 squares of a normal number has a relative standard deviation of √2: five deviations are 0.16
    torch.testing.assert_close(gain, columns.square().sum(1).detach(), rtol=0.16, atol=0)


# The bundled tables ---------------------------------------------------------------------------------------------------


RESULTS = paths.data() / "results"


@pytest.fixture(scope="module")
def text():
    return (RESULTS / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rows():
    return json.loads((RESULTS / "patch-codecs.json").read_text())


def test_the_tables_of_patch_codecs_follow_from_their_rows(rows, text):
    table = evaluation.read_table(RESULTS / "patch-codecs.parquet")
    reports = {name: curve(points) for name, points in table.groupby("curve", sort=False)}
    for lines in (patch_codecs.budget_summary(rows), patch_codecs.curves_summary(reports)):
        assert len(lines) >= 6 and "\n".join(lines) in text
    jpeg, webp = (patch_codecs.within(reports[codec], *limits) for codec, limits in patch_codecs.RANGES.items())
    live = evaluation.bd_rate_interval(jpeg, reports["patch_hyperprior, 40 s"])
    context = evaluation.bd_rate_interval(webp, reports["patch_context, 8,000 steps"])
    readme = " ".join((paths.data().parent / "README.md").read_text(encoding="utf-8").split())
    assert f"needs {-live.estimate:.0f}% fewer bits than JPEG on the Kodak images" in readme
    assert f"interval: {-live.high:.0f} to {-live.low:.0f})." in readme and "between 0.15 and 0.6 bits" in readme
    assert f"needs {-context.estimate:.0f}% fewer bits than WebP ({-context.high:.0f} to {-context.low:.0f})" in readme


def test_the_text_states_the_limits_of_untrained_patch_codecs(rows, text):
    words = " ".join(text.split())
    ceilings = rows["ceiling | bundled"]
    numbers = [f"{ceilings[str(M)]['DCT']:.1f}" for M in patch_limits.CHANNELS]
    assert f"latents reaches {', '.join(numbers[:-1])} and {numbers[-1]} dB on Kodak" in words
    assert max(abs(ceiling["DCT"] - ceiling["PCA"]) for ceiling in ceilings.values()) < 0.35
    kodak = evaluation.read_table(RESULTS / "kodak.parquet")
    ours = kodak[kodak["curve"].isin(["patch_linear tiny", "patch_hyperprior tiny"])]
    assert f"reach {ours.groupby(['curve', 'lmbda'])['psnr'].mean().max():.1f} dB" in words
    kodak = kodak[kodak["curve"] == "patch_linear tiny"]
    losses = kodak["estimated_bpp"] + kodak["lmbda"] * 255**2 * 10 ** (-kodak["psnr"] / 10)
    trained = losses.groupby(kodak["lmbda"]).mean()
    untrained = [rows[f"untrained | patch_linear λ={lmbda:g}"] for lmbda in trained.index]
    columns = {
        "its loss on Kodak is": [row["loss"] for row in untrained],
        "it would be": [row["ideal_loss"] for row in untrained],
        "The bundled weights have": list(trained),
    }
    for sentence, values in columns.items():
        numbers = [f"{value:.3f}" for value in values]
        assert f"{sentence} {', '.join(numbers[:-1])} and {numbers[-1]}" in words
    assert (trained < columns["it would be"]).all()
    short = [row["kodak"] for name, row in rows.items() if "patch_linear λ=0.0067 | 15 s" in name and "short" in name]
    assert max(short) < untrained[2]["loss"] and sum(loss < untrained[2]["ideal_loss"] for loss in short) == 1
    gains = [100 * (1 - after / before) for after, before in zip(trained, columns["its loss on Kodak is"], strict=True)]
    card = " ".join((paths.data() / "weights" / "README.md").read_text(encoding="utf-8").split())
    assert f"by {gains[-1]:.0f}% (λ = 0.018) to {gains[0]:.0f}% (λ = 0.0009)" in card
    assert (
        f"`patch_linear`, by up to {(kodak['bpp'] / kodak['estimated_bpp'] - 1).abs().max():.1%} per Kodak image"
        in card
    )
    long = [
        [rows[f"budget | patch_hyperprior λ=0.0067 | {seconds} s | seed {seed} | long ×10"] for seed in range(3)]
        for seconds in (40, 60)
    ]
    falls = [100 * (1 - after["kodak"] / before["kodak"]) for before, after in zip(*long, strict=True)]
    steps = [round(statistics.median(row["steps"] for row in each), -2) for each in long]
    assert f"falls by {min(falls):.1f}% to {max(falls):.1f}% from {steps[0]:,.0f} to {steps[1]:,.0f} steps" in card
