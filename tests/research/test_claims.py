"""The claims: verdicts on tables with known answers, and the declared grids."""

import json
import math
from itertools import product

import pandas as pd
import pytest

from labkit import paths, schemes, surrogates
from labkit.research.study import CLAIMS, Study, claim_report, markdown, tables
from labkit.research.study.claims import comparison, gradients, method, tradeoff
from labkit.research.study.declarations import SCALES, declaration
from labkit.research.study.engine import named_runs
from labkit.research.study.findings import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED, verdict
from tests.research.known_tables import RATE_FACTORS, TEMPERATURES, curve_rows, fork_rows, measured_rows, parabola

NETWORKS = ["factorized_prior", "mean_scale_hyperprior", "channel_autoregressive"]


def report_on(name, table):
    return claim_report(name, table.drop(columns=["loss", "train_loss"]))


def values_of(report):
    return {finding.comparison: finding.value for finding in report.findings}


def test_a_parabola_supports_the_tradeoff_and_a_slope_does_not():
    axes = {"scheme": ["identity", "sga"], "temperature": TEMPERATURES}
    report = report_on("tradeoff", fork_rows(parabola(0.2), **axes))
    assert report.verdict == SUPPORTED and report.seeds == 4
    low = report.findings[0]
    gain = math.exp(0.02 * (0 - math.log(0.02 / 0.2) ** 2)) - 1
    assert low.comparison == "identity: loss at the best inner τ relative to τ = 0.02"
    assert low.value == pytest.approx(gain, abs=1e-3)
    slope = fork_rows(lambda temperature, **_: float(temperature) ** 0.01, **axes)
    assert report_on("tradeoff", slope).verdict == NOT_SUPPORTED
    assert report.hours == pytest.approx(2 * 8 * 60 / 3600)
    flat = report_on("tradeoff", fork_rows(lambda **_: 1.0, noise=0.02, **axes))
    assert flat.verdict != SUPPORTED


def test_curves_show_the_loss_relative_to_the_least_loss():
    table = fork_rows(parabola(0.2), scheme=["identity", "sga"], temperature=TEMPERATURES)
    label, curves = CLAIMS["tradeoff"].curves(table)
    assert label == "temperature τ" and curves["sga"][0] == [float(t) for t in TEMPERATURES]
    assert min(curves["sga"][1]) == 0 and curves == {
        name: tradeoff.loss_curves(table[table["scheme"] == name], ["scheme"], "temperature")[name] for name in curves
    }
    assert CLAIMS["method"].curves(table) is None


def test_networks_differ_if_their_best_temperatures_do():
    def table(best):
        parts = [
            fork_rows(parabola(level), network=[network], scheme=["identity"], temperature=TEMPERATURES)
            for network, level in best.items()
        ]
        return pd.concat(parts, ignore_index=True)

    report = report_on("structure", table({"one": 0.1, "two": 0.3}))
    ratio, *regrets = report.findings
    assert report.verdict == SUPPORTED == ratio.verdict and ratio.value == pytest.approx(0.1 / 0.3 - 1, abs=0.03)
    assert len(regrets) == 2 and all(regret.value > 0 for regret in regrets)
    assert report_on("structure", table({"one": 0.2, "two": 0.2})).verdict == NOT_SUPPORTED


def test_the_bound_is_supported_if_an_inner_bound_is_best_and_reduces_the_mismatch():
    levels = [0.02, 0.05, 0.11, 0.2, 0.35, 0.6]
    table = fork_rows(
        lambda scale_lower_bound, **_: parabola(0.15)(scale_lower_bound), scheme=["annealed"], scale_lower_bound=levels
    )
    table["train_bpp"] = table["estimated_bpp"] * (1 + 0.002 / table["scale_lower_bound"])
    report = report_on("bound", table)
    reduction = next(finding for finding in report.findings if "size of the rate mismatch" in finding.comparison)
    assert report.verdict == SUPPORTED and reduction.value == pytest.approx(0.002 / 0.11 - 0.002 / 0.02, abs=0.01)
    table["train_bpp"] = table["estimated_bpp"] * (1 + 0.1 * table["scale_lower_bound"])
    assert report_on("bound", table).verdict == NOT_SUPPORTED
    assert CLAIMS["bound"].curves(table)[1]["annealed"][0] == levels


def test_the_stop_gradient_helps_other_slopes_and_does_not_change_the_control():
    labels = ["soft", "soft through", "soft uncentered", "identity", "identity through"]
    worse = {"soft through": 1.02, "soft uncentered": 1.05}
    forks = fork_rows(lambda scheme, **_: worse.get(scheme, 1.0), noise=1e-4, network=["one"], scheme=labels)
    variances = {"soft": 1.0, "soft through": 2.0, "identity": 1.0, "identity through": 1.0}
    measured = measured_rows(variances, network="one", quantity="variance")
    for name in ("identity", "identity through"):
        measured.loc[measured["label"] == name, "value"] = 1.0
    report = report_on("zero_center", pd.concat([forks, measured], ignore_index=True))
    assert report.verdict == SUPPORTED
    values, ending = values_of(report), "with the stop-gradient relative to without it"
    assert values[f"one, soft: variance of the gradient at the means {ending}"] == pytest.approx(-0.5, abs=0.02)
    assert values[f"one, soft: loss {ending}"] == pytest.approx(1 / 1.02 - 1, abs=1e-3)
    measured.loc[measured["label"] == "identity", "value"] = 3.0
    table = pd.concat([forks, measured], ignore_index=True)
    assert report_on("zero_center", table).verdict == NOT_SUPPORTED


def test_mismatch_is_compared_with_the_prediction_on_forks_and_on_trunks():
    gaps = {"noise": 0.05, "mixed": 0.0, "gumbel": 0.02}
    forks = fork_rows(lambda **_: 1.0, network=["one"], scheme=list(gaps))
    share = 1 + forks["scheme"].map(gaps)
    forks["train_bpp"], forks["train_mse255"] = forks["estimated_bpp"] * share, forks["mse255"] * share
    parts = [
        measured_rows(gaps, part, network="one", quantity=quantity)
        for quantity, part in product(("rate", "distortion"), ("measured", "laboratory"))
    ]
    report = report_on("mismatch", pd.concat([forks, *parts], ignore_index=True))
    assert report.verdict == SUPPORTED
    assert values_of(report)["one: rate mismatch of noise after training"] == pytest.approx(0.05, abs=1e-6)
    parts[-1]["value"] *= -1
    table = pd.concat([forks, *parts], ignore_index=True)
    assert report_on("mismatch", table).verdict == NOT_SUPPORTED
    trained = pd.concat(
        [forks.assign(part="scratch", scheme="mixed"), *parts[:-1], parts[-1].assign(value=-parts[-1]["value"])]
    )
    report = report_on("trained_mismatch", trained.reset_index(drop=True))
    assert report.verdict == SUPPORTED and not any("after training" in text for text in values_of(report))


def test_trained_codecs_are_measured_with_the_schemes_of_the_claim_about_mismatch():
    compared = CLAIMS["trained_mismatch"].compared(None)
    assert list(compared) == declaration("mismatch")["grid"]["scheme"]
    assert compared["annealed"] == schemes.annealed(temperature=0.5, relaxed=False)
    assert compared["mixed"] == schemes.mixed()


def test_gradients_are_compared_by_variance_and_by_promised_change_over_all_seeds():
    variances = {label: 1.0 + k for k, label in enumerate(gradients.SURROGATES)}
    slopes = {label: 1.0 - 0.05 * k for k, label in enumerate(gradients.SURROGATES)}
    about = {"network": "one", "estimated_bpp": math.nan, "mse255": math.nan}
    about |= {"train_bpp": math.nan, "train_mse255": math.nan}
    parts = [
        measured_rows(variances, quantity="variance", **about),
        measured_rows(slopes, quantity="agreed", **about),
        measured_rows(dict.fromkeys(slopes, 1.0), quantity="found", **about),
        measured_rows(variances, "laboratory", quantity="variance", **about),
        measured_rows(slopes, "laboratory", quantity="promise", **about),
    ]
    findings = CLAIMS["gradients"].findings(pd.concat(parts, ignore_index=True))
    assert verdict(findings) == SUPPORTED
    values = {finding.comparison: finding.value for finding in findings}
    assert values["one: variance of the gradient of ste relative to aun"] == pytest.approx(2.0, abs=0.05)
    assert values["one: promised change of the loss per measured change, sr"] == pytest.approx(0.9, abs=0.02)


def test_a_variation_is_compared_with_the_better_of_method_and_noise_at_their_better_learning_rates():
    losses = {"noise": (1.00, 0.98), "identity": (1.01, 1.02), "relaxed": (0.99, 0.96), "expected": (1.0, 1.0)}
    rates = ["cosine:2e-4:1e-5", "cosine:4e-4:1e-5"]
    table = fork_rows(lambda lr, scheme: losses[scheme][rates.index(lr)], lr=rates, scheme=list(losses))
    report = report_on("variations", table)
    findings = {finding.comparison: finding for finding in report.findings}
    assert report.verdict == SUPPORTED
    better = findings["relaxed: loss relative to the better of identity and noise"]
    worse = findings["expected: loss relative to the better of identity and noise"]
    assert better.value == pytest.approx(0.96 / 0.98 - 1, abs=1e-3) and better.verdict == SUPPORTED
    assert worse.value == pytest.approx(1.0 / 0.98 - 1, abs=1e-3) and worse.verdict == NOT_SUPPORTED
    assert findings["relaxed: loss relative to identity"].value == pytest.approx(0.96 / 1.01 - 1, abs=1e-3)
    rate = findings[f"identity: loss at lr {rates[1]} relative to lr {rates[0]}"]
    assert rate.value == pytest.approx(1 / 101, abs=1e-3)


def test_structures_differ_if_the_slopes_over_the_temperature_do():
    levels = ["0.05", "0.1", "0.2", "0.4", "0.8"]

    def table(best):
        parts = [
            fork_rows(
                parabola(level), seeds=3, part="scratch", network=[network], scheme=["annealed"], temperature=levels
            )
            for network, level in best.items()
        ]
        return pd.concat(parts, ignore_index=True)

    report = report_on("temperature", table({"one": 0.2, "other": 0.3}))
    values = values_of(report)
    contrast = values["loss of one relative to that of other, for each doubling of τ"]
    assert report.verdict == SUPPORTED and values["one: best τ of a parabola, relative to 1"] == pytest.approx(
        -0.8, abs=0.02
    )
    # The loss is 0.02 · (log τ/best)², so doubling τ changes the difference of two losses by 0.04 · log 2 · log 1.5
    assert contrast == pytest.approx(math.expm1(0.04 * math.log(2) * math.log(1.5)), rel=0.1)
    same = report_on("temperature", table({"one": 0.2, "other": 0.2}))
    assert same.findings[-1].verdict == NOT_SUPPORTED
    assert CLAIMS["temperature"].curves(table({"one": 0.2}))[1]["one"][0] == [float(level) for level in levels]


def test_each_trick_has_its_own_effect_on_the_loss():
    schemes_and_losses = {
        "relaxed": 0.98,
        "relaxed through": 0.99,
        "relaxed uncentered": 1.01,
        "identity": 0.97,
        "identity uncentered": 1.0,
    }
    bounds = {0.03: 1.02, 0.11: 1.0, 0.3: 1.01}
    table = fork_rows(
        lambda scheme, scale_lower_bound: schemes_and_losses[scheme] * bounds[scale_lower_bound],
        seeds=3, part="scratch", scheme=list(schemes_and_losses), scale_lower_bound=list(bounds),
    )  # fmt: skip
    report = report_on("tricks", table)
    values = values_of(report)
    assert report.verdict == SUPPORTED
    assert values["all schemes: loss at the best inner bound relative to a bound of 0.03"] == pytest.approx(
        1 / 1.02 - 1, abs=1e-3
    )
    assert values["the stop-gradient, relaxed slope: change of the loss"] == pytest.approx(0.98 / 0.99 - 1, abs=1e-3)
    assert values["the zero center, slope 1: change of the loss at a bound of 0.3"] == pytest.approx(-0.03, abs=2e-3)
    assert report_on("tricks", table.assign(estimated_bpp=0.4, mse255=60)).verdict == NOT_SUPPORTED


def test_the_method_must_win_on_every_structure_and_runs_that_trained_too_briefly_are_found():
    losses = {"noise": 1.0, "mixed": 0.97, "annealed": 0.95}
    axes = {"network": ["one", "other"], "scheme": list(losses), "lmbda": [0.0018, 0.0067]}
    table = fork_rows(lambda scheme, **_: losses[scheme], seeds=3, part="scratch", **axes)
    longer = table[(table["lmbda"] == 0.0018) & (table["seed"] == 0)].assign(part="doubled")
    brief = longer["scheme"] == "noise"
    for name in ("estimated_bpp", "mse255"):
        longer[name] *= 0.999 - 0.02 * brief
    table = pd.concat([table, longer], ignore_index=True)
    report = report_on("comparison", table)
    values = values_of(report)
    assert report.verdict == SUPPORTED
    assert values["one: loss relative to noise"] == pytest.approx(-0.05, abs=1e-3)
    assert values["other, noise: loss after twice the steps"] == pytest.approx(-0.021, abs=1e-3)
    enough = {
        (network, scheme) for done, network, scheme, _ in comparison.doubled_changes(tables.with_losses(table)) if done
    }
    assert enough == set(product(["one", "other"], ["mixed", "annealed"]))
    worse = table["scheme"].eq("annealed") & table["network"].eq("other")
    table.loc[worse, ["estimated_bpp", "mse255"]] *= 1.05
    assert report_on("comparison", table).verdict == NOT_SUPPORTED


def test_measures_predict_the_losses_of_other_structures_if_both_weights_are_the_same():
    """The log loss is 0.3 |m| + 0.02 ln v, so the fit finds both weights and the order of every structure."""
    mismatch = {"mixed": 0.0, "noise": 0.2, "annealed, τ = 0.05": -0.05, "annealed, τ = 0.8": 0.15}
    variance = {"mixed": 1.0, "noise": 0.7, "annealed, τ = 0.05": 3.0, "annealed, τ = 0.8": 0.8}
    cells = [("mixed", "1"), ("noise", "1"), ("annealed", "0.05"), ("annealed", "0.8")]

    def table(sign):
        def loss(network, cell):
            label = cell[0] if cell[0] != "annealed" else f"annealed, τ = {cell[1]}"
            effect = 0.3 * abs(mismatch[label]) + 0.02 * math.log(variance[label])
            return math.exp(effect * (1 if network == "patch_hyperprior" else sign))

        networks = ["patch_hyperprior", "patch_mlp", "patch_linear"]
        runs = fork_rows(loss, seeds=3, part="scratch", noise=1e-4, network=networks, cell=cells)
        runs["scheme"], runs["temperature"] = runs["cell"].str[0], runs["cell"].str[1]
        measured = [
            measured_rows(values, seeds=3, network=network, quantity=quantity)
            for network in networks
            for quantity, values in (("mismatch", mismatch), ("variance", variance))
        ]
        return pd.concat([runs.drop(columns="cell"), *measured], ignore_index=True)

    report = report_on("prediction", table(1))
    values = values_of(report)
    assert report.verdict == SUPPORTED and report.findings[0].value == pytest.approx(1, abs=1e-6)
    assert values["weight of the mismatch in the prediction"] == pytest.approx(0.3, rel=0.1)
    assert values["weight of the log of the gradient variance in the prediction"] == pytest.approx(0.02, rel=0.1)
    assert report_on("prediction", table(-1)).verdict == NOT_SUPPORTED


def test_an_effect_is_replicated_if_its_new_estimate_is_in_the_first_interval(tmp_path):
    first = {"relaxed": 0.95, "relaxed through": 0.95, "relaxed uncentered": 1.01, "noise": 1.0}

    def table(new):
        runs, bounds = [], {0.11: 1.0, 0.3: 1.2}
        for part, losses in (("scratch", first), ("replicated", new)):
            rows = fork_rows(
                lambda scheme, scale_lower_bound, losses=losses: losses[scheme] * bounds[scale_lower_bound],
                seeds=3, part=part, noise=0.01, scheme=list(first), scale_lower_bound=list(bounds),
            )  # fmt: skip
            rows["seed"] += 3 * (part == "replicated")
            runs.append(rows)
        return pd.concat(runs, ignore_index=True)

    report = report_on("replication", table(first))
    values = values_of(report)
    assert report.verdict == SUPPORTED and len([one for one in report.findings if one.verdict]) == 4
    assert values["the zero center: change of the loss in the new runs"] == pytest.approx(0.95 / 1.01 - 1, abs=0.01)
    changed = report_on("replication", table({**first, "noise": 0.97}))
    assert changed.verdict == NOT_SUPPORTED
    assert [one.verdict for one in changed.findings if one.verdict].count(NOT_SUPPORTED) == 1
    assert values_of(changed)["the method instead of noise: new runs relative to the first"] == pytest.approx(
        1 / 0.97 - 1, abs=0.01
    )
    with pytest.raises(ValueError, match="use the option --data"):
        parts_of(make_study("replication", tmp_path))
    with pytest.raises(ValueError, match="leave out the option --seeds"):
        parts_of(make_study("replication", tmp_path, data="images", seeds=2))


def test_the_best_variation_must_be_better_on_every_other_network():
    losses = {"noise": 1.00, "annealed": 1.01, "substituted": 0.98}
    axes = {"network": ["one", "other"], "scheme": list(losses)}
    report = report_on("elsewhere", fork_rows(lambda network, scheme: losses[scheme], **axes))
    values = values_of(report)
    assert report.verdict == SUPPORTED and len(values) == 4
    assert values["one, test: loss relative to noise"] == pytest.approx(0.98 / 1.00 - 1, abs=1e-3)
    assert values["other, test: loss relative to annealed"] == pytest.approx(0.98 / 1.01 - 1, abs=1e-3)
    table = fork_rows(lambda network, scheme: 1.0 if network == "one" else losses[scheme], **axes)
    assert report_on("elsewhere", table).verdict == NOT_SUPPORTED


def test_the_method_has_a_bd_rate_against_every_other_scheme():
    table = curve_rows(RATE_FACTORS)
    table = table[(table["part"] == "forks") | (table["scheme"] != "mixed")]  # fewer schemes are trained from scratch
    report = claim_report("method", table)
    findings = {finding.comparison: finding for finding in report.findings}
    for about, others in (("one, test", ("noise", "mixed")), ("one from scratch, test", ("noise",))):
        for scheme in others:
            rate = findings[f"{about}: BD-rate against {scheme}"]
            assert rate.value == pytest.approx(0.95 / RATE_FACTORS[scheme] - 1, abs=2e-3)
            assert rate.verdict == SUPPORTED
    assert report.verdict == SUPPORTED and "BD-rate against noise: -5.0" in markdown.table([report])
    assert claim_report("method", curve_rows({**RATE_FACTORS, "annealed": 0.98})).verdict == NOT_SUPPORTED
    wide = claim_report("method", curve_rows({**RATE_FACTORS, "annealed": 0.96}, noise=0.06))
    assert wide.verdict == INCONCLUSIVE
    assert "further seed" in wide.conclusion and "core-hours" in wide.conclusion
    hours = curve_rows(RATE_FACTORS)["run"].nunique() / 4 * 90 / 3600
    assert wide.hours == pytest.approx(hours)


def test_failed_runs_are_counted_and_do_not_affect_other_comparisons():
    table = curve_rows({"annealed": 0.95, "noise": 1.0, "soft_rounding": 1.0})
    lost = (table["scheme"] == "soft_rounding") & (table["part"] == "scratch") & (table["seed"] < 3)
    failed = table[lost & (table["lmbda"] < 0.005)].drop_duplicates("run")
    nothing: dict = dict.fromkeys(("bpp", "psnr", "estimated_bpp", "mse255", "train_bpp", "train_mse255"), math.nan)
    nothing |= {"set": None, "name": None}
    failed = failed.assign(**nothing, error="FloatingPointError: the loss is nan at step 7")
    others = table[~table["run"].isin(failed["run"])]
    report = claim_report("method", pd.concat([others, failed], ignore_index=True))
    assert report.seeds == 4
    findings = {finding.comparison: finding for finding in report.findings}
    assert findings["one from scratch, test: BD-rate against noise"].verdict == SUPPORTED
    single = findings["one from scratch, test: BD-rate against soft_rounding"]
    assert single.verdict == INCONCLUSIVE and single.value == pytest.approx(-0.05, abs=2e-3) and math.isnan(single.low)
    last = report.findings[-1]
    assert last.comparison == "one, scratch, soft_rounding: runs that failed with FloatingPointError, 3 of 12"
    assert last.value == 0.25 and not last.verdict and "25%" in str(last)


# Declared grids -------------------------------------------------------------------------------------------------------


def make_study(name, tmp_path, **options):
    return Study(name, tmp_path / "work", tmp_path / "out", **options)


def no_results(sweep):
    return pd.DataFrame({"run": [], "status": []})


def parts_of(study):
    return CLAIMS[study.name].parts(study, no_results)


FORKED = [name for name in CLAIMS if "trunk" in declaration(name)]


@pytest.mark.parametrize("name", FORKED)
def test_every_claim_with_trunks_is_declared_and_shares_them(name, tmp_path):
    runs = [(part, run) for part, sweep in parts_of(make_study(name, tmp_path)) for run in sweep.runs()]
    other = (str(paths.data() / "photographs" / "train"),)  # additional test images do not change the trunks
    shared = {run.name for _, run in named_runs(parts_of(make_study("method", tmp_path, tests=other))) if not run.trunk}
    for part, run in runs:
        if not run.trunk and part != "scratch":
            assert run.name in shared, run
    laptop, gpu = (declaration(name, scale) for scale in SCALES)
    assert laptop["claim"].endswith(".") and laptop["size"] == "tiny" and gpu["size"] == "small"
    assert (laptop["trunk"]["steps"], gpu["trunk"]["steps"], gpu["steps"]) == (5000, 100_000, 20_000)
    fewer = [run for _, sweep in parts_of(make_study(name, tmp_path, seeds=1)) for run in sweep.runs()]
    assert {run.settings["seed"] for run in fewer} == {0}
    assert {run.name for run in fewer} < {run.name for _, run in runs}


def test_the_declared_claims_are_the_listed_claims():
    with pytest.raises(ValueError, match="unknown claim 'bounds'; did you mean bound"):
        declaration("bounds")
    with pytest.raises(ValueError, match="unknown scale 'cluster'"):
        Study("bound", "work", "out", scale="cluster")
    assert [claim.name for claim in CLAIMS.values()] == list(CLAIMS) and len(FORKED) == 9
    assert all(declaration(name)["claim"] for name in CLAIMS)


def test_the_method_has_three_networks_three_lambdas_and_eight_tuned_schemes(tmp_path):
    declared = declaration("method")
    assert set(declared["grid"]["network"]) == set(NETWORKS) and len(declared["grid"]["lmbda"]) == 3
    tuning = declared["tuning"]["schemes"]
    others = {"noise", "straight_through", "mixed", "soft_rounding", "gumbel", "universal_ds", "soft_then_hard"}
    assert set(tuning) == others | {"annealed"} and {len(candidates) for candidates in tuning.values()} == {4}
    assert all(len({json.dumps(candidate) for candidate in candidates}) == 4 for candidates in tuning.values())
    runs = list(named_runs(parts_of(make_study("method", tmp_path))))
    cells = {(part, run.settings["network"], run.settings["scheme"], run.settings["lmbda"]) for part, run in runs}
    assert len([cell for cell in cells if cell[0] == "forks"]) == 3 * 8 * 3
    assert len([cell for cell in cells if cell[0] == "scratch"]) == 1 * 5 * 3
    assert {run.settings["steps"] for part, run in runs if part == "scratch"} == {5000}


def test_claims_from_scratch_compare_equal_batches_and_share_runs(tmp_path):
    other = str(paths.data() / "photographs" / "test")
    studies = {name: make_study(name, tmp_path, data=other if name == "replication" else None) for name in CLAIMS}
    runs = {
        name: [(part, run) for part, sweep in parts_of(studies[name]) for run in sweep.runs()]
        for name in CLAIMS
        if name not in FORKED
    }
    assert {name: len({run.name for _, run in each}) for name, each in runs.items()} == {
        "temperature": 4 * 5 * 3, "tricks": 5 * 3 * 3, "comparison": 3 * 5 * 3 + 3 * 3 * 3 + 4 * 3,
        "prediction": 4 * 2 * 3 + 4 * 5 * 3, "trained_mismatch": 4 * 3, "trained_gradients": 4 * 3,
        "replication": 5 * 3 * 2,
    }  # fmt: skip
    for part, run in [one for each in runs.values() for one in each]:
        settings = {name: run.settings[name] for name in ("batch_size", "crop", "permute_colors", "start", "steps")}
        steps = 4000 if part == "doubled" else 2000
        assert list(settings.values()) == [8, 128, True, None, steps] and not run.trunk
    names = {name: {run.name for _, run in each} for name, each in runs.items()}
    assert len(names["comparison"] & names["tricks"]) == 3  # the method at the bound 0.11 is trained once
    assert names["prediction"] < names["comparison"] | names["temperature"]
    assert len(names["replication"] - names["tricks"] - names["comparison"]) == 5 * 3
    assert names["trained_mismatch"] == names["trained_gradients"] < names["comparison"]


def test_structure_and_tradeoff_share_runs(tmp_path):
    tradeoff_runs, structure_runs = (
        {run.name for _, sweep in parts_of(make_study(name, tmp_path)) for run in sweep.runs()}
        for name in ("tradeoff", "structure")
    )
    assert len(tradeoff_runs & structure_runs) == 4 * (1 + 2 * 8)


def test_tuning_selects_the_best_candidate_for_each_network_on_training_photographs(tmp_path):
    requests = []

    def run_sweep(sweep):
        """Return losses for which the third candidate is best, or the second for one network and scheme."""
        requests.append(sweep)
        positions, rows = {}, []
        for run in [run for run in sweep.runs() if run.trunk]:
            key = run.settings["network"], run.settings["scheme"]
            positions[key] = positions.get(key, -1) + 1
            best = 1 if key == ("factorized_prior", "mixed") else 2
            loss = 1.0 + abs(positions[key] - best)
            rows.append({"run": run.name, "status": "done", "loss": loss, "seconds": 36.0})
        return pd.DataFrame(rows)

    study = make_study("method", tmp_path)
    chosen = method.tuned_candidates(study, run_sweep)
    declared = declaration("method")["tuning"]["schemes"]
    for (network, scheme), fields in chosen.items():
        assert fields == declared[scheme][1 if (network, scheme) == ("factorized_prior", "mixed") else 2]
    for run in requests[0].runs():
        assert run.settings["seed"] == 1000 and run.settings["lmbda"] == 0.0093
        if run.trunk:
            assert run.settings["test"] == [str((paths.data() / "photographs" / "train").resolve())]
    assert method.tuned_candidates(study, no_results) == chosen  # the saved table is used
    table = pd.read_parquet(tables.table_path("tuning", tmp_path / "out"))
    assert len(table) == 3 * 8 * 4 and table["chosen"].sum() == 3 * 8
    assert table["core_hours"].to_numpy() == pytest.approx(0.01, rel=1e-4)
    forks = [run for _, run in named_runs(CLAIMS["method"].parts(study, run_sweep)) if run.trunk]
    used = {(r.settings["network"], r.settings["scheme"], r.settings["lr"], r.scheme.get("share")) for r in forks}
    assert ("factorized_prior", "mixed", "cosine:2e-4:1e-5", None) in used
    assert ("mean_scale_hyperprior", "mixed", "cosine:3e-4:1e-5", None) in used
    assert ("mean_scale_hyperprior", "soft_then_hard", "cosine:2e-4:1e-5", 0.8) in used


def test_a_declared_scheme_can_have_another_surrogate_on_one_path():
    scheme = schemes.annealed(distortion="sga", temperature=0.3)
    assert scheme.distortion == surrogates.get("sga") and scheme.rate == surrogates.get("aun") and scheme.stop_gradient
    assert schemes.mixed(distortion="round").distortion == surrogates.get("round")
