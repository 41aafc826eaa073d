"""Checkpoints of other programs: what training scripts save is read, and a file with code in it runs nothing."""

import argparse
import os
import pickle
import warnings
import zipfile
from pathlib import Path

import compressai.models
import compressai.zoo
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import labkit as lk
from labkit import adoption, networks, schemes
from labkit.cli import main

# The class of each architecture in CompressAI's zoo, and channel counts for a test.
SMALL = {
    "bmshj2018-factorized": (compressai.models.FactorizedPrior, (8, 12)),
    "bmshj2018-hyperprior": (compressai.models.ScaleHyperprior, (8, 12)),
    "mbt2018-mean": (compressai.models.MeanScaleHyperprior, (8, 12)),
    "mbt2018": (compressai.models.JointAutoregressiveHierarchicalPriors, (8, 12)),
    "cheng2020-anchor": (compressai.models.Cheng2020Anchor, (8,)),
    "cheng2020-attn": (compressai.models.Cheng2020Attention, (8,)),
}
MEAN = SMALL["mbt2018-mean"][0]


def labkit(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def untrained(cls, counts, updated=True):
    """Return an untrained model of CompressAI whose latents span several symbols."""
    torch.manual_seed(0)
    model = cls(*counts).eval()
    with torch.no_grad():
        last = [module for module in model.g_a.modules() if isinstance(module, nn.Conv2d)][-1]
        last.weight.mul_(40)
    if updated:
        model.update()
    return model


def training_checkpoint(model, parallel=False):
    """Return what CompressAI's examples/train.py saves."""
    optimizers = {
        "optimizer": torch.optim.Adam([p for n, p in model.named_parameters() if "quantiles" not in n], lr=1e-4),
        "aux_optimizer": torch.optim.Adam([p for n, p in model.named_parameters() if "quantiles" in n], lr=1e-3),
    }
    model.aux_loss().backward()
    optimizers["aux_optimizer"].step()
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizers["optimizer"], "min")
    model.zero_grad()
    return {
        "epoch": 7,
        "state_dict": (nn.DataParallel(model) if parallel else model).state_dict(),
        "loss": torch.tensor(1.25),
        **{name: optimizer.state_dict() for name, optimizer in optimizers.items()},
        "lr_scheduler": scheduler.state_dict(),
    }


def old_keys(state, generation):
    """Return a state dict with the key names of an earlier CompressAI: "1.2.4", or "1.0" as in its first weights."""
    names = {"matrices": "_matrix", "biases": "_bias", "factors": "_factor"}
    renamed = {}
    for key, value in state.items():
        *path, kind, last = ["", "", *key.split(".")]
        if kind in names:
            key = ".".join([*path[2:], f"{names[kind]}{last}" if generation == "1.2.4" else f"_{kind}.{last}"])
        if generation == "1.0":
            key = key.replace(".skip.", ".downsample.")
        renamed[key] = value
    return renamed


def image(side=64):
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def strings(model):
    return lk.portable(model, False).compress(image())["strings"]


def check_same(net, model):
    """Check that labkit's network has a model's weights, is in float32, and writes the strings of CompressAI's code."""
    state = net.state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(state[key], value) and state[key].dtype == value.dtype, key
    with torch.no_grad():
        assert strings(net) == model.compress(image())["strings"]


@pytest.mark.parametrize(
    ("name", "parallel", "updated"),
    [*((name, True, False) for name in SMALL), *(("mbt2018-mean", parallel, True) for parallel in (True, False))],
)
def test_converted_checkpoints_of_the_training_example_write_the_strings_of_compressai(
    name, parallel, updated, tmp_path
):
    model = untrained(*SMALL[name], updated)
    source, target = tmp_path / "checkpoint.pth.tar", tmp_path / "net.safetensors"
    torch.save(training_checkpoint(model, parallel), source)
    result = labkit("convert", source, target, "--network", name)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert len(lines) == 1 + parallel and lines[-1].endswith("tables " + ("kept" if updated else "built"))
    if parallel:
        assert f"under 'state_dict': {len(model.state_dict())} renamed (module." in lines[0]
    net, info = networks.load_checkpoint(target)
    counts = SMALL[name][1]
    assert (net.kind, net.N, net.M) == (networks.canonical_name(name), counts[0], counts[-1])
    assert info["network"] == net.kind and not net.checkpoint_keys
    model.update()
    check_same(net, model)


@pytest.mark.parametrize(
    ("name", "generation"), [("mbt2018-mean", "1.2.4"), ("bmshj2018-factorized", "1.0"), ("cheng2020-attn", "1.0")]
)
def test_old_key_names_are_translated(name, generation, tmp_path):
    model = untrained(*SMALL[name])
    torch.save(old_keys(model.state_dict(), generation), tmp_path / "old.pth")
    with pytest.warns(UserWarning, match=r"1[4-9] renamed|2\d renamed"):
        net = lk.load_weights(name, tmp_path / "old.pth")
    keys = net.checkpoint_keys
    old = "entropy_bottleneck._matrix0" if generation == "1.2.4" else "entropy_bottleneck._matrices.0"
    assert keys.renamed[old] == "entropy_bottleneck.matrices.0" and not keys.missing and not keys.unexpected
    assert any(".skip." in key for key in keys.renamed.values()) == (generation == "1.0" and "cheng" in name)
    check_same(net, model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("updated", [True, False])
def test_other_precisions_become_float32_without_rounded_constants(dtype, updated, tmp_path):
    """The bound of the likelihood, 1e-9, is 0 in half precision, and the lower bound of the scale is not 0.11."""
    model = untrained(*SMALL["mbt2018-mean"], updated)
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in model.state_dict().items()}
    torch.save(state, tmp_path / "half.pth")
    net = lk.load_weights("mbt2018-mean", tmp_path / "half.pth")
    assert all(value.dtype == torch.float32 for value in net.state_dict().values() if value.is_floating_point())
    assert float(net.gaussian_conditional.likelihood_lower_bound.bound) == float(torch.tensor(1e-9))
    theirs = MEAN.from_state_dict(state).eval()
    theirs.update()
    if not updated:
        assert net.scheme.scale_lower_bound == 0.11
        net.update()
    with torch.no_grad():
        assert strings(net) == theirs.compress(image())["strings"]


def test_scalars_of_numpy_and_settings_of_argparse_are_read_but_not_kept(tmp_path):
    model = untrained(*SMALL["mbt2018-mean"])
    extra = {
        "best": np.float64(0.5),
        "losses": np.arange(3.0),
        "args": argparse.Namespace(lmbda=np.float32(0.01), out=Path("runs"), lr=[1e-4]),
    }
    before = torch.serialization.get_safe_globals()
    for zipped in (True, False):
        torch.save({**extra, "model": model.state_dict()}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        net = lk.load_weights("mbt2018-mean", tmp_path / "a.pth")
        assert net.checkpoint_keys.place == "model" and not net.checkpoint_keys
        check_same(net, model)
    assert torch.serialization.get_safe_globals() == before


@pytest.mark.parametrize("wrap", [dict, lambda s: {"net": s}, lambda s: {"model": {"ema": s}, "step": 3}])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrapped_state_dicts_are_found(wrap, prefix, tmp_path):
    model = untrained(*SMALL["bmshj2018-factorized"])
    torch.save(wrap({prefix + key: value for key, value in model.state_dict().items()}), tmp_path / "a.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error" if not prefix else "ignore")
        check_same(lk.load_weights("bmshj2018-factorized", tmp_path / "a.pth"), model)


def test_a_partly_compiled_model_and_a_foreign_safetensors_file_load(tmp_path):
    model = untrained(*SMALL["bmshj2018-factorized"])
    state = {key.replace("g_a.", "g_a._orig_mod."): value for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match="renamed"):
        check_same(lk.load_weights("bmshj2018-factorized", tmp_path / "a.safetensors"), model)


def test_a_header_of_any_length_is_one_of_a_safetensors_file(tmp_path):
    """A length of 128 modulo 256 looks like the start of a pickle."""
    starts, net = set(), networks.factorized_prior()
    for length in range(0, 256, 8):
        networks.save_checkpoint(net, tmp_path / "a.safetensors", note="x" * length)
        starts.add((tmp_path / "a.safetensors").read_bytes()[0])
        assert networks.checkpoints.read_info(tmp_path / "a.safetensors")["note"] == "x" * length
    assert 0x80 in starts


def test_a_checkpoint_saved_on_a_gpu_loads_without_one(tmp_path):
    model = untrained(*SMALL["bmshj2018-factorized"])
    torch.save(model.state_dict(), tmp_path / "cpu.pth")
    with zipfile.ZipFile(tmp_path / "cpu.pth") as cpu, zipfile.ZipFile(tmp_path / "gpu.pth", "w") as gpu:
        for name in cpu.namelist():
            content = cpu.read(name)
            if name.endswith("data.pkl"):
                assert content.count(b"X\x03\x00\x00\x00cpu") == 1  # the pickle refers to it from then on
                content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            gpu.writestr(name, content)
    check_same(lk.load_weights("bmshj2018-factorized", tmp_path / "gpu.pth"), model)


@pytest.mark.parametrize("adopted", [False, True])
def test_weights_load_into_a_model_of_compressai_with_other_tables(adopted, tmp_path):
    source, model = untrained(*SMALL["mbt2018-mean"]), MEAN(8, 12)
    model.update(scale_table=torch.linspace(0.11, 20, 9))
    with torch.no_grad():
        source.entropy_bottleneck.quantiles.mul_(3)
    source.update(force=True)
    if adopted:
        adoption.adopt(model, schemes.mixed())
    torch.save(old_keys(source.state_dict(), "1.2.4"), tmp_path / "a.pth")
    with pytest.warns(UserWarning):
        assert lk.load_weights(model, tmp_path / "a.pth") is model
    assert model.info == {} and len(model.checkpoint_keys.renamed) == 14
    check_same(model.eval(), source)


def test_the_line_names_what_is_missing_and_unexpected(tmp_path):
    model = untrained(*SMALL["mbt2018-mean"])
    tables = ("_offset", "_quantized_cdf", "_cdf_length", "scale_table")
    state = {key: value for key, value in model.state_dict().items() if not key.endswith(tables)}
    torch.save({**state, "total_ops": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.warns(UserWarning) as caught:
        net = lk.load_weights("mbt2018-mean", tmp_path / "a.pth")
    keys = net.checkpoint_keys
    assert len(keys.missing) == 7 and keys.unexpected == ("total_ops",) and not keys.renamed
    assert repr(keys) == "CheckpointKeys(0 renamed, 7 missing, 1 unexpected)"
    (line,) = (str(warning.message) for warning in caught)
    assert "7 missing (" in line and "1 unexpected and ignored (total_ops)" in line and "\n" not in line
    assert not net.gaussian_conditional._quantized_cdf.numel()
    net.update()
    check_same(net, model)


def test_the_doctor_reports_the_keys(tmp_path):
    state = untrained(*SMALL["bmshj2018-factorized"]).state_dict()
    findings = []
    for name, contents in (("plain", state), ("old", {**old_keys(state, "1.2.4"), "total_ops": torch.zeros(1)})):
        torch.save(contents, tmp_path / f"{name}.pth")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net = lk.load_weights("bmshj2018-factorized", tmp_path / f"{name}.pth")
        report = lk.diagnose(net, [image()[0]], draws=1, progress=False)
        findings.append([each for each in report.findings if each.kind == "checkpoint_keys"])
    plain, (finding,) = findings
    assert not plain and finding.severity == "note" and finding.figure == 15
    assert "14 renamed (" in finding.message and "1 unexpected and ignored (total_ops)" in finding.message


class Harmful:
    """An object whose unpickling would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "hidden", "pickle 2", "pickle 4", "model"])
def test_a_file_that_needs_code_is_refused_in_one_line_and_runs_nothing(form, tmp_path):
    mark, path = tmp_path / "ran", tmp_path / "a.pth"
    model = untrained(*SMALL["bmshj2018-factorized"])
    harmful = {"state_dict": model.state_dict(), "epoch": Harmful(mark)}
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(harmful["epoch"], protocol=int(form[-1])))
    elif form == "model":
        torch.save(model, path)
    else:
        contents = {"args": argparse.Namespace(a=[harmful])} if form == "hidden" else harmful
        torch.save(contents, path, _use_new_zipfile_serialization=form != "legacy")
    with pytest.raises(ValueError, match=r"needs code to load.*which labkit never runs") as error:
        lk.load_weights("bmshj2018-factorized", path)
    assert "\n" not in str(error.value) and not mark.exists()
    result = labkit("convert", path, tmp_path / "out.safetensors", "--network", "bmshj2018-factorized")
    assert result.exit_code == 2 and len(result.output.splitlines()) == 1 and not mark.exists()
    assert not (tmp_path / "out.safetensors").exists()
    if form == "zip":  # the file would indeed run code
        torch.load(path, weights_only=False)
        assert mark.exists()


def refused(path, match, network="bmshj2018-factorized"):
    with pytest.raises(ValueError, match=match) as error:
        lk.load_weights(network, path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_files_that_do_not_fit_are_refused_in_one_line(tmp_path):
    path, model = tmp_path / "a.pth", untrained(*SMALL["mbt2018-mean"])
    state = model.state_dict()
    torch.save(state, path)
    refused(
        path, "does not fit: h_s.0.weight is 8×12×5×5 in the file and 8×8×5×5 in the network", "bmshj2018-hyperprior"
    )
    refused(path, "lacks 8 of .* keys .entropy_parameters.0.weight", "mbt2018")
    refused(path, "unknown network 'mbt2018-median'; expected one of", "mbt2018-median")
    with pytest.raises(ValueError, match=r"is not a labkit checkpoint, so name its network \(--network\): bmshj2018-f"):
        networks.load_checkpoint(path)
    other = MEAN(8, 16)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(ValueError, match=r"does not fit: g_a.6.weight is 12×8×5×5 in the file and 16×8×5×5 in"):
        lk.load_weights(other, path)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    torch.save({**state, "g_a.0.bias": state["g_a.0.bias"] * float("nan")}, path)
    refused(path, "not finite, in g_a.0.bias", "mbt2018-mean")
    for contents in ([], {}, {"epoch": 3}, {"state_dict": []}, torch.zeros(3)):
        torch.save(contents, path)
        refused(path, "holds no state dict")
    looped = {}
    looped["model"] = looped
    torch.save(looped, path)
    refused(path, "holds no state dict")
    refused(tmp_path / "absent.pth", "there is no such checkpoint")


def test_files_that_claim_more_than_they_hold_are_refused_before_memory_is_allocated(tmp_path):
    path, state = tmp_path / "a.pth", untrained(*SMALL["bmshj2018-factorized"]).state_dict()
    wide = {**state, "g_a.0.weight": torch.zeros(1).expand(10**12, 3, 5, 5)}
    torch.save(wide, path)
    refused(path, "g_a.0.weight.* is larger than its data")
    torch.save({**state, "g_a.0.weight": torch.zeros(10**9, 0, 5, 5)}, path)
    refused(path, "too few weights for N = 1000000000")
    torch.save({**state, "g_a.0.bias": torch.zeros(8).to_sparse()}, path)
    refused(path, "ordinary dense tensor")
    torch.save({**state, "g_a.0.bias": torch.zeros(8, device="meta")}, path)
    refused(path, "ordinary dense tensor")
    torch.save({**state, "zeros": bytearray(5)}, path)
    refused(path, "byte arrays")
    torch.save(state, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    refused(path, "compressed")


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_are_refused_in_one_line(zipped, tmp_path):
    """Cut files and files with flipped bytes either load or are refused with a ValueError."""
    path, rng, refusals = tmp_path / "a.pth", np.random.default_rng(0), 0
    torch.save(
        {"state_dict": networks.factorized_prior().g_a[0].state_dict()}, path, _use_new_zipfile_serialization=zipped
    )
    whole = path.read_bytes()
    for trial in range(90):
        content = bytearray(whole)
        if trial % 3 == 0:
            del content[rng.integers(len(content)) :]
        else:
            limit = len(content) if trial % 3 == 1 else 600  # the pickle comes first
            content[rng.integers(limit)] = rng.integers(256)
        path.write_bytes(content)
        with pytest.raises(ValueError) as error:
            lk.load_weights("bmshj2018-factorized", path)
        assert "\n" not in str(error.value)
        refusals += "lacks" not in str(error.value)
    assert refusals > 30


def test_convert_keeps_its_input_and_an_existing_file(tmp_path):
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(untrained(*SMALL["bmshj2018-factorized"]).state_dict(), source)
    (tmp_path / "link.safetensors").symlink_to(source)
    before = source.read_bytes()
    name = ["--network", "bmshj2018-factorized"]
    for output in (source, tmp_path / "link.safetensors"):
        result = labkit("convert", source, output, *name, "--force")
        assert result.exit_code == 2 and "is the input file" in result.output and source.read_bytes() == before
    target.write_bytes(b"mine")
    assert "already exists: use --force" in labkit("convert", source, target, *name).output
    assert target.read_bytes() == b"mine"
    assert "must end in .safetensors" in labkit("convert", source, tmp_path / "b.pth", *name).output
    assert "name its network (--network)" in labkit("convert", source, target, "--force").output
    assert labkit("convert", source, target, *name, "--force").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors", "link.safetensors"]
    networks.load_checkpoint(target)


def test_every_command_takes_a_raw_checkpoint_and_its_converted_form(tmp_path):
    raw, converted, photo = tmp_path / "a.pth.tar", tmp_path / "a.safetensors", tmp_path / "photos" / "a.png"
    photo.parent.mkdir()
    Image.effect_noise((64, 64), 60).convert("RGB").save(photo)
    torch.save(training_checkpoint(untrained(*SMALL["bmshj2018-factorized"])), raw)
    name = ["--network", "bmshj2018-factorized"]
    assert labkit("convert", raw, converted, *name).exit_code == 0
    reports = []
    for file, options in ((raw, name), (converted, [])):
        result = labkit("evaluate", file, *options, "--data", photo.parent, "--table", tmp_path / "a.csv")
        assert result.exit_code == 0, result.output
        reports.append(pd.read_csv(tmp_path / "a.csv")[["network", "bytes", "psnr"]])
        result = labkit("compress", photo, "-o", tmp_path / "a.lkc", "--weights", file, *options, "--force")
        assert result.exit_code == 0, result.output
        for weights in ([raw, *name], [converted]):
            result = labkit("decompress", tmp_path / "a.lkc", "--weights", *weights, "--force")
            assert result.exit_code == 0 and "identical" in result.output, result.output
    assert reports[0].equals(reports[1])
    refine = labkit("refine", photo, "--weights", raw, *name, "--lmbda", 0.01, "--steps", 2)
    assert refine.exit_code == 0, refine.output
    settings = [
        "--lmbda",
        0.01,
        "--steps",
        1,
        "--batch-size",
        1,
        "--crop",
        64,
        "--device",
        "cpu",
        "--data",
        photo.parent,
    ]
    train = labkit("train", *settings, *name, "--start", raw, "--out", tmp_path / "out.safetensors")
    assert train.exit_code == 0, train.output
    result = labkit("evaluate", *name)
    assert result.exit_code == 2 and "also name a checkpoint" in result.output


def test_training_a_model_that_was_not_adopted_says_what_to_do():
    with pytest.raises(ValueError, match=r"carries no quantization scheme: call labkit.adopt\(model, scheme\) first"):
        lk.train(MEAN(8, 12), lk.datasets.Banana(), lmbda=0.01, steps=1)


@pytest.mark.slow
@pytest.mark.parametrize("quality", [1, 6])
@pytest.mark.parametrize("name", SMALL)
def test_the_zoo_at_its_published_sizes(name, quality, tmp_path):
    counts = compressai.zoo.image.cfgs[name][quality]
    model = untrained(lambda *_: compressai.zoo.image_models[name](quality, pretrained=False), counts)
    torch.save(training_checkpoint(model, parallel=True), tmp_path / "checkpoint.pth.tar")
    with pytest.warns(UserWarning, match="renamed"):
        net = lk.load_weights(name, tmp_path / "checkpoint.pth.tar")
    assert (counts[0], counts[-1]) == (net.N, net.M)
    check_same(net, model)
