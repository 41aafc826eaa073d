"""The command line: it does what it says, and bad input gets one clear line."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from labkit import evaluation, networks, paths, schemes, surrogates, training
from labkit.cli import main
from labkit.files import codec as files
from labkit.files.container import Container

README = Path(__file__).resolve().parents[2] / "README.md"


def labkit(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "net.safetensors"
    training.save_checkpoint(networks.factorized_prior("tiny"), path, lmbda=0.01)
    return path


def test_importing_labkit_loads_neither_torch_nor_jupyter_nor_plotly():
    code = (
        "import sys, labkit, labkit.cli;"
        "print([m for m in ('torch', 'IPython', 'plotly', 'ipywidgets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_training_needs_neither_jupyter_nor_plotly():
    code = (
        "import sys, labkit as lk; lk.train; lk.evaluate; lk.networks.toy_2d();"
        "print([m for m in ('IPython', 'plotly', 'ipywidgets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_train_then_evaluate(tmp_path):
    out = tmp_path / "run.safetensors"
    scheme = ["--network", "factorized_prior", "--scheme", "annealed", "--temperature", "exponential:1:0.1"]
    short = ["--lmbda", 0.01, "--steps", 3, "--batch-size", 1, "--device", "cpu"]
    done = labkit("train", *scheme, *short, "--out", out)
    assert done.exit_code == 0, done.output
    net, info = training.load_checkpoint(out)
    assert info["lmbda"] == 0.01 and net.scheme == schemes.annealed(temperature=net.scheme.temperature)
    assert net.scheme.temperature(2, 3) == pytest.approx(0.1)
    again = labkit("train", *scheme[:2], "--start", out, *short, "--out", tmp_path / "two.safetensors")
    assert again.exit_code == 0, again.output

    (tmp_path / "images").mkdir()
    Image.effect_noise((70, 40), 60).save(tmp_path / "images" / "noise.png")
    done = labkit("evaluate", out, "--data", tmp_path / "images", "--table", tmp_path / "table.csv")
    assert done.exit_code == 0 and "noise.png" in done.output and "mean" in done.output
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 2


def test_several_reports_are_curves_with_bd_rate_a_table_and_a_plane(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("dune", "storm", "wine_0"):
        image = Image.open(paths.data() / "photographs" / "test" / f"{name}.webp")
        image.crop((0, 0, 192, 192)).save(tmp_path / "images" / f"{name}.png")
    out = ["--table", tmp_path / "table.parquet", "--plot", tmp_path / "plane.html"]
    done = labkit("evaluate", "--data", tmp_path / "images", "--beside", "jpeg", "--metric", "ms_ssim", *out)
    assert done.exit_code == 0, done.output
    assert "mean_scale_hyperprior tiny" in done.output and "λ = 0.025" in done.output and "MS-SSIM (dB)" in done.output
    assert "BD-rate of mean_scale_hyperprior tiny against jpeg, in percent: " in done.output
    table = evaluation.read_table(tmp_path / "table.parquet")
    assert len(table) == 3 * (2 + 9) and set(table["curve"]) == {"mean_scale_hyperprior tiny", "jpeg"}
    assert "plotly" in (tmp_path / "plane.html").read_text(encoding="utf-8")


def test_refine_prints_what_it_gains_and_writes_it(tmp_path):
    image = Image.open(paths.data() / "photographs" / "test" / "storm.webp")
    image.crop((0, 0, 128, 100)).save(tmp_path / "storm.png")
    short = ["--steps", 20, "--surrogate", "sua", "--temperature", "exponential:0.5:0.1"]
    done = labkit("refine", tmp_path / "storm.png", *short, "--table", tmp_path / "refined.csv")
    assert done.exit_code == 0 and "mean saving of the loss" in done.output, done.output
    (row,) = evaluation.read_table(tmp_path / "refined.csv").to_dict("records")
    assert row["loss_after"] < row["loss_before"] and row["saving"] == 1 - row["loss_after"] / row["loss_before"]
    assert (row["name"], row["height"], row["width"], row["lmbda"]) == ("storm.png", 100, 128, 0.0035)


@pytest.mark.slow
def test_bench_evaluate_measures_beside_compressai_and_growth(tmp_path):
    (tmp_path / "images").mkdir()
    Image.effect_noise((192, 192), 60).convert("RGB").save(tmp_path / "images" / "noise.png")
    sizes = ["--megapixels", 0.02, "--megapixels", 0.08, "--rounds", 1, "--json", tmp_path / "figures.json"]
    done = labkit("bench", "evaluate", "--data", tmp_path / "images", *sizes)
    assert done.exit_code == 0 and "1 thread(s)" in done.output, done.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    beside = figures["beside_compressai"]
    assert beside["images"] == 1 and beside["bpp_difference"] == 0 and abs(beside["psnr_difference"]) < 1e-4
    assert [row["width"] * row["height"] // 1000 for row in figures["growth"]] == [19, 80]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["evaluate", "--beside", "gif"], "--beside: takes jpeg, webp, jpeg2000, avif, got gif"),
        (["evaluate", "--table", "t.txt"], "t.txt: takes a name that ends in .csv or .parquet"),
        (["refine", "absent.png"], "absent.png: there is no such file"),
        (["refine", "absent.png", "--table", "t.txt"], "t.txt: takes a name that ends in .csv or .parquet"),
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
        (["train", "--lr", "fast", "--lmbda", 1, "--steps", 1, "--out", "x"], "schedule 'fast': takes a number"),
        (["train", "--device", "cudaa", "--lmbda", 1, "--steps", 1, "--out", "x"], "device"),
    ],
)
def test_bad_input_gets_one_clear_line_and_status_two(arguments, message, checkpoint):
    done = labkit(*(checkpoint if a == "CHECKPOINT" else a for a in arguments))
    lines = [line for line in done.output.splitlines() if line and not line.startswith(("Usage:", "Try "))]
    assert done.exit_code == 2 and len(lines) == 1 and message in lines[0], done.output


def test_lessons_are_laid_out_and_never_overwritten(tmp_path):
    target = tmp_path / "mine"
    first = labkit("lessons", "--to", target)
    assert first.exit_code == 0 and "lessons written" in first.output
    notebook = target / "00_start_here.ipynb"
    assert json.loads(notebook.read_text())["nbformat"] == 4
    notebook.write_text("my own work")
    second = labkit("lessons", "--to", target)
    assert "0 lessons written" in second.output and "left as they are" in second.output
    assert notebook.read_text() == "my own work"


def test_a_toml_file_holds_options_and_flags_go_before_them(tmp_path):
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
    done = labkit("train", config, "--steps", 2, "--seed", 5)
    assert done.exit_code == 0, done.output
    assert "2 steps in" in done.output and "with 1 thread" in done.output
    net, info = training.load_checkpoint(out)
    told = {"steps": 2, "seed": 5, "crop": 64, "permute_colors": True, "ema": 0.9, "lmbda": 0.01}
    assert told.items() <= info.items() and info["precision"] == training.native_precision("cpu")
    assert net.scheme.scale_lower_bound == 0.2 and net.scheme.temperature(1, 2) == pytest.approx(0.1)
    assert len(out.with_suffix(".csv").read_text().splitlines()) == 3

    before = out.read_bytes()
    again = labkit("train", config, "--steps", 2, "--seed", 5)
    assert again.exit_code == 0 and "made before" in again.output and out.read_bytes() == before
    other = labkit("train", config, "--steps", 3, "--seed", 5)
    assert other.exit_code == 2 and "is another run's (steps 2, not 3)" in other.output and out.read_bytes() == before
    fresh = labkit("train", config, "--steps", 3, "--seed", 5, "--fresh")
    assert fresh.exit_code == 0 and training.load_checkpoint(out)[1]["steps"] == 3


@pytest.mark.parametrize(
    "text, message",
    [
        ("stepps = 3", "run.toml: unknown option 'stepps'; did you mean steps"),
        ("steps = [1, 2]", "run.toml: steps takes one value, got [1, 2]"),
        ("steps = ", "run.toml is no TOML"),
        ("lmbda = 'much'", "'much' is not a valid float"),
        ("config = 'other.toml'", "run.toml: unknown option 'config'"),
    ],
)
def test_a_bad_toml_file_is_named(text, message, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(text)
    done = labkit("train", config, "--out", tmp_path / "a.safetensors")
    assert done.exit_code == 2 and message in done.output.splitlines()[-1], done.output
    absent = labkit("train", tmp_path / "absent.toml")
    assert absent.exit_code == 2 and "absent.toml: there is no such file" in absent.output


def test_readmes_toml_names_options():
    text = re.search(r"^```toml\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[1]
    names = set(re.findall(r"^(\w+) = ", text, re.MULTILINE))
    assert len(names) >= 8 and names <= {option.name for option in main.commands["train"].params}


@pytest.mark.slow
def test_bench_train_prints_ratios_and_writes_them(tmp_path):
    short = ["--size", "tiny", "--batch-size", 1, "--crop", 64, "--rounds", 1, "--steps", 1, "--seeds", 1, "--learn", 2]
    done = labkit("bench", "train", *short, "--json", tmp_path / "figures.json")
    assert done.exit_code == 0 and "cores, load" in done.output and "rounded loss after 2 steps" in done.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    ways = figures["ways"]["quiet"]
    both = {f"{way}{precision}" for way in ("labkit", "convolutions") for precision in ("", " bfloat16")}
    assert set(ways) == {"compressai", "labkit, one thread", *both}
    assert ways["compressai"]["times_compressai"] == 1
    for way in ("labkit", "labkit bfloat16"):
        floor = ways[way.replace("labkit", "convolutions")]
        assert ways[way]["times_floor"] == pytest.approx(ways[way]["seconds"][0] / floor["seconds"][0])
        assert ways[way]["threads"] == floor["threads"]
    # both ways start from the same weights, and two steps at so low a rate change little
    one, two = figures["losses"]["compressai"][0], figures["losses"]["labkit"][0]
    assert one == pytest.approx(two, rel=0.02)


def test_bench_data_prints_rates_and_writes_them(tmp_path):
    short = ["--crop", 64, "--batch-size", 2, "--workers", 0, "--seconds", 0.1]
    done = labkit("bench", "data", *short, "--json", tmp_path / "figures.json")
    assert done.exit_code == 0 and json.loads((tmp_path / "figures.json").read_text()), done.output


def test_bench_surrogates_prints_ratios_and_writes_them(tmp_path):
    done = labkit("bench", "surrogates", "--latents", 4096, "--rounds", 3, "--json", tmp_path / "figures.json")
    assert done.exit_code == 0 and "4,096 float32 latents" in done.output and "floor: 4 passes" in done.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    rows = {row["surrogate"]: row for row in figures["rows"]}
    assert figures["threads"] == 1 and rows["aun"]["ratio"] == rows["aun"]["memory_ratio"] == 1
    assert {row for row, figure in rows.items() if figure["bound"]} == set(surrogates.names()) - {"round", "aun"}


@pytest.mark.parametrize("name", ["ste", "sr", "uq", "dither", "sua"])
def test_identity_slopes_hold_at_most_twice_the_memory_of_noise(name):
    """Bytes are counted, not timed: 8 bytes a latent for the draw and its shift, 4 for the result (aun)."""
    from tests.bench import surrogates as bench

    assert bench.peak_bytes(surrogates.get("aun"), 1024) == 3 * 4 * 1024
    assert bench.peak_bytes(surrogates.get(name), 1024) <= 2 * 3 * 4 * 1024


def test_study_example_prints_quadrature_over_monte_carlo():
    done = labkit("study", "example", "--samples", 1000)
    assert done.exit_code == 0 and "g = 0.5: test loss 3.2237, exact gradient 2.4151" in done.output
    lines = done.output.splitlines()
    row = next(i for i, line in enumerate(lines) if line.split()[:4] == ["sua,", "expected", "slope", "0.1"])
    assert lines[row + 1].split()[:2] == ["Monte", "Carlo"] and lines[row + 1].count("±") == 3


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crop(test_photos):
    return test_photos.images[1][:, :80, :100]


@pytest.fixture
def photo(crop, tmp_path):
    Image.fromarray(crop.permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def pixels(path):
    return torch.from_numpy(np.asarray(Image.open(path)).copy()).permute(2, 0, 1)


def test_refined_latents_are_what_the_file_holds(photo, crop, tmp_path):
    done = labkit("compress", photo, "--refine", 20, "--lmbda", 0.025)
    assert done.exit_code == 0 and "20 steps lowered the loss by" in done.output, done.output
    net = networks.pretrained(lmbda=0.025)
    refined = evaluation.refine(net, crop / 255, steps=20)
    plain = files.compress(crop, net)
    loss = {}
    for label, container in (("plain", plain), ("refined", Container.read(tmp_path / "photo.lkc"))):
        error = ((files.decompress(container, net).double() - crop.double()) ** 2).mean().item()
        loss[label] = 8 * sum(map(len, container.strings)) / crop[0].numel() + 0.025 * error
    assert refined.improved and loss["refined"] < loss["plain"]
    assert loss["refined"] == pytest.approx(refined.after.loss, rel=0.01)  # threads change a latent now and then


def test_a_picture_is_compressed_and_decompressed(photo, crop):
    net, coded = networks.pretrained(), photo.with_suffix(".lkc")
    done = labkit("compress", photo)
    container = Container.read(coded)
    assert container == files.compress(crop, net) and coded.stat().st_size == container.file_bytes
    picture = files.decompress(container, net)
    psnr = -10 * math.log10(np.mean((picture.numpy() / 255 - crop.numpy() / 255) ** 2))
    size = f"100×80 pixels in {container.file_bytes} bytes, {container.file_bytes / 1000:.4f} bpp, {psnr:.2f} dB PSNR"
    assert done.exit_code == 0 and done.output == f"{coded}: {size}\n"
    done = labkit("decompress", coded, "-o", photo.with_name("back.png"))
    assert done.exit_code == 0 and "the same picture as when it was coded" in done.output
    assert torch.equal(pixels(photo.with_name("back.png")), picture)


@pytest.mark.parametrize("suffix", [".webp", ".ppm", ".bmp", ".tif", ".TIFF"])
def test_every_format_that_is_written_keeps_every_pixel(photo, crop, suffix):
    coded, output = photo.with_suffix(".lkc"), photo.with_name("back" + suffix)
    container = files.compress(crop, networks.pretrained())
    container.write(coded)
    assert labkit("decompress", coded, "-o", output).exit_code == 0
    assert torch.equal(pixels(output), files.decompress(container, networks.pretrained()))


def test_lambda_picks_the_nearest_shipped_weights_and_decoding_finds_them(photo):
    out = photo.with_name("fine.lkc")
    assert labkit("compress", photo, "-o", out, "--lmbda", 0.1, "--no-verify").exit_code == 0
    container = Container.read(out)
    assert container.picture is None
    assert container.weights == training.weights_hash(networks.pretrained(lmbda=0.025))[:16]
    done = labkit("decompress", out)
    assert done.exit_code == 0 and "fine.png: 100×80 pixels, not verified when it was coded" in done.output


def test_a_checkpoint_codes_and_decodes_and_is_asked_for(photo, checkpoint):
    coded = photo.with_suffix(".lkc")
    assert labkit("compress", photo, "--weights", checkpoint).exit_code == 0
    done = labkit("decompress", coded, "-o", photo.with_name("back.png"), "--weights", checkpoint)
    assert done.exit_code == 0, done.output
    done = labkit("decompress", coded, "-o", photo.with_name("again.png"))
    wanted = f"factorized_prior tiny (N = 24, M = 36) whose weights have the hash {Container.read(coded).weights}"
    assert done.exit_code == 2 and wanted in done.output and len(done.output.splitlines()) == 1
    assert not photo.with_name("again.png").exists()


def test_transparency_is_laid_on_white_and_said(photo):
    with Image.open(photo) as image:
        image.putalpha(128)
        image.save(photo)
        image.putalpha(255)
        image.save(photo.with_name("opaque.png"))
    assert "; transparency was laid on white" in labkit("compress", photo).output
    assert "white" not in labkit("compress", photo.with_name("opaque.png")).output


def test_another_picture_than_verified_is_written_only_anyway(photo, crop):
    coded, kept = photo.with_suffix(".lkc"), photo.with_name("kept.png")
    good = files.compress(crop, networks.pretrained())
    replace(good, picture=good.picture ^ 1).write(coded)
    kept.write_text("my own")
    done = labkit("decompress", coded, "-o", kept, "--force")
    assert done.exit_code == 2 and "another picture here than where it was coded" in done.output
    assert len(done.output.splitlines()) == 1 and kept.read_text() == "my own"
    done = labkit("decompress", coded, "-o", kept, "--force", "--anyway")
    assert done.exit_code == 0 and "another picture than when it was coded" in done.output
    assert torch.equal(pixels(kept), files.decompress(good, networks.pretrained()))


def test_info_says_what_a_file_holds_without_torch(photo, crop):
    coded = photo.with_suffix(".lkc")
    container = files.compress(crop, networks.pretrained())
    container.write(coded)
    run = "import sys; sys.modules['torch'] = None; import labkit.cli; labkit.cli.main(sys.argv[1:])"
    command = [sys.executable, "-c", run, "info", str(coded)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for part in ("version 1", "checksums are good", "mean_scale_hyperprior tiny (N = 24, M = 36)", "100×80"):
        assert part in said
    assert f"{container.picture:08x}" in said and container.weights in said and "53 around them" in said
    about = json.loads(labkit("info", coded, "--json").output)
    assert about.pop("strings") == [len(string) for string in container.strings]
    assert about == {
        **{name: getattr(container, name) for name in ("network", "size", "N", "M", "weights", "width", "height")},
        **{"version": 1, "bytes": container.file_bytes, "bpp": container.bpp},
        **{"picture": container.picture, "checksums": "good"},
    }


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["compress", "FOLDER/absent.png"], "absent.png: there is no such file"),
        (["compress", "FOLDER"], "there is no such file"),
        (["compress", "FOLDER/coded.lkc"], "is the input: name another output"),
        (["compress", "FOLDER/photo.png", "-o", "FOLDER/photo.png", "--force"], "is the input"),
        (["compress", "FOLDER/photo.png", "-o", "FOLDER/kept.png"], "kept.png is there already: --force overwrites it"),
        (["compress", "FOLDER/photo.png", "-o", "FOLDER", "--force"], "is a folder"),
        (["compress", "FOLDER/photo.png", "-o", "FOLDER/no/x.lkc"], "x.lkc: there is no folder"),
        (["compress", "FOLDER/photo.png", "--lmbda", "0"], "--lmbda must be a positive finite number, got 0"),
        (["compress", "FOLDER/photo.png", "--lmbda", "nan"], "--lmbda must be a positive finite number, got nan"),
        (["compress", "FOLDER/photo.png", "--lmbda", "1", "--weights", "x"], "leave it out, or --weights"),
        (["compress", "FOLDER/photo.png", "--weights", "absent"], "absent: there is no such checkpoint"),
        (["compress", "FOLDER/kept.png", "-o", "FOLDER/x.lkc"], "kept.png cannot be read as an image"),
        (["decompress", "FOLDER/photo.png"], "photo.png: no .lkc file"),
        (["decompress", "FOLDER/coded.lkc", "-o", "FOLDER/x.jpg"], "x.jpg: JPEG would lose again; takes .png"),
        (["decompress", "FOLDER/coded.lkc", "-o", "FOLDER/x"], "x: the suffix names the format; takes .png"),
        (["decompress", "FOLDER/coded.lkc", "-o", "FOLDER/kept.png"], "kept.png is there already"),
        (["decompress", "FOLDER/coded.lkc", "-o", "FOLDER/no/x.png"], "x.png: there is no folder"),
        (["decompress", "FOLDER/coded.lkc", "--weights", "CHECKPOINT"], "not with factorized_prior (N = 24, M = 36)"),
        (
            ["decompress", "FOLDER/other.lkc", "-o", "FOLDER/kept.png", "--force"],
            "weights have the hash 0000000000000000",
        ),
        (
            ["decompress", "FOLDER/other.lkc", "-o", "FOLDER/x.png"],
            "other.lkc: it was coded with mean_scale_hyperprior",
        ),
        (["info", "FOLDER/photo.png"], "photo.png: no .lkc file"),
    ],
)
def test_a_refusal_is_one_line_and_touches_nothing(arguments, message, photo, crop, checkpoint):
    folder = photo.parent
    good = files.compress(crop, networks.pretrained(), verify=False)
    good.write(folder / "coded.lkc")
    replace(good, weights="0" * 16).write(folder / "other.lkc")
    (folder / "kept.png").write_text("my own")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    names = {"CHECKPOINT": str(checkpoint)}
    done = labkit(*(names.get(a, a.replace("FOLDER", str(folder))) for a in arguments))
    assert done.exit_code == 2 and len(done.output.splitlines()) == 1 and message in done.output, done.output
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
