"""The commands `labkit train`, `evaluate`, `refine`, `lessons`, `study` and `bench`."""

import inspect
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from labkit import defaults, evaluation, networks, paths, schemes, training
from labkit.cli import main

README = Path(__file__).resolve().parents[2] / "README.md"


def labkit(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "net.safetensors"
    training.save_checkpoint(networks.factorized_prior("tiny"), path, lmbda=0.01)
    return path


def test_evaluate_reads_a_checkpoint_that_train_has_written(tmp_path):
    out = tmp_path / "run.safetensors"
    scheme = ["--network", "bmshj2018-factorized", "--scheme", "annealed", "--temperature", "exponential:1:0.1"]
    settings = ["--lmbda", 0.01, "--steps", 3, "--batch-size", 1, "--device", "cpu"]
    result = labkit("train", *scheme, *settings, "--out", out)
    assert result.exit_code == 0, result.output
    net, info = training.load_checkpoint(out)
    assert info["lmbda"] == 0.01 and net.scheme == schemes.annealed(temperature=net.scheme.temperature)
    assert net.scheme.temperature(2, 3) == pytest.approx(0.1)
    again = labkit("train", *scheme[:2], "--start", out, *settings, "--out", tmp_path / "two.safetensors")
    assert again.exit_code == 0, again.output

    (tmp_path / "images").mkdir()
    Image.effect_noise((70, 40), 60).save(tmp_path / "images" / "noise.png")
    result = labkit("evaluate", out, "--data", tmp_path / "images", "--table", tmp_path / "table.csv")
    assert result.exit_code == 0 and "noise.png" in result.output and "mean" in result.output
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 2


def test_evaluate_prints_curves_and_bd_rates_and_writes_a_table_and_a_plot(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("dune", "storm", "wine_0"):
        image = Image.open(paths.data() / "photographs" / "test" / f"{name}.webp")
        image.crop((0, 0, 192, 192)).save(tmp_path / "images" / f"{name}.png")
    out = ["--table", tmp_path / "table.parquet", "--plot", tmp_path / "plane.html"]
    result = labkit("evaluate", "--data", tmp_path / "images", "--beside", "jpeg", "--metric", "ms_ssim", *out)
    assert result.exit_code == 0, result.output
    lmbdas = networks.pretrained_lmbdas()
    assert all(f"λ = {lmbda:g}" in result.output for lmbda in lmbdas) and "MS-SSIM (dB)" in result.output
    assert "BD-rate of patch_hyperprior tiny against jpeg, in percent: " in result.output
    table = evaluation.read_table(tmp_path / "table.parquet")
    assert len(table) == 3 * (len(lmbdas) + 9) and set(table["curve"]) == {"patch_hyperprior tiny", "jpeg"}
    assert "plotly" in (tmp_path / "plane.html").read_text(encoding="utf-8")


def test_refine_prints_and_writes_the_saving(tmp_path):
    image = Image.open(paths.data() / "photographs" / "test" / "storm.webp")
    image.crop((0, 0, 128, 100)).save(tmp_path / "storm.png")
    settings = ["--steps", 20, "--surrogate", "sua", "--temperature", "exponential:0.5:0.1"]
    result = labkit("refine", tmp_path / "storm.png", *settings, "--table", tmp_path / "refined.csv")
    assert result.exit_code == 0 and "mean saving of the loss" in result.output, result.output
    (row,) = evaluation.read_table(tmp_path / "refined.csv").to_dict("records")
    assert row["loss_after"] < row["loss_before"] and row["saving"] == 1 - row["loss_after"] / row["loss_before"]
    assert (row["name"], row["height"], row["width"]) == ("storm.png", 100, 128)
    assert row["lmbda"] == defaults.PRETRAINED_LMBDA


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["evaluate", "--beside", "gif"], "--beside must be one of jpeg, webp, jpeg2000, avif, got gif"),
        (["evaluate", "--table", "t.txt"], "t.txt: the file name must end in .csv or .parquet"),
        (["refine", "absent.png"], "absent.png: there is no such file"),
        (["refine", "absent.png", "--table", "t.txt"], "t.txt: the file name must end in .csv or .parquet"),
        (["evaluate", "absent.safetensors"], "absent.safetensors: there is no such checkpoint"),
        (["evaluate", "CHECKPOINT", "--data", "absent"], "absent: there is no such folder"),
        (["train", "--scheme", "anneal", "--lmbda", 1, "--steps", 1, "--out", "x"], "did you mean annealed"),
        (
            ["train", "--network", "hyperprior", "--lmbda", 1, "--steps", 1, "--out", "x"],
            "unknown network 'hyperprior'",
        ),
        (
            ["train", "--start", "CHECKPOINT", "--lmbda", 1, "--steps", 1, "--out", "x"],
            "holds a factorized_prior, not a mean",
        ),
        (
            ["train", "--lmbda", 0, "--steps", 1, "--device", "cpu", "--out", "x"],
            "lmbda must be a positive finite number",
        ),
        (["train", "--lr", "cosine:1", "--lmbda", 1, "--steps", 1, "--out", "x"], "KIND:START:END"),
        (
            ["train", "--lr", "fast", "--lmbda", 1, "--steps", 1, "--out", "x"],
            "a schedule must be a number",
        ),
        (["train", "--device", "cudaa", "--lmbda", 1, "--steps", 1, "--out", "x"], "device"),
    ],
)
def test_bad_input_gives_a_one_line_error_and_status_two(arguments, message, checkpoint):
    result = labkit(*(checkpoint if a == "CHECKPOINT" else a for a in arguments))
    lines = [line for line in result.output.splitlines() if line and not line.startswith(("Usage:", "Try "))]
    assert result.exit_code == 2 and len(lines) == 1 and message in lines[0], result.output


def test_lessons_are_copied_and_never_overwritten(tmp_path):
    target = tmp_path / "mine"
    first = labkit("lessons", "--to", target)
    assert first.exit_code == 0 and first.output == f"12 notebooks written to {target}\n"
    notebook = target / "00_start_here.ipynb"
    assert json.loads(notebook.read_text())["nbformat"] == 4
    notebook.write_text("my own work")
    second = labkit("lessons", "--to", target)
    assert second.output == f"0 notebooks written to {target}, 12 existing ones left unchanged\n"
    assert notebook.read_text() == "my own work"


def test_flags_override_the_settings_of_a_toml_file(tmp_path):
    out = tmp_path / "runs" / "a.safetensors"
    config = tmp_path / "run.toml"
    config.write_text(f"""
        network = "factorized_prior"
        scheme = "annealed"
        temperature = "exponential:1:0.1"
        scale-lower-bound = 0.2
        lmbda = 0.01
        steps = 30
        crop = 64
        batch-size = 1
        permute_colors = true
        ema = 0.9
        device = "cpu"
        threads = 1
        out = "{out}"
    """)
    result = labkit("train", config, "--steps", 2, "--seed", 5)
    assert result.exit_code == 0, result.output
    assert "2 steps in" in result.output and "with 1 thread" in result.output
    net, info = training.load_checkpoint(out)
    settings = {"steps": 2, "seed": 5, "crop": 64, "permute_colors": True, "ema": 0.9, "lmbda": 0.01}
    assert settings.items() <= info.items() and info["precision"] == training.native_precision("cpu")
    assert net.scheme.scale_lower_bound == 0.2 and net.scheme.temperature(1, 2) == pytest.approx(0.1)
    assert len(out.with_suffix(".csv").read_text().splitlines()) == 3

    before = out.read_bytes()
    again = labkit("train", config, "--steps", 2, "--seed", 5)
    assert again.exit_code == 0 and "made earlier" in again.output and out.read_bytes() == before
    other = labkit("train", config, "--steps", 3, "--seed", 5)
    assert other.exit_code == 2 and "belongs to another run (steps 2, not 3)" in other.output
    assert out.read_bytes() == before
    fresh = labkit("train", config, "--steps", 3, "--seed", 5, "--fresh")
    assert fresh.exit_code == 0 and training.load_checkpoint(out)[1]["steps"] == 3


def test_names_of_the_first_edition_are_accepted(tmp_path):
    """The option and the TOML file use the British spelling of `permute_colors`."""
    train = main.commands["train"]
    out = ["--out", str(tmp_path / "net.safetensors")]
    by_option = train.make_context("train", ["--permute-colours", "--lmbda", "0.01", "--steps", "1", *out])
    by_file = train.make_context("train", [str(README.parent / "tests/first_edition/run.toml")])
    assert by_option.params["permute_colors"] is True and by_file.params["permute_colors"] is True
    assert "permute-colours" not in labkit("train", "--help").output


@pytest.mark.parametrize(
    "text, message",
    [
        ("stepps = 3", "run.toml: unknown option 'stepps'; did you mean steps"),
        ("steps = [1, 2]", "run.toml: steps must be a single value, got [1, 2]"),
        ("steps = ", "run.toml is not valid TOML"),
        ("lmbda = 'much'", "'much' is not a valid float"),
        ("config = 'other.toml'", "run.toml: unknown option 'config'"),
    ],
)
def test_the_error_names_a_bad_toml_file(text, message, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(text)
    result = labkit("train", config, "--out", tmp_path / "a.safetensors")
    assert result.exit_code == 2 and message in result.output.splitlines()[-1], result.output
    absent = labkit("train", tmp_path / "absent.toml")
    assert absent.exit_code == 2 and "absent.toml: there is no such file" in absent.output


def test_the_toml_file_in_the_readme_contains_only_options_of_train():
    text = re.search(r"^```toml\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[1]
    names = set(re.findall(r"^(\w+) = ", text, re.MULTILINE))
    assert len(names) >= 8 and names <= {option.name for option in main.commands["train"].params}


def test_refine_has_the_same_defaults_in_python_and_on_the_command_line():
    options = {option.name: option.default for option in main.commands["refine"].params}
    parameters = inspect.signature(evaluation.refine).parameters
    assert {name: options[name] for name in ("surrogate", "steps", "lr", "seed")} == {
        name: parameters[name].default for name in ("surrogate", "steps", "lr", "seed")
    }


@pytest.mark.slow
def test_bench_train_prints_ratios_and_writes_them(tmp_path, monkeypatch):
    monkeypatch.setattr("labkit.training.bench.WARM_UP", 4)
    settings = ["--size", "tiny", "--batch-size", 1, "--crop", 64, "--rounds", 2, "--steps", 1, "--seeds", 1]
    result = labkit("bench", "train", *settings, "--json", tmp_path / "figures.json")
    assert result.exit_code == 0 and "cores, load" in result.output and "loss after 6 steps" in result.output
    variants = json.loads((tmp_path / "figures.json").read_text())["variants"]
    assert list(variants) == ["CompressAI", "labkit", "labkit float32"]
    assert variants["CompressAI"]["speedups"] == [1, 1]
    for row in variants.values():
        pairs = zip(variants["CompressAI"]["seconds"], row["seconds"], strict=True)
        assert row["speedups"] == pytest.approx([theirs / seconds for theirs, seconds in pairs])
    # All variants start from the same weights, and a few steps at such a low learning rate change little
    losses = [row["losses"][0] for row in variants.values()]
    assert losses == pytest.approx([losses[0]] * 3, rel=0.05)


def test_study_example_prints_quadrature_above_monte_carlo():
    result = labkit("study", "example", "--samples", 1000)
    assert result.exit_code == 0 and "g = 0.5: test loss 3.2237, exact gradient 2.4151" in result.output
    lines = result.output.splitlines()
    row = next(i for i, line in enumerate(lines) if line.split()[:4] == ["sua,", "expected", "slope", "0.1"])
    assert lines[row + 1].split()[:2] == ["Monte", "Carlo"] and lines[row + 1].count("±") == 3


def test_doctor_prints_findings_and_writes_json_and_a_page(checkpoint, tmp_path, test_photos, monkeypatch):
    monkeypatch.setattr("labkit.diagnosis.processor.decode", lambda *_: None)  # which starts a process
    Image.fromarray(test_photos.images[0][:, :128, :128].permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
    result = labkit(
        "doctor", checkpoint, "--data", tmp_path, "--json", tmp_path / "d.json", "--html", tmp_path / "d.html"
    )
    assert result.exit_code == 1, result.output  # the checkpoint has no coder tables
    values = json.loads((tmp_path / "d.json").read_text())
    assert values["findings"][0]["kind"] == "missing_tables" and values["findings"][0]["message"] in result.output
    assert "no coder tables" in (tmp_path / "d.html").read_text()
    assert labkit("doctor", tmp_path / "missing.safetensors").exit_code == 2
