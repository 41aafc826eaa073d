"""The study's claims: intervals with a known truth, tables with a known verdict, declared grids, and a tiny study."""

import json
import math
import shutil
from itertools import product

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from labkit import cli, datasets, networks, paths, schemes, surrogates, training
from labkit.research.study import engine, laboratory, report
from labkit.research.study.claims import bound, gradients, method, structure, tradeoff
from labkit.research.study.findings import (
    HELD,
    NOT_HELD,
    UNDECIDED,
    Finding,
    against_both_ends,
    best_level,
    crossed,
    finding,
    interior,
    order,
    verdict,
)
from labkit.research.sweeps.results import Results
from labkit.statistics import Estimate
from tests.test_statistics import effects

NETWORKS = ["factorized_prior", "mean_scale_hyperprior", "channel_autoregressive"]
IMAGES = [f"photo {k}" for k in range(13)]


# Findings -------------------------------------------------------------------------------------------------------------


def test_verdicts_follow_the_interval():
    tight = {"seed_variance": 1e-4, "image_variance": 1e-4, "seeds": 9, "images": 9}
    below, zero, above = (Estimate(value, **tight) for value in (-1.0, 0.0, 1.0))
    cases = [(below, "below", HELD), (above, "below", NOT_HELD), (zero, "below", NOT_HELD), (above, "above", HELD)]
    cases += [
        (below, "different", HELD),
        (zero, "different", NOT_HELD),
        (zero, "none", HELD),
        (above, "none", NOT_HELD),
        (zero, "above", NOT_HELD),  # it may be above, but by less than counts
        (Estimate(0.05, **tight), "above", HELD),
    ]
    for one, expected, wanted in cases:
        assert finding("", one, expected, same=0.1).verdict == wanted
    loose = Estimate(0.0, 1.0, 1.0, 9, 9)
    assert {finding("", loose, expected, same=0.1).verdict for expected in ("different", "none")} == {UNDECIDED}
    assert finding("", Estimate(0.065, 5e-4, 5e-4, 9, 9), "above").verdict == UNDECIDED  # t, not the normal's 1.96
    assert finding("", Estimate(0.08, 5e-4, 5e-4, 9, 9), "above").verdict == HELD
    assert finding("", Estimate(0.08, 5e-4, 5e-4, 9, 9), "above", tests=20).verdict == UNDECIDED
    assert str(finding("a", Estimate(math.log(1.5), 0.0, 0.0, 3, 3), "above")) == "a: +50.00% [+50.00, +50.00]: held"
    assert str(finding("a", Estimate(0.2, 0.01, 0.0, 4, 13), "above", log=False)).endswith(
        "undecided (3 further seeds)"
    )
    nothing = finding("", Estimate(math.nan, math.nan, math.nan, 4, 13), "below")  # of curves without a BD-rate
    assert nothing.verdict == UNDECIDED and nothing.further is None and math.isnan(nothing.low)
    some = [finding("", one, "below") for one in (below, zero)]
    assert [verdict(some), verdict(some[:1]), verdict(some, "any")] == [UNDECIDED, HELD, HELD]
    assert verdict([*some, finding("", above, "below")]) == NOT_HELD


def test_a_level_is_chosen_elsewhere_so_that_equal_levels_win_nothing():
    """Six levels of the same mean: the least of them seems better than an end, the one chosen elsewhere does not."""
    rng = np.random.default_rng(2)
    naive, honest, held = [], [], 0
    for k in range(200):
        losses = effects(rng, 4, 13, 0.0, 0.0, 1.0, (8,)) + rng.standard_normal((4, 1, 8))
        naive.append(losses[:, :, 1:-1].mean((0, 1)).min() - losses[:, :, 0].mean())
        honest.append(np.mean(interior(losses) - losses[:, :, 0]))
        if k < 12:
            held += verdict(against_both_ends("", losses, ("low", "high"))) == HELD
    assert np.mean(naive) < -0.5 and abs(np.mean(honest)) < 4 * np.std(honest) / math.sqrt(200)
    assert held == 0
    levels = np.broadcast_to(np.arange(8), (3, 5, 8))
    for seed, image in product(range(3), range(5)):  # whatever its own seed and its own image have lost
        losses = rng.standard_normal((3, 5, 8))
        before = interior(losses, levels)[seed, image]
        losses[seed], losses[:, image] = rng.standard_normal((5, 8)) * 9, rng.standard_normal((3, 8)) * 9
        assert interior(losses, levels)[seed, image] == before
    values = rng.standard_normal((3, 5, 8))
    losses = np.where(np.arange(8) == 4, -9.0, 0.0) + rng.standard_normal((3, 5, 8))
    assert (interior(losses, values) == values[:, :, 4]).all()


def test_the_best_level_is_the_vertex_of_a_parabola():
    levels = np.log([0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0])
    for center in (-2.0, -1.2):
        assert best_level((levels - center) ** 2, levels) == pytest.approx(center)
    assert best_level(levels, levels) == levels[0] and best_level(-levels, levels) == levels[-1]


def test_an_order_is_held_where_every_pair_is_as_predicted():
    rng, predicted = np.random.default_rng(3), np.array([0.0, 1.0, 2.0, 2.0])
    labels, mean = list("abcd"), lambda v: v.mean((0, 1))
    ranked, pairs = order("x", labels, mean, predicted, predicted + 0.05 * effects(rng, shape=(4,)))
    assert ranked.verdict == pairs.verdict == HELD and "5 pairs" in pairs.what and pairs.value == 1
    other = np.array([0.0, 2.0, 1.0, 2.0])
    ranked, pairs = order("x", labels, mean, predicted, other + 0.05 * effects(rng, shape=(4,)))
    assert pairs.verdict == NOT_HELD and "1 otherwise (b–c)" in pairs.what
    assert ranked.value == pytest.approx((2 + 1 + 2 - 1 + 0) / 6, abs=0.05) and ranked.low < ranked.value < ranked.high
    ranked, pairs = order("x", labels, mean, predicted, predicted + 9 * effects(rng, shape=(4,)))
    assert ranked.verdict == pairs.verdict == UNDECIDED and ranked.low < 0 < ranked.high
    assert order("x", labels, mean, predicted, np.zeros((3, 3, 4)))[0].value == 0


def test_variances_of_other_orders_of_magnitude_are_put_in_order_by_their_ratios():
    """Where images differ by factors, a difference of means is that of the loudest image."""
    rng = np.random.default_rng(10)
    labels, predicted = ["none", "some", "much"], np.array([0.0, 1.0, 3.0])
    values = predicted * np.exp(2 * effects(rng, seed_scale=0.1, image_scale=1, rest=0.1)[:, :, None])
    mean = lambda a: a.mean((0, 1))  # noqa: E731
    assert order("x", labels, mean, predicted, values)[1].verdict == UNDECIDED
    assert order("x", labels, mean, predicted, values, relative=True)[1].verdict == HELD
    assert order("x", labels, mean, predicted[[0, 2, 1]], values, relative=True)[1].verdict == NOT_HELD


def test_a_crossed_array_has_only_seeds_that_are_whole():
    rows = [(s, "test", name, k, 10 * s + k) for s, name, k in product((3, 1, 2), "ab", (7, 8))]
    table = pd.DataFrame(rows, columns=["seed", "set", "name", "level", "value"])
    assert crossed(table, "value", ["level"], [8, 7])[:, 0].tolist() == [[18, 17], [28, 27], [38, 37]]
    assert crossed(table.drop(index=0), "value", ["level"], [8, 7])[:, 1].tolist() == [[18, 17], [28, 27]]
    with pytest.raises(ValueError, match="no seed has all of 9, 7"):
        crossed(table, "value", ["level"], [9, 7])


# Claims, on tables whose answer is known ------------------------------------------------------------------------------


def runs(loss, seeds=4, noise=1e-3, part="forks", names=IMAGES, **axes):
    """A table of forks; loss(**cell): of a cell, as a factor. Seeds and images have effects that all cells share."""
    rng, rows = np.random.default_rng(4), []
    of_seeds, of_images = rng.normal(0, 0.02, seeds), rng.normal(0, 0.3, len(names))
    for values in product(*axes.values()):
        cell = dict(zip(axes, values, strict=True))
        for seed, (k, name) in product(range(seeds), enumerate(names)):
            factor = loss(**cell) * math.exp(of_seeds[seed] + of_images[k] + noise * rng.standard_normal())
            row = {"part": part, "seed": seed, "set": "test", "name": name, "lmbda": 0.0093, "seconds": 60.0, **cell}
            row |= {"run": "-".join(map(str, (*values, seed))), "estimated_bpp": 0.4 * factor, "psnr": 30.0}
            row |= {"mse255": 60 * factor, "train_bpp": 0.41 * factor, "train_mse255": 59 * factor}
            row |= {"train_spread": 0.3 * factor, "bpp": 0.4 * factor}
            rows.append(row)
    return engine.with_losses(pd.DataFrame(rows))


def rows_of(values, part="measured", seeds=4, **about):
    """Measured rows: values(label) for each label, with a little noise."""
    rng, rows = np.random.default_rng(5), []
    for (label, value), seed, name in product(values.items(), range(seeds), IMAGES if part == "measured" else [""]):
        noisy = value * (1 + 0.02 * rng.standard_normal()) if part == "measured" else value
        row = {"part": part, "label": label, "seed": seed, "set": "test", "name": name, "lmbda": 0.0093}
        rows.append({**row, "value": noisy, **about})
    return pd.DataFrame(rows)


def valley(best, depth=0.02):
    return lambda temperature, **_: math.exp(depth * (math.log(float(temperature) / best)) ** 2)


TEMPERATURES = ["0.02", "0.05", "0.1", "0.2", "0.35", "0.5", "0.7", "1"]


def of(name, table):
    return report.of(name, table.drop(columns=["loss", "train_loss"]))


def test_a_valley_is_a_tradeoff_and_a_slope_is_none():
    axes = {"scheme": ["identity", "sga"], "temperature": TEMPERATURES}
    found = of("tradeoff", runs(valley(0.2), **axes))
    assert found.verdict == HELD and found.seeds == 4
    low = found.findings[0]
    gain = math.exp(0.02 * (0 - math.log(0.02 / 0.2) ** 2)) - 1
    assert "identity, loss, best in between against τ = 0.02" in low.what and low.value == pytest.approx(gain, abs=1e-3)
    assert of("tradeoff", runs(lambda temperature, **_: float(temperature) ** 0.01, **axes)).verdict == NOT_HELD
    assert found.hours == pytest.approx(2 * 8 * 60 / 3600)
    flat = of("tradeoff", runs(lambda **_: 1.0, noise=0.02, **axes))
    assert flat.verdict != HELD
    x, lines = tradeoff.curves(runs(valley(0.2), **axes))
    assert x == "temperature τ" and min(lines["sga"][1]) == 0 and lines["sga"][0] == [float(t) for t in TEMPERATURES]


def test_structures_differ_where_their_valleys_do():
    def table(bests):
        parts = [
            runs(valley(best), network=[network], scheme=["identity"], temperature=TEMPERATURES)
            for network, best in bests.items()
        ]
        return pd.concat(parts, ignore_index=True)

    found = of("structure", table({"one": 0.1, "two": 0.3}))
    apart, *regrets = found.findings
    assert found.verdict == HELD == apart.verdict and apart.value == pytest.approx(0.1 / 0.3 - 1, abs=0.03)
    assert len(regrets) == 2 and all(one.value > 0 for one in regrets)
    assert of("structure", table({"one": 0.2, "two": 0.2})).verdict == NOT_HELD


def test_a_bound_in_between_is_best_and_lowers_the_mismatch():
    levels = [0.02, 0.05, 0.11, 0.2, 0.35, 0.6]
    table = runs(
        lambda scale_lower_bound, **_: valley(0.15)(scale_lower_bound), scheme=["annealed"], scale_lower_bound=levels
    )
    table["train_bpp"] = table["estimated_bpp"] * (1 + 0.002 / table["scale_lower_bound"])
    found = of("bound", table)
    less = next(one for one in found.findings if "size of the rate's mismatch" in one.what)
    assert found.verdict == HELD and less.value == pytest.approx(0.002 / 0.11 - 0.002 / 0.02, abs=0.01)
    table["train_bpp"] = table["estimated_bpp"] * (1 + 0.1 * table["scale_lower_bound"])
    assert of("bound", table).verdict == NOT_HELD
    assert bound.curves(table)[1]["annealed"][0] == levels


def test_the_stop_steadies_what_has_another_slope_and_leaves_the_control():
    labels = ["soft", "soft through", "soft uncentered", "identity", "identity through"]
    worse = {"soft through": 1.02, "soft uncentered": 1.05}
    forks = runs(lambda scheme, **_: worse.get(scheme, 1.0), noise=1e-4, network=["one"], scheme=labels)
    variances = {"soft": 1.0, "soft through": 2.0, "identity": 1.0, "identity through": 1.0}
    measured = rows_of(variances, network="one", quantity="variance")
    for name in ("identity", "identity through"):
        measured.loc[measured["label"] == name, "value"] = 1.0
    found = of("zero_center", pd.concat([forks, measured], ignore_index=True))
    assert found.verdict == HELD
    told = {one.what: one.value for one in found.findings}
    assert told["one, soft, variance of the gradient at the means with the stop to without"] == pytest.approx(
        -0.5, abs=0.02
    )
    assert told["one, soft, loss with the stop to without"] == pytest.approx(1 / 1.02 - 1, abs=1e-3)
    measured.loc[measured["label"] == "identity", "value"] = 3.0
    assert of("zero_center", pd.concat([forks, measured], ignore_index=True)).verdict == NOT_HELD


def test_mismatch_is_compared_with_the_laboratory_on_forks_and_on_trunks():
    gaps = {"noise": 0.05, "mixed": 0.0, "gumbel": 0.02}
    forks = runs(lambda **_: 1.0, network=["one"], scheme=list(gaps))
    share = 1 + forks["scheme"].map(gaps)
    forks["train_bpp"], forks["train_mse255"] = forks["estimated_bpp"] * share, forks["mse255"] * share
    others = [
        rows_of({label: sign * gap for label, gap in gaps.items()}, part, network="one", quantity=quantity)
        for quantity, (part, sign) in product(("rate", "distortion"), (("measured", 1), ("laboratory", 1)))
    ]
    found = of("mismatch", pd.concat([forks, *others], ignore_index=True))
    assert found.verdict == HELD
    own = next(one for one in found.findings if one.what == "one, rate mismatch trained with it, noise")
    assert own.value == pytest.approx(0.05, abs=1e-6)
    others[-1]["value"] *= -1
    assert of("mismatch", pd.concat([forks, *others], ignore_index=True)).verdict == NOT_HELD


def test_gradients_are_compared_by_variance_and_by_what_all_seeds_together_promise():
    variances = {label: 1.0 + k for k, label in enumerate(gradients.SURROGATES)}
    slopes = {label: 1.0 - 0.05 * k for k, label in enumerate(gradients.SURROGATES)}
    about = {"network": "one", "estimated_bpp": math.nan, "mse255": math.nan}
    about |= {"train_bpp": math.nan, "train_mse255": math.nan}
    parts = [
        rows_of(variances, quantity="variance", **about),
        rows_of(slopes, quantity="agreed", **about),
        rows_of(dict.fromkeys(slopes, 1.0), quantity="found", **about),
        rows_of(variances, "laboratory", quantity="variance", **about),
        rows_of(slopes, "laboratory", quantity="promise", **about),
    ]
    table = pd.concat(parts, ignore_index=True)
    found = gradients.findings(table)
    assert verdict(found) == HELD
    told = {one.what: one.value for one in found}
    assert told["one, variance of the gradient, ste to aun"] == pytest.approx(2.0, abs=0.05)
    assert told["one, change promised for each unit that is found, sr"] == pytest.approx(0.9, abs=0.02)


def test_a_variation_is_compared_with_the_better_of_method_and_noise_each_at_its_better_rate():
    losses = {"noise": (1.00, 0.98), "identity": (1.01, 1.02), "relaxed": (0.99, 0.96), "expected": (1.0, 1.0)}
    rates = ["cosine:2e-4:1e-5", "cosine:4e-4:1e-5"]
    table = runs(lambda lr, scheme: losses[scheme][rates.index(lr)], lr=rates, scheme=list(losses))
    found = of("variations", table)
    told = {one.what: one for one in found.findings}
    assert found.verdict == HELD
    better, worse = told["relaxed, loss to the lower of both"], told["expected, loss to the lower of both"]
    assert better.value == pytest.approx(0.96 / 0.98 - 1, abs=1e-3) and better.verdict == HELD
    assert worse.value == pytest.approx(1.0 / 0.98 - 1, abs=1e-3) and worse.verdict == NOT_HELD
    assert told["relaxed, loss to identity"].value == pytest.approx(0.96 / 1.01 - 1, abs=1e-3)
    assert told[f"identity, loss at lr {rates[1]} to that at {rates[0]}"].value == pytest.approx(1 / 101, abs=1e-3)


def test_what_was_best_has_to_be_better_than_both_on_every_other_network_and_set_of_images():
    losses = {"noise": 1.00, "annealed": 1.01, "substituted": 0.98}
    axes = {"network": ["one", "other"], "scheme": list(losses)}
    found = of("elsewhere", runs(lambda network, scheme: losses[scheme], **axes))
    told = {one.what: one.value for one in found.findings}
    assert found.verdict == HELD and len(told) == 4
    assert told["one, test, loss to noise"] == pytest.approx(0.98 / 1.00 - 1, abs=1e-3)
    assert told["other, test, loss to annealed"] == pytest.approx(0.98 / 1.01 - 1, abs=1e-3)
    table = runs(lambda network, scheme: 1.0 if network == "one" else losses[scheme], **axes)
    assert of("elsewhere", table).verdict == NOT_HELD


def test_of_a_claim_that_one_finding_makes_the_cheapest_is_told():
    open_ones = tuple(Finding("x", 0.0, -1.0, 1.0, UNDECIDED, further=more) for more in (None, 7, 2))
    told = {enough: report.Report("x", "", open_ones, UNDECIDED, 3, 1.5, enough).told for enough in ("any", "all")}
    assert told["any"].startswith("undecided: 2 further seeds would do") and "3 core-hours" in told["any"]
    assert told["all"].startswith("undecided: 1,000 further seeds would not do")


def test_what_is_far_off_is_told_in_factors():
    far = finding("x", Estimate(math.log(3.0), 1.0, 1.0, 9, 9), "above")
    low, high = 1 + far.low, 1 + far.high
    assert far.told == f"×3 [×{low:.3g}, ×{high:.3g}]" and high > 11
    assert finding("x", Estimate(0.0, 99.0, 99.0, 9, 9), "above").told == "×1 [< ×0.001, > ×1,000]"


def test_the_short_table_names_the_finding_that_is_nearest_to_a_decision():
    open_ones = [
        Finding(name, 0.0, -1.0, 1.0, UNDECIDED, further=more, main=True) for name, more in (("far", None), ("near", 3))
    ]
    assert "2 undecided, e.g. near:" in report.markdown([report.Report("x", "", tuple(open_ones), UNDECIDED)])


def test_what_has_no_number_says_so():
    nothing = finding("x", Estimate(math.nan, math.nan, math.nan, 3, 4), "below", log=False, percent=True)
    assert str(nothing) == "x: no number: undecided"
    lone = finding("x", Estimate(0.06, math.nan, math.nan, 3, 4), "below", log=False, percent=True)
    assert str(lone) == "x: 6%: undecided"  # more seeds would not give it an interval


FACTORS = {"annealed": 0.95, "noise": 1.0, "mixed": 0.97}


def curves(factors, noise=1e-3, seeds=4):
    """Three points of a straight curve over log rate; a scheme takes so many of the bits at the same PSNR."""
    rng, rows = np.random.default_rng(6), []
    for part, (scheme, factor), (k, lmbda), seed, image in product(
        ("forks", "scratch"), factors.items(), enumerate((0.0035, 0.0093, 0.025)), range(seeds), range(13)
    ):
        bpp = 0.2 * 2**k * factor * (1 + 0.05 * image) * math.exp(0.01 * seed + noise * rng.standard_normal())
        row = {"part": part, "network": "one", "scheme": scheme, "lmbda": lmbda, "seed": seed, "set": "test"}
        row |= {"name": str(image), "bpp": bpp, "psnr": 28.0 + 3 * k + 0.1 * image, "estimated_bpp": bpp}
        row |= {"mse255": 100 / 2**k, "train_bpp": bpp, "train_mse255": 100 / 2**k, "seconds": 90.0}
        rows.append(row | {"run": f"{part}{scheme}{lmbda}{seed}"})
    return pd.DataFrame(rows)


def test_bd_rates_of_the_method_against_each_other_scheme():
    table = curves(FACTORS)
    table = table[(table["part"] == "forks") | (table["scheme"] != "mixed")]  # from scratch, fewer schemes are compared
    found = report.of("method", table)
    told = {one.what: one for one in found.findings}
    for about, others in (("one, test", ("noise", "mixed")), ("one from scratch, test", ("noise",))):
        for scheme in others:
            one = told[f"{about}, BD-rate against {scheme}"]
            assert one.value == pytest.approx(0.95 / FACTORS[scheme] - 1, abs=2e-3) and one.verdict == HELD
    assert found.verdict == HELD and "BD-rate against noise: -5.0" in report.markdown([found])
    assert report.of("method", curves({**FACTORS, "annealed": 0.98})).verdict == NOT_HELD
    wide = report.of("method", curves({**FACTORS, "annealed": 0.96}, noise=0.06))
    assert wide.verdict == UNDECIDED
    assert "further seed" in wide.told and "core-hours here" in wide.told
    hours = curves(FACTORS)["run"].nunique() / 4 * 90 / 3600
    assert wide.hours == pytest.approx(hours)


def test_runs_that_failed_are_counted_and_leave_other_comparisons_whole():
    table = curves({"annealed": 0.95, "noise": 1.0, "soft_rounding": 1.0})
    lost = (table["scheme"] == "soft_rounding") & (table["part"] == "scratch") & (table["seed"] < 3)
    failed = table[lost & (table["lmbda"] < 0.005)].drop_duplicates("run")
    nothing: dict = dict.fromkeys(("bpp", "psnr", "estimated_bpp", "mse255", "train_bpp", "train_mse255"), math.nan)
    nothing |= {"set": None, "name": None}
    failed = failed.assign(**nothing, error="FloatingPointError: the loss is nan at step 7")
    found = report.of("method", pd.concat([table[~table["run"].isin(failed["run"])], failed], ignore_index=True))
    assert found.seeds == 4
    told = {one.what: one for one in found.findings}
    assert told["one from scratch, test, BD-rate against noise"].verdict == HELD
    lone = told["one from scratch, test, BD-rate against soft_rounding"]
    assert lone.verdict == UNDECIDED and lone.value == pytest.approx(-0.05, abs=2e-3) and math.isnan(lone.low)
    last = found.findings[-1]
    assert last.what == "one, scratch, soft_rounding, runs that failed with FloatingPointError, 3 of 12"
    assert last.value == 0.25 and not last.verdict and "25%" in str(found)


# Declared grids -------------------------------------------------------------------------------------------------------


def study(name, tmp_path, **more):
    return engine.Study(name, tmp_path / "work", tmp_path / "out", **more)


def nothing_done(sweep):
    return pd.DataFrame({"run": [], "status": []})


@pytest.mark.parametrize("name", engine.CLAIMS)
def test_every_claim_is_declared_and_shares_its_trunks(name, tmp_path):
    made = engine.parts(study(name, tmp_path), nothing_done)
    named = [(part, run) for part, sweep in made for run in sweep.runs()]
    other = (str(paths.data() / "photographs" / "train"),)  # coded beside: the trunks stay what they are
    whole = engine._named(engine.parts(study("method", tmp_path, tests=other), nothing_done))
    shared = {run.name for _, run in whole if not run.trunk}
    for part, run in named:
        if not run.trunk and part != "scratch":
            assert run.name in shared, run
    laptop, gpu = (engine.declared(name, scale) for scale in engine.SCALES)
    assert laptop["claim"].endswith(".") and laptop["size"] == "tiny" and gpu["size"] == "small"
    assert (laptop["trunk"]["steps"], gpu["trunk"]["steps"], gpu["steps"]) == (5000, 100_000, 20_000)
    fewer = [run for _, sweep in engine.parts(study(name, tmp_path, seeds=1), nothing_done) for run in sweep.runs()]
    assert {run.settings["seed"] for run in fewer} == {0}
    assert {run.name for run in fewer} < {run.name for _, run in named}


def test_the_method_is_at_least_what_was_asked_for(tmp_path):
    values = engine.declared("method")
    assert set(values["grid"]["network"]) == set(NETWORKS) and len(values["grid"]["lmbda"]) == 3
    tuning = values["tuning"]["schemes"]
    wanted = {"noise", "straight_through", "mixed", "soft_rounding", "gumbel", "universal_ds", "soft_then_hard"}
    assert set(tuning) == wanted | {"annealed"} and {len(candidates) for candidates in tuning.values()} == {4}
    assert all(len({json.dumps(one) for one in candidates}) == 4 for candidates in tuning.values())
    named = list(engine._named(engine.parts(study("method", tmp_path), nothing_done)))
    cells = {(part, run.settings["network"], run.settings["scheme"], run.settings["lmbda"]) for part, run in named}
    assert len([cell for cell in cells if cell[0] == "forks"]) == 3 * 8 * 3
    assert len([cell for cell in cells if cell[0] == "scratch"]) == 1 * 5 * 3
    assert {run.settings["steps"] for part, run in named if part == "scratch"} == {5000}


def test_the_structure_claim_has_runs_of_the_tradeoff(tmp_path):
    one, other = ({run.name for _, s in engine.parts(study(name, tmp_path), nothing_done) for run in s.runs()}
                  for name in ("tradeoff", "structure"))  # fmt: skip
    assert len(one & other) == 4 * (1 + 2 * 8)


def test_tuning_takes_the_best_on_training_photographs_for_each_network(tmp_path):
    asked = []

    def drive(sweep):
        """Losses by the candidate's place: the third is best, but for one network the second."""
        asked.append(sweep)
        runs = [run for run in sweep.runs() if run.trunk]
        place = {}
        rows = []
        for run in runs:
            key = run.settings["network"], run.settings["scheme"]
            place[key] = place.get(key, -1) + 1
            best = 1 if key == ("factorized_prior", "mixed") else 2
            rows.append({"run": run.name, "status": "done", "loss": 1.0 + abs(place[key] - best), "seconds": 36.0})
        return pd.DataFrame(rows)

    found = method.tuned(study("method", tmp_path), drive)
    declared = engine.declared("method")["tuning"]["schemes"]
    for (network, scheme), fields in found.items():
        assert fields == declared[scheme][1 if (network, scheme) == ("factorized_prior", "mixed") else 2]
    for run in asked[0].runs():
        assert run.settings["seed"] == 1000 and run.settings["lmbda"] == 0.0093
        if run.trunk:
            assert run.settings["test"] == [str((paths.data() / "photographs" / "train").resolve())]
    assert method.tuned(study("method", tmp_path), nothing_done) == found  # the table is believed
    table = pd.read_parquet(tmp_path / "out" / "study-tuning.parquet")
    assert len(table) == 3 * 8 * 4 and table["chosen"].sum() == 3 * 8
    assert table["core_hours"].to_numpy() == pytest.approx(0.01, rel=1e-4)
    forks = [run for _, run in engine._named(method.parts(study("method", tmp_path), drive)) if run.trunk]
    used = {(r.settings["network"], r.settings["scheme"], r.settings["lr"], r.scheme.get("share")) for r in forks}
    assert ("factorized_prior", "mixed", "cosine:2e-4:1e-5", None) in used
    assert ("mean_scale_hyperprior", "mixed", "cosine:3e-4:1e-5", None) in used
    assert ("mean_scale_hyperprior", "soft_then_hard", "cosine:2e-4:1e-5", 0.8) in used


def test_a_scheme_takes_another_surrogate_on_one_path():
    made = schemes.annealed(distortion="sga", temperature=0.3)
    assert made.distortion == surrogates.get("sga") and made.rate == surrogates.get("aun") and made.stop_gradient
    assert schemes.mixed(distortion="round").distortion == surrogates.get("round")


# What tables have of runs ---------------------------------------------------------------------------------------------


def kept(study, runs, weights, command="here"):
    """Rows of a table that has these runs, whose trunks had these weights."""
    rows = []
    for run in runs:
        own = {"part": "forks" if run.trunk else engine.TRUNK, "run": engine.short(run.name), "command": command}
        own |= {"start": engine.short(run.trunk), "seed": run.settings["seed"], "set": "test", "name": "a"}
        rows.append({**own, "bpp": 0.5, "weights": "its own" if run.trunk else weights})
    engine.save(pd.DataFrame(rows), engine.file(study.name, study.out))


def at_hand(study, run, weights):
    """The trunk in the work folder."""
    study.work.mkdir(exist_ok=True)
    Results(study.work).merge([run.row("done", weights=weights)])


def asked(study):
    made = engine.parts(study, nothing_done)
    return {run.name for run in engine.left(study, made).runs()}, engine._known(study, made)


def test_forks_of_a_table_count_beside_those_of_the_same_trunk_only(tmp_path):
    """Another machine's trunk has other weights, and what is compared forks from one."""
    one = study("bound", tmp_path, seeds=1)
    (sweep,) = (sweep for _, sweep in engine.parts(one, nothing_done))
    trunk, *forks = sweep.runs()
    kept(one, [trunk, *forks[1:]], "first")
    assert asked(one)[0] == {trunk.name, *(run.name for run in forks)}  # there is no trunk to make the one from
    at_hand(one, trunk, "second, and what follows")
    assert asked(one)[0] == {trunk.name, *(run.name for run in forks)}
    at_hand(one, trunk, "first")
    left, known = asked(one)
    assert left == {trunk.name, forks[0].name} and len(known) == len(forks)
    at_hand(one, trunk, "second")
    kept(one, [trunk, *forks], "first")
    assert asked(one)[0] == set()  # they are whole, whatever lies in the work folder


def test_of_two_claims_tables_a_whole_one_is_believed(tmp_path):
    structure, tradeoff = (study(name, tmp_path, seeds=1) for name in ("structure", "tradeoff"))
    (sweep,) = (sweep for _, sweep in engine.parts(tradeoff, nothing_done))
    kept(tradeoff, sweep.runs(), "first")
    left, known = asked(structure)
    shared = {run.name for run in structure.sweep().runs()} & {run.name for run in sweep.runs()}
    assert len(shared) == 17 and not left & shared and set(known["weights"]) == {"first", "its own"}
    own = [run for run in structure.sweep().runs() if run.name in shared]
    kept(structure, own[:-1], "second")
    assert not asked(structure)[0] & shared and "second" not in set(asked(structure)[1]["weights"])
    kept(structure, own, "second")
    assert "first" not in set(asked(structure)[1]["weights"])  # its own table goes first


def test_a_failed_run_is_in_the_table_and_is_not_made_again(tmp_path):
    one = study("bound", tmp_path, seeds=1)
    made = engine.parts(one, nothing_done)
    trunk, *forks = made[0][1].runs()
    rows = [run.row("done", bpp=0.5, rate=0.5, weights="w", set="test", name="a") for run in (trunk, *forks[1:])]
    rows.append(forks[0].row("failed", "FloatingPointError: the loss is nan at step 7; /some/where keeps step 0"))
    one.work.mkdir()
    Results(one.work).merge(rows)
    frame = Results(one.work).frame([run.name for run in (trunk, *forks)])
    engine.save(engine.table(one, lambda _: frame), engine.file(one.name, one.out))
    table = engine.read(one.name, one.out)
    lost = table[table["run"] == engine.short(forks[0].name)]
    assert lost["error"].tolist() == ["FloatingPointError: the loss is nan at step 7"] and len(table) == len(rows)
    shutil.rmtree(one.work)
    assert asked(one)[0] == set()


# The laboratory -------------------------------------------------------------------------------------------------------


def test_scales_are_those_of_the_networks_latents():
    photos = datasets.photos("test")[:1]
    net = networks.pretrained("mean_scale_hyperprior", 0.025)
    sigmas = []
    plain = net.gaussian_conditional.forward
    net.gaussian_conditional.forward = lambda y, s, *a, **k: (sigmas.append(s), plain(y, s, *a, **k))[1]
    shares = laboratory.scales(net, photos)
    seen = sigmas[-1].clamp(0.11, 4).log().mean().item()
    assert shares.sum() == pytest.approx(1) and shares @ np.log(laboratory.SIGMAS) == pytest.approx(seen, abs=0.03)
    for name in ("factorized_prior", "channel_autoregressive"):
        assert laboratory.scales(networks.get(name), photos).sum() == pytest.approx(1)


def test_the_laboratory_averages_over_scales():
    shares = np.zeros(len(laboratory.SIGMAS))
    shares[[2, 6]] = 0.25, 0.75
    asked = {"annealed": schemes.annealed(0.5), "hard": schemes.soft_then_hard()}
    found = laboratory.mismatch(asked, shares)
    assert found["hard"] == (0.0, 0.0)
    wanted = shares @ laboratory._mismatches(schemes.annealed(0.5))
    assert found["annealed"] == pytest.approx(tuple(wanted)) and found["annealed"][1] > 0
    variance, promise = laboratory.gradient({"ste": surrogates.get("ste")}, 0.25, shares)["ste"]
    assert variance == 0 and 0.5 < promise < 2


# Tables and reports ---------------------------------------------------------------------------------------------------


def test_a_table_is_read_as_it_was_to_fifteen_millionths(tmp_path):
    table = curves(FACTORS).assign(value=[math.nan, -0.5, *[1e-30] * (len(curves(FACTORS)) - 2)])
    engine.save(table, engine.file("method", tmp_path))
    read = engine.read("method", tmp_path)
    assert read["loss"].to_numpy() == pytest.approx(
        (table["estimated_bpp"] + table["lmbda"] * table["mse255"]).to_numpy(), rel=2e-5
    )
    assert read["bpp"].to_numpy() == pytest.approx(table["bpp"].to_numpy(), rel=1.6e-5)
    assert (read["lmbda"] == table["lmbda"]).all() and read["value"].isna().sum() == 1 and read["value"][1] == -0.5
    numbers = 4 * 8 * len(table)
    assert engine.file("method", tmp_path).stat().st_size < numbers
    with pytest.raises(ValueError, match="there is no such table, `labkit study bound`"):
        engine.read("bound", tmp_path)


def test_the_report_is_of_all_claims_and_the_readmes_block_is_made_of_it(tmp_path):
    engine.save(curves(FACTORS), engine.file("method", tmp_path))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    call = ["study", "report", "--results", str(tmp_path), "--readme", str(readme), "--figures"]
    said = CliRunner().invoke(cli.main, call)
    assert said.exit_code == 0, said.output
    assert said.output.count("no table yet") == len(engine.CLAIMS) - 1 and "method: The whole method" in said.output
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert text == report.block(text, report.reports(tmp_path))
    assert text.count("| **no table yet** |") == len(engine.CLAIMS) - 1 and "| **held** |" in text
    first = (tmp_path / "study-method.svg").read_bytes()
    CliRunner().invoke(cli.main, call)
    assert (tmp_path / "study-method.svg").read_bytes() == first and b"<svg" in first
    readme.write_text("no marks")
    assert "README.md: the text has no <!-- study -->" in CliRunner().invoke(cli.main, call).output


def test_of_a_study_that_was_stopped_whole_seeds_count(tmp_path, monkeypatch):
    table = curves(FACTORS, seeds=3)
    stopped = table[(table["seed"] < 2) | (table["scheme"] == "noise")]
    assert engine.whole_seeds(stopped) == [0, 1] and engine.whole_seeds(table) == [0, 1, 2]
    another = table[table["seed"] == 0].assign(network="two", run="another's " + table["run"])
    assert engine.whole_seeds(pd.concat([table, another])) == [0, 1, 2]  # of another network there is one seed
    assert engine.whole_seeds(stopped[stopped["seed"] > 0]) == [1]
    one, two = report.of("method", stopped), report.of("method", table[table["seed"] < 2])
    assert (one.seeds, one.hours, one.findings) == (2, two.hours, two.findings)


def test_a_table_that_lacks_a_comparison_says_so(tmp_path):
    found = report.of("tradeoff", runs(valley(0.2), scheme=["identity"], temperature=TEMPERATURES[:1])[:0])
    assert found.verdict != HELD
    some = curves(FACTORS)
    found = report.of("method", some[(some["scheme"] != "mixed") | (some["lmbda"] > 0.02)])
    assert found.verdict.startswith("not all there: no seed has all of annealed/")


def test_the_readmes_block_is_what_the_shipped_tables_say():
    readme = paths.data().parent / "README.md"
    text = readme.read_text(encoding="utf-8")
    assert text == report.block(text, report.reports())


# One tiny study -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Declarations cut down to a few steps of a few cells, on cut photographs."""
    from PIL import Image

    for split, side in (("train", 96), ("test", 64)):
        (tmp_path / split).mkdir()
        for path in sorted((paths.data() / "photographs" / split).glob("*.webp"))[:2]:
            Image.open(path).crop((64, 64, 64 + side, 64 + side)).save(tmp_path / split / f"{path.stem}.png")
    whole = engine.declared

    def declared(name, scale="laptop"):
        values = whole(name, scale)
        short = {"steps": 2, "batch_size": 1, "crop": 64, "grid": {"seed": [0, 1]}, "trunk": {"steps": 3}}
        values = engine.merged(values, short)
        values["grid"] |= {"network": ["mean_scale_hyperprior"]} if "network" in values["grid"] else {}
        values["grid"] |= {"temperature": [0.1, 0.3, 1.0]} if "temperature" in values["grid"] else {}
        if "tuning" in values:
            names = ("noise", "annealed")
            values["tuning"]["schemes"] = {key: values["tuning"]["schemes"][key][:2] for key in names}
            values["parts"]["scratch"] |= {"steps": 3, "grid": {"network": ["mean_scale_hyperprior"]}}
            values["grid"]["lmbda"] = [0.0035, 0.025]
            values["tuning"]["lmbda"] = 0.025
        if "toys" in values:
            values["toys"] |= {"steps": 3, "sources": ["toy_1d laplacian", "toy_2d ring"]}
        return values

    monkeypatch.setattr(laboratory, "SIGMAS", np.geomspace(0.11, 1, 3))
    for kept in (laboratory._mismatches, laboratory._gradients):
        kept.cache_clear()
    monkeypatch.setattr(engine, "declared", declared)
    monkeypatch.setattr(method, "declared", declared)
    monkeypatch.setattr(structure, "declared", declared)
    monkeypatch.setattr(engine, "test_folder", lambda: tmp_path / "test")
    monkeypatch.setattr(method, "test_folder", lambda: tmp_path / "test")
    yield tmp_path
    for kept in (laboratory._mismatches, laboratory._gradients):
        kept.cache_clear()


def command(tmp_path, name, *more):
    call = ["study", name, "--work", tmp_path / "work", "--out", tmp_path / "out", "--data", tmp_path / "train"]
    said = CliRunner().invoke(cli.main, [str(word) for word in [*call, "--workers", 1, *more]])
    assert said.exit_code == 0, (said.output, said.exception)
    return said.output


@pytest.mark.slow
@pytest.mark.parametrize("name", ["structure", "zero_center", "gradients", "mismatch", "tradeoff"])
def test_a_tiny_study_ends_in_a_table_a_figure_and_a_verdict(tiny, name):
    said = command(tiny, name)
    table = engine.read(name, tiny / "out")
    told = said[said.index(f"{name}: {engine.declared(name)['claim']}") :]
    assert any(word in told.splitlines()[1] for word in (HELD, NOT_HELD, UNDECIDED)) and "(2 seeds)" in told
    assert set(table["seed"]) == {0, 1} and (tiny / "out" / f"study-{name}.svg").exists()
    written = {path: path.stat().st_mtime_ns for path in (tiny / "work").rglob("*.*")}
    assert command(tiny, name).endswith(told) and command(tiny, name, "--as-is").endswith(told)  # nothing is made again
    assert written == {path: path.stat().st_mtime_ns for path in (tiny / "work").rglob("*.*")}


@pytest.mark.slow
def test_what_tables_have_is_not_made_again_on_another_day(tiny):
    """Work folders are lost; of the tables, those of other claims count too, and grow by seeds."""
    command(tiny, "tradeoff", "--seeds", 1)
    shutil.rmtree(tiny / "work")
    command(tiny, "structure", "--seeds", 1)
    assert not (tiny / "work" / "runs").exists()  # only toys were made
    first = pd.read_parquet(tiny / "out" / "study-structure.parquet")
    shutil.rmtree(tiny / "work")
    command(tiny, "structure", "--seeds", 2)
    table = pd.read_parquet(tiny / "out" / "study-structure.parquet")
    both = table.merge(first, how="right", on=[*first.drop(columns="command")], validate="one_to_one")
    assert len(both) == len(first) and both["part"].notna().all()
    assert {int(path.name.split("-")[-2]) for path in (tiny / "work" / "runs").iterdir()} == {1}
    assert all(set(seeds) == {0, 1} for seeds in table.groupby("part")["seed"].unique())
    assert set(table["part"]) == {"forks", "trunk", "toys"}
    shutil.rmtree(tiny / "work")
    for seeds in (1, 2):
        assert "(2 seeds)" in command(tiny, "structure", "--seeds", seeds)
        again = pd.read_parquet(tiny / "out" / "study-structure.parquet")
        assert not (tiny / "work").exists() and len(again) == len(table)
    command(tiny, "tradeoff", "--seeds", 2)
    table = pd.read_parquet(tiny / "out" / "study-tradeoff.parquet")
    assert set(table["seed"][table["part"] == "measured"]) == {0, 1}


@pytest.mark.slow
def test_a_tiny_method_is_tuned_trained_and_coded_on_two_sets(tiny):
    shutil.copytree(tiny / "test", tiny / "kodak")
    none = CliRunner().invoke(cli.main, ["study", "bound", "--as-is", "--work", str(tiny / "none")])
    assert none.exit_code == 2 and none.output == f"labkit: {tiny / 'none'}: no run of bound is done\n"
    dry = command(tiny, "method", "--test", tiny / "kodak", "--dry-run")
    assert dry.count("missing in") == 2 and not (tiny / "work").exists()
    said = command(tiny, "method", "--test", tiny / "kodak")
    table = engine.read("method", tiny / "out")
    counts = table.groupby(["part", "set"])["run"].nunique().to_dict()
    assert counts == {**dict.fromkeys(product(("forks", "scratch"), ("kodak", "test")), 8), ("trunk", "test"): 4}
    forks = table[table["part"] == "forks"]
    assert set(forks["start"]) == set(table[table["part"] == "trunk"]["run"])
    assert (table["command"] == "labkit study method --data FOLDER --test kodak").all()
    pilot = pd.read_parquet(paths.data() / "results" / "pilot.parquet")
    assert set(pilot.columns) <= set(table.columns)
    assert "BD-rate against noise" in said and len(pd.read_parquet(tiny / "out" / "study-tuning.parquet")) == 4
    checkpoint = next((tiny / "work" / "runs").glob("*.safetensors"))
    assert training.load_checkpoint(checkpoint)[1]["steps"] in (2, 3)
