"""The study: rows that tables already contain, predictions, tables and reports, and a few tiny studies."""

import json
import math
import re
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from labkit import cli, datasets, first_edition, networks, paths, schemes, surrogates, training
from labkit.research.study import (
    CLAIMS,
    ClaimReport,
    Finding,
    Study,
    declarations,
    engine,
    markdown,
    predictions,
    report,
    tables,
)
from labkit.research.study.claims import comparison
from labkit.research.study.findings import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED
from labkit.research.sweeps import Sweep, cluster
from labkit.research.sweeps.results import ResultsFolder
from tests.bench import self_tuned
from tests.research.known_tables import RATE_FACTORS, TEMPERATURES, curve_rows, fork_rows, parabola

VERDICTS = Path(__file__).parents[1] / "first_edition" / "study_verdicts.json"


def make_study(name, tmp_path, **options):
    return Study(name, tmp_path / "work", tmp_path / "out", **options)


def no_results(sweep):
    return pd.DataFrame({"run": [], "status": []})


def parts_of(study):
    return CLAIMS[study.name].parts(study, no_results)


# Rows that tables already contain -------------------------------------------------------------------------------------


def save_table(study, runs, weights):
    """Save a table with these runs, whose trunks have these weights."""
    rows = []
    for run in runs:
        row = {"part": "forks" if run.trunk else tables.TRUNK, "run": tables.short_name(run.name), "command": "here"}
        row |= {"start": tables.short_name(run.trunk), "seed": run.settings["seed"], "set": "test", "name": "a"}
        rows.append({**row, "bpp": 0.5, "weights": "of a fork" if run.trunk else weights})
    tables.save(pd.DataFrame(rows), tables.table_path(study.name, study.out))


def save_trunk(study, run, weights):
    """Put the row of a trunk into the work folder."""
    study.work.mkdir(exist_ok=True)
    ResultsFolder(study.work).merge([run.row("done", weights=weights)])


def missing_and_existing(study):
    parts = parts_of(study)
    return {run.name for run in engine.missing_runs(study, parts).runs()}, engine._existing_rows(study, parts)


def test_an_incomplete_table_counts_only_with_the_trunk_in_the_work_folder(tmp_path):
    """The trunk of another machine has other weights, and only runs that fork from the same trunk are comparable."""
    study = make_study("bound", tmp_path, seeds=1)
    (sweep,) = (sweep for _, sweep in parts_of(study))
    trunk, *forks = sweep.runs()
    save_table(study, [trunk, *forks[1:]], "first")
    assert missing_and_existing(study)[0] == {trunk.name, *(run.name for run in forks)}  # no trunk to fork from
    save_trunk(study, trunk, "second, which is longer")
    assert missing_and_existing(study)[0] == {trunk.name, *(run.name for run in forks)}
    save_trunk(study, trunk, "first")
    missing, existing = missing_and_existing(study)
    assert missing == {trunk.name, forks[0].name} and len(existing) == len(forks)
    save_trunk(study, trunk, "second")
    save_table(study, [trunk, *forks], "first")
    assert missing_and_existing(study)[0] == set()  # a complete table counts, whatever the work folder contains


def test_a_complete_table_is_preferred_and_then_the_claims_own_table(tmp_path):
    structure, tradeoff = (make_study(name, tmp_path, seeds=1) for name in ("structure", "tradeoff"))
    (sweep,) = (sweep for _, sweep in parts_of(tradeoff))
    save_table(tradeoff, sweep.runs(), "first")
    missing, existing = missing_and_existing(structure)
    shared = {run.name for run in structure.sweep().runs()} & {run.name for run in sweep.runs()}
    assert len(shared) == 17 and not missing & shared and set(existing["weights"]) == {"first", "of a fork"}
    runs = [run for run in structure.sweep().runs() if run.name in shared]
    save_table(structure, runs[:-1], "second")
    missing, existing = missing_and_existing(structure)
    assert not missing & shared and "second" not in set(existing["weights"])
    save_table(structure, runs, "second")
    assert "first" not in set(missing_and_existing(structure)[1]["weights"])


def test_a_failed_run_is_in_the_table_and_is_not_repeated(tmp_path):
    study = make_study("bound", tmp_path, seeds=1)
    trunk, *forks = parts_of(study)[0][1].runs()
    rows = [run.row("done", bpp=0.5, rate=0.5, weights="w", set="test", name="a") for run in (trunk, *forks[1:])]
    rows.append(forks[0].row("failed", "FloatingPointError: the loss is nan at step 7; /some/where keeps step 0"))
    study.work.mkdir()
    ResultsFolder(study.work).merge(rows)
    frame = ResultsFolder(study.work).frame([run.name for run in (trunk, *forks)])
    tables.save(engine.updated_table(study, lambda _: frame), tables.table_path(study.name, study.out))
    table = tables.read(study.name, study.out)
    failed = table[table["run"] == tables.short_name(forks[0].name)]
    assert failed["error"].tolist() == ["FloatingPointError: the loss is nan at step 7"] and len(table) == len(rows)
    shutil.rmtree(study.work)
    assert missing_and_existing(study)[0] == set()


# Predictions of a scalar code -----------------------------------------------------------------------------------------


def test_scale_shares_agree_with_the_scales_of_the_latents():
    photos = datasets.photos("test")[:1]
    net = networks.pretrained("mean_scale_hyperprior", 0.025)
    sigmas = []
    forward = net.gaussian_conditional.forward
    net.gaussian_conditional.forward = lambda y, s, *a, **k: (sigmas.append(s), forward(y, s, *a, **k))[1]
    shares = predictions.scale_shares(net, photos)
    mean_log = sigmas[-1].clamp(0.11, 4).log().mean().item()
    assert shares.sum() == pytest.approx(1)
    assert shares @ np.log(predictions.SIGMAS) == pytest.approx(mean_log, abs=0.03)
    for name in ("factorized_prior", "channel_autoregressive"):
        assert predictions.scale_shares(networks.get(name), photos).sum() == pytest.approx(1)


def test_predictions_are_averages_over_scales():
    shares = np.zeros(len(predictions.SIGMAS))
    shares[[2, 6]] = 0.25, 0.75
    scheme = schemes.stochastic_rounding(0.5)
    predicted = predictions.mismatch({"annealed": scheme, "hard": schemes.soft_then_hard()}, shares)
    assert predicted["hard"] == (0.0, 0.0)
    average = shares @ predictions._mismatches(scheme)
    assert predicted["annealed"] == pytest.approx(tuple(average)) and predicted["annealed"][1] > 0
    variance, promise = predictions.gradient({"ste": surrogates.get("ste")}, 0.25, shares)["ste"]
    assert variance == 0 and 0.5 < promise < 2


# Tables and reports ---------------------------------------------------------------------------------------------------


def test_a_saved_table_is_small_and_exact_to_16_binary_digits(tmp_path):
    table = curve_rows(RATE_FACTORS)
    table["value"] = [math.nan, -0.5, *[1e-30] * (len(table) - 2)]
    tables.save(table, tables.table_path("method", tmp_path))
    read = tables.read("method", tmp_path)
    loss = table["estimated_bpp"] + table["lmbda"] * table["mse255"]
    assert read["loss"].to_numpy() == pytest.approx(loss.to_numpy(), rel=2e-5)
    assert read["bpp"].to_numpy() == pytest.approx(table["bpp"].to_numpy(), rel=1.6e-5)
    assert (read["lmbda"] == table["lmbda"]).all() and read["value"].isna().sum() == 1 and read["value"][1] == -0.5
    assert tables.table_path("method", tmp_path).stat().st_size < 4 * 8 * len(table)
    with pytest.raises(ValueError, match=r"does not exist. `labkit study bound` makes it"):
        tables.read("bound", tmp_path)


def test_the_report_covers_all_claims_and_updates_the_tables_and_figures_of_the_readme(tmp_path):
    tables.save(curve_rows(RATE_FACTORS), tables.table_path("method", tmp_path))
    readme = tmp_path / "README.md"
    figure = "<!-- finding method: one, test: BD-rate against noise -->"
    marks = f"<!-- study beginning -->\nold\n<!-- /study --> {figure}old<!-- /finding -->"
    readme.write_text(f"before\n{marks}\nafter\n")
    arguments = ["study", "report", "--results", str(tmp_path), "--readme", str(readme), "--figures"]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0, result.output
    assert result.output.count("no table yet") == len(CLAIMS) - 1 and "method: The whole method" in result.output
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    reports = report.claim_reports(tmp_path)
    (number,) = (one.numbers for one in reports[6].findings if one.comparison == "one, test: BD-rate against noise")
    assert f"{figure}{number}<!-- /finding -->" in text and number.startswith("-5.0")
    beginning = sum(not one.trained for one in reports)
    assert text.count("| **no table yet** |") == beginning - 1 and "| **supported** |" in text
    assert [one.name for one in reports if one.trained][:2] == ["temperature", "tricks"]
    drawn = (tmp_path / "study-method.svg").read_bytes()
    CliRunner().invoke(cli.main, arguments)
    assert (tmp_path / "study-method.svg").read_bytes() == drawn and b"<svg" in drawn
    for text, message in {
        "no marks": "README.md: the text must contain <!-- study trained -->",
        "<!-- study all --><!-- /study -->": "<!-- study all -->: the group must be one of trained, beginning",
        f"{figure.replace('noise', 'nose')}<!-- /finding -->": "nose -->: the report on method has no such finding",
    }.items():
        readme.write_text(text)
        assert message in CliRunner().invoke(cli.main, arguments).output
        assert readme.read_text() == text


def test_an_inconclusive_report_gives_the_number_of_seeds_that_would_decide_it():
    findings = tuple(Finding("x", 0.0, -1.0, 1.0, INCONCLUSIVE, further_seeds=seeds) for seeds in (None, 7, 2))
    conclusions = {
        rule: ClaimReport("x", "", findings, INCONCLUSIVE, 3, 1.5, rule).conclusion for rule in ("any", "all")
    }
    assert conclusions["any"].startswith("inconclusive: 2 further seeds (3 core-hours) would decide it")
    assert conclusions["all"].startswith("inconclusive: 1,000 further seeds would not decide it")


def test_the_short_table_shows_the_inconclusive_finding_closest_to_a_decision():
    findings = tuple(
        Finding(name, 0.0, -1.0, 1.0, INCONCLUSIVE, further_seeds=seeds, main=True)
        for name, seeds in (("far", None), ("near", 3))
    )
    assert "2 inconclusive, e.g. near:" in markdown.table([ClaimReport("x", "", findings, INCONCLUSIVE)])


def test_a_stopped_study_is_reported_on_its_complete_seeds():
    table = curve_rows(RATE_FACTORS, seeds=3)
    stopped = table[(table["seed"] < 2) | (table["scheme"] == "noise")]
    assert tables.complete_seeds(stopped) == [0, 1] and tables.complete_seeds(table) == [0, 1, 2]
    another = table[table["seed"] == 0].assign(network="two", run="another's " + table["run"])
    assert tables.complete_seeds(pd.concat([table, another])) == [0, 1, 2]  # the other network has one seed
    assert tables.complete_seeds(stopped[stopped["seed"] > 0]) == [1]
    partial, complete = report.claim_report("method", stopped), report.claim_report("method", table[table["seed"] < 2])
    assert (partial.seeds, partial.hours) == (2, complete.hours)
    assert partial.findings == complete.findings


def test_a_table_that_lacks_a_comparison_has_no_verdict():
    empty = fork_rows(parabola(0.2), scheme=["identity"], temperature=TEMPERATURES[:1])[:0]
    assert report.claim_report("tradeoff", empty).verdict != SUPPORTED
    table = curve_rows(RATE_FACTORS)
    incomplete = report.claim_report("method", table[(table["scheme"] != "mixed") | (table["lmbda"] > 0.02)])
    assert incomplete.verdict.startswith("incomplete: no seed has all of annealed/")


@pytest.fixture(scope="module")
def bundled_reports():
    return report.claim_reports()


@pytest.mark.parametrize("path", ["README.md", "data/results/README.md"])
def test_the_tables_and_figures_in_markdown_agree_with_the_bundled_tables(path, bundled_reports):
    file = paths.data().parent / path
    text = file.read_text(encoding="utf-8")
    folder = "data/results" if file.parent == paths.data().parent else "."
    assert text == markdown.rewritten(text, bundled_reports, folder)


def test_the_runs_that_had_not_trained_long_enough_are_those_that_the_results_page_names():
    text = (paths.data() / "results" / "README.md").read_text(encoding="utf-8")
    listed = re.search(r"Not trained long enough, by the limit of 1%: (.*?)\.\n\n", text, flags=re.S)[1]
    named = {
        (network, scheme)
        for part in " ".join(listed.split()).split("; ")
        for network, *schemes_of_part in [re.findall(r"`(\w+)`", part)]
        for scheme in schemes_of_part
    }
    changes = comparison.doubled_changes(tables.read("comparison"))
    assert named == {(network, scheme) for long_enough, network, scheme, _ in changes if not long_enough}


def test_the_table_of_tuned_temperatures_follows_from_its_rows():
    folder = paths.data() / "results"
    rows = json.loads((folder / "self-tuned.json").read_text())
    assert "\n".join(self_tuned.summary([*rows.values()])) in (folder / "README.md").read_text(encoding="utf-8")


def test_a_changed_table_contradicts_the_readme(bundled_reports):
    """A change of one scheme's losses by 1% fails the comparison of the README with the tables."""
    text = (paths.data().parent / "README.md").read_text(encoding="utf-8")
    for claim in ("tricks", "comparison"):
        table = tables.read(claim)
        changed = table["scheme"] == ("annealed" if claim == "comparison" else "relaxed uncentered")
        table.loc[changed, ["estimated_bpp", "mse255"]] *= 1.01
        planted = [one if one.name != claim else report.claim_report(claim, table) for one in bundled_reports]
        assert markdown.rewritten(text, planted, "data/results") != text


def test_the_bundled_tables_give_the_verdicts_of_the_first_edition(bundled_reports):
    """Only the names of the verdicts have changed."""
    names = {"held": SUPPORTED, "not held": NOT_SUPPORTED, "undecided": INCONCLUSIVE, "": ""}
    claims = {claim.name: claim for claim in bundled_reports}
    for name, expected in json.loads(VERDICTS.read_text()).items():
        claim = claims[name]
        assert claim.verdict == names[expected["verdict"]], name
        assert [finding.verdict for finding in claim.findings] == [names[key] for key in expected["findings"]], name
        assert [finding.value for finding in claim.findings] == pytest.approx(expected["values"], rel=1e-6, nan_ok=True)


# Tiny studies ---------------------------------------------------------------------------------------------------------

SCHEMES = {  # those of the declarations that are kept
    "noise", "mixed", "annealed", "identity", "identity through", "soft", "soft through", "soft uncentered", "relaxed",
    "relaxed through",
}  # fmt: skip


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Reduce the declarations to a few steps and cells, and the photographs to small crops."""
    from PIL import Image

    for split, side in (("train", 96), ("test", 64)):
        (tmp_path / split).mkdir()
        for path in sorted((paths.data() / "photographs" / split).glob("*.webp"))[:2]:
            Image.open(path).crop((64, 64, 64 + side, 64 + side)).save(tmp_path / split / f"{path.stem}.png")
    full_declaration = declarations.declaration

    def declaration(name, scale="laptop"):
        values = full_declaration(name, scale)
        reduced = {"steps": 2, "batch_size": 1, "crop": 64, "grid": {"seed": [0, 1]}, "trunk": {"steps": 3}}
        values = declarations.merged(values, reduced)
        values["grid"] |= {"network": ["mean_scale_hyperprior"]} if "network" in values["grid"] else {}
        values["grid"] |= {"temperature": [0.1, 0.3, 1.0]} if "temperature" in values["grid"] else {}
        if "scheme" in values["grid"]:
            values["grid"]["scheme"] = [scheme for scheme in values["grid"]["scheme"] if scheme in SCHEMES]
        if "tuning" in values:
            names = ("noise", "annealed")
            values["tuning"]["schemes"] = {key: values["tuning"]["schemes"][key][:2] for key in names}
            values["parts"]["scratch"] |= {"steps": 3, "grid": {"network": ["mean_scale_hyperprior"]}}
            values["grid"]["lmbda"] = [0.0035, 0.025]
            values["tuning"]["lmbda"] = 0.025
        if "toys" in values:
            values["toys"] |= {"steps": 3, "sources": ["toy_1d laplacian", "toy_2d ring"]}
        return values

    monkeypatch.setattr(predictions, "SIGMAS", np.geomspace(0.11, 1, 3))
    for cached in (predictions._mismatches, predictions._gradients):
        cached.cache_clear()
    monkeypatch.setattr(declarations, "declaration", declaration)
    monkeypatch.setattr(declarations, "test_folder", lambda: tmp_path / "test")
    yield tmp_path
    for cached in (predictions._mismatches, predictions._gradients):
        cached.cache_clear()


@pytest.fixture(scope="module")
def address():
    """Return the address of a cluster with one worker, which the tiny studies share: each worker has to load torch."""
    runs = Sweep("out", {"network": "toy_2d", "lmbda": 1.0, "steps": 1}, {}, {}).runs()
    with cluster.local_client(runs, 1, None) as client:
        yield client.scheduler.address


def execute(tmp_path, name, *options, workers=("--workers", 1)):
    arguments = ["study", name, "--work", tmp_path / "work", "--out", tmp_path / "out", "--data", tmp_path / "train"]
    result = CliRunner().invoke(cli.main, [str(argument) for argument in [*arguments, *workers, *options]])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.mark.slow
@pytest.mark.parametrize("name", ["structure", "zero_center", "gradients", "mismatch", "tradeoff"])
def test_a_tiny_study_ends_with_a_table_a_figure_and_a_verdict(tiny, address, name):
    output = execute(tiny, name, workers=("--address", address))
    table = tables.read(name, tiny / "out")
    text = output[output.index(f"{name}: {declarations.declaration(name)['claim']}") :]
    verdict = text.splitlines()[1]
    assert any(word in verdict for word in (SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE)) and "(2 seeds)" in text
    assert set(table["seed"]) == {0, 1} and (tiny / "out" / f"study-{name}.svg").exists()
    written = {path: path.stat().st_mtime_ns for path in (tiny / "work").rglob("*.*")}
    assert execute(tiny, name).endswith(text) and execute(tiny, name, "--as-is").endswith(text)  # nothing is repeated
    assert written == {path: path.stat().st_mtime_ns for path in (tiny / "work").rglob("*.*")}


@pytest.mark.slow
def test_runs_that_tables_contain_are_not_repeated_without_the_work_folder(tiny, address):
    """Tables of other claims count too, and additional seeds extend a table."""
    workers = {"workers": ("--address", address)}
    execute(tiny, "tradeoff", "--seeds", 1, **workers)
    shutil.rmtree(tiny / "work")
    execute(tiny, "structure", "--seeds", 1, **workers)
    assert not (tiny / "work" / "runs").exists()  # only toys were trained
    first = pd.read_parquet(tiny / "out" / "study-structure.parquet")
    shutil.rmtree(tiny / "work")
    execute(tiny, "structure", "--seeds", 2, **workers)
    table = pd.read_parquet(tiny / "out" / "study-structure.parquet")
    both = table.merge(first, how="right", on=[*first.drop(columns="command")], validate="one_to_one")
    assert len(both) == len(first) and both["part"].notna().all()
    assert {int(path.name.split("-")[-2]) for path in (tiny / "work" / "runs").iterdir()} == {1}
    assert all(set(seeds) == {0, 1} for seeds in table.groupby("part")["seed"].unique())
    assert set(table["part"]) == {"forks", "trunk", "toys"}
    shutil.rmtree(tiny / "work")
    for seeds in (1, 2):
        assert "(2 seeds)" in execute(tiny, "structure", "--seeds", seeds, **workers)
        again = pd.read_parquet(tiny / "out" / "study-structure.parquet")
        assert not (tiny / "work").exists() and len(again) == len(table)
    execute(tiny, "tradeoff", "--seeds", 2, **workers)
    table = pd.read_parquet(tiny / "out" / "study-tradeoff.parquet")
    assert set(table["seed"][table["part"] == "measured"]) == {0, 1}


@pytest.mark.slow
def test_a_tiny_study_of_the_method_tunes_trains_and_codes_two_sets_of_images(tiny, address):
    shutil.copytree(tiny / "test", tiny / "kodak")
    workers = {"workers": ("--address", address)}
    result = CliRunner().invoke(cli.main, ["study", "bound", "--as-is", "--work", str(tiny / "none")])
    assert result.exit_code == 2 and result.output == f"labkit: no run of bound is done in {tiny / 'none'}\n"
    dry_output = execute(tiny, "method", "--test", tiny / "kodak", "--dry-run", **workers)
    assert dry_output.count("missing in") == 2 and not (tiny / "work").exists()
    output = execute(tiny, "method", "--test", tiny / "kodak", **workers)
    table = tables.read("method", tiny / "out")
    counts = table.groupby(["part", "set"])["run"].nunique().to_dict()
    assert counts == {**dict.fromkeys(product(("forks", "scratch"), ("kodak", "test")), 8), ("trunk", "test"): 4}
    forks = table[table["part"] == "forks"]
    assert set(forks["start"]) == set(table[table["part"] == "trunk"]["run"])
    assert (table["command"] == "labkit study method --data FOLDER --test kodak").all()
    assert "BD-rate against noise" in output and len(pd.read_parquet(tiny / "out" / "study-tuning.parquet")) == 4
    checkpoint = next((tiny / "work" / "runs").glob("*.safetensors"))
    assert training.load_checkpoint(checkpoint)[1]["steps"] in (2, 3)
    second_output = execute(tiny, "method", "--test", tiny / "kodak", "--dry-run")
    assert second_output.endswith(f"nothing is missing in {tiny / 'out' / 'study-method.parquet'}\n")


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_lists_every_claim_and_accepts_the_old_name_of_one():
    listing = CliRunner().invoke(cli.main, ["study", "--help"]).output
    assert all(f"\n  {name} " in listing for name in [*CLAIMS, "example", "report"])
    ((old, name),) = first_edition.CLAIMS.items()
    help_text = CliRunner().invoke(cli.main, ["study", old, "--help"])
    assert help_text.exit_code == 0 and f"claims/{name}.toml" in help_text.output
    assert CliRunner().invoke(cli.main, ["study", "pilot"]).exit_code == 2
