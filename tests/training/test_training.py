"""Training lowers the loss, is repeatable and stops cleanly; checkpoints restore the complete network."""

import json
import math
import os
import subprocess
import sys

import compressai.models
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from labkit import adoption, datasets, entropy, evaluation, networks, schedules, schemes, training

TOY = {"lmbda": 1.0, "batch_size": 256, "lr": 3e-3}


def losses(scheme="mixed", seed=0, steps=5, **settings):
    net = networks.toy_2d(schemes.get(scheme))
    return [s.loss for s in training.stream(net, datasets.Banana(), steps=steps, seed=seed, **{**TOY, **settings})]


@pytest.mark.parametrize("scheme", schemes.names())
def test_every_preset_trains_and_the_same_seed_gives_the_same_numbers(scheme):
    steps = 60
    first = losses(scheme, steps=steps)
    assert first == losses(scheme, steps=steps)
    assert first != losses(scheme, steps=steps, seed=1)
    assert np.mean(first[-5:]) < 0.8 * np.mean(first[:5])


def test_photographs_train_in_both_precisions(train_photos):
    for precision in ("float32", "bfloat16"):
        net = networks.mean_scale_hyperprior("tiny", schemes.annealed())
        steps = list(
            training.stream(net, train_photos[:4], lmbda=0.01, steps=20, batch_size=1, lr=1e-3, precision=precision)
        )
        assert steps[-1].loss < steps[0].loss
        assert not net.training and all(p.dtype == torch.float32 for p in net.parameters())


def test_the_loss_has_the_scale_of_compressai():
    """The reference is bpp + λ · 255² · MSE in NumPy, as CompressAI's examples compute it."""
    rng = np.random.default_rng(0)
    x, x_hat = rng.random((2, 3, 8, 6)), rng.random((2, 3, 8, 6))
    y, z = rng.random((2, 4, 2, 2)), rng.random((2, 4, 1, 1))
    output = {"x_hat": torch.from_numpy(x_hat), "likelihoods": {"y": torch.from_numpy(y), "z": torch.from_numpy(z)}}
    loss = training.rate_distortion(output, torch.from_numpy(x), 0.013)
    bpp = -(np.log2(y).sum() + np.log2(z).sum()) / (2 * 8 * 6)
    assert loss.rate.item() == pytest.approx(bpp)
    assert loss.total.item() == pytest.approx(bpp + 0.013 * 255**2 * np.mean((x - x_hat) ** 2))
    points = {"x_hat": torch.tensor([[1.0, 1.0]]), "likelihoods": {"y": torch.tensor([[0.5, 0.25]])}}
    assert training.rate_distortion(points, torch.tensor([[0.0, 3.0]]), 2.0).total.item() == pytest.approx(3 + 2 * 5)


def test_temperature_and_learning_rate_follow_their_schedules():
    net = networks.toy_2d(schemes.annealed(temperature=schedules.exponential(1, 0.01)))
    steps = list(training.stream(net, datasets.Banana(), steps=3, **{**TOY, "lr": schedules.linear(1e-3, 1e-4)}))
    assert [s.temperature for s in steps] == pytest.approx([1, 0.1, 0.01])
    # an integer at the start of the schedule must not make the temperature an integer, which would be 0 from step 2
    assert all(float(m.temperature) == pytest.approx(0.01) for m in entropy.carriers(net))


def test_the_second_stage_rounds_and_freezes_the_analysis_transform():
    net = networks.toy_2d(schemes.soft_then_hard(share=0.5))
    seen = {}
    for step in training.stream(net, datasets.Banana(), steps=8, **TOY):
        seen[step.step] = {name: p.detach().clone() for name, p in net.named_parameters()}
        module = net.entropy_bottleneck
        assert module.scheme.rate.name == ("aun" if step.step <= 4 else "ste")
    for name, value in seen[4].items():
        if name.startswith("g_a"):
            assert torch.equal(value, seen[8][name])
        elif name.startswith("g_s"):
            assert not torch.equal(value, seen[8][name])
    assert all(p.requires_grad for p in net.parameters())


def test_training_solves_the_quantiles():
    net = networks.toy_2d()
    list(training.stream(net, datasets.Banana(), steps=20, **TOY))
    logits = net.entropy_bottleneck._logits_cumulative(net.entropy_bottleneck.quantiles, stop_gradient=True)
    medians = torch.sigmoid(logits[:, 0, 1])
    torch.testing.assert_close(medians, torch.full((2,), 0.5), rtol=0, atol=2e-3)


def test_the_network_is_usable_after_the_stream_is_closed():
    net = networks.toy_2d()
    steps = training.stream(net, datasets.Banana(), steps=1000, **TOY)
    next(steps), next(steps)
    steps.close()
    assert not net.training and net.entropy_bottleneck.generator is None


def takes_denormals_for_zero():
    return float(torch.tensor(1e-39) * 1) == 0


@pytest.mark.parametrize("before", [False, True])
def test_a_step_takes_denormals_for_zero_and_the_caller_keeps_its_mode(before):
    """GELU makes such numbers in trained codecs, and a CPU computes with them much more slowly."""
    net, seen = networks.toy_2d(), []
    net.register_forward_hook(lambda *_: seen.append(takes_denormals_for_zero()))
    torch.set_flush_denormal(before)
    try:
        for _ in training.stream(net, datasets.Banana(), steps=2, **TOY):
            assert takes_denormals_for_zero() == before
        assert takes_denormals_for_zero() == before and seen == [True, True]
    finally:
        torch.set_flush_denormal(False)


def test_a_loss_that_is_not_finite_raises_an_error_with_advice():
    net = networks.toy_2d()
    with torch.no_grad():
        net.g_s[0].weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1: lower the learning rate"):
        list(training.stream(net, datasets.Banana(), steps=3, **TOY))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"steps": 0}, "steps must be an integer ≥ 1, got 0"),
        ({"lmbda": -1}, "lmbda must be a positive finite number, got -1"),
        ({"precision": "half"}, "precision must be float32 or bfloat16, got 'half'"),
    ],
)
def test_the_error_names_an_invalid_setting(settings, message):
    with pytest.raises(ValueError, match=message):
        list(training.stream(networks.toy_2d(), datasets.Banana(), **{**TOY, "steps": 2, **settings}))


def test_the_error_names_an_image_that_is_too_small():
    photos = datasets.PhotoSet(
        [torch.zeros(3, 300, 300, dtype=torch.uint8), torch.zeros(3, 90, 300, dtype=torch.uint8)], ["a", "b"]
    )
    with pytest.raises(ValueError, match="b is 300×90 pixels; crops of 256×256 need"):
        list(training.stream(networks.factorized_prior(), photos, lmbda=0.01, steps=1))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "net.safetensors"
    net = networks.mean_scale_hyperprior("tiny", schemes.annealed(temperature=0.3, scale_lower_bound=0.2), seed=4)
    net.update(update_quantiles=True)
    training.save_checkpoint(net, path, lmbda=0.01)
    return path, net


def test_a_loaded_checkpoint_gives_the_same_network_and_bytes(checkpoint):
    path, net = checkpoint
    loaded, info = training.load_checkpoint(path)
    assert loaded.scheme == net.scheme and info["lmbda"] == 0.01 and loaded.size == "tiny"
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert loaded.compress(x) == net.eval().compress(x)
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file remains


def test_a_failed_save_keeps_the_old_checkpoint(checkpoint, monkeypatch):
    path, net = checkpoint
    before = path.read_bytes()

    def full_disk(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ValueError, match=r"net\.safetensors cannot be written: No space left on device"):
        training.save_checkpoint(net, path)
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1


def test_damaged_and_foreign_checkpoints_cause_errors_of_one_line(checkpoint, tmp_path):
    path, _ = checkpoint
    whole = path.read_bytes()
    cases = {"empty": b"", "cut": whole[: len(whole) // 2], "no header": whole[100:], "text": b"hello, weights" * 20}
    for name, content in cases.items():
        bad = tmp_path / f"{name}.safetensors"
        bad.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged or not a safetensors file") as error:
            training.load_checkpoint(bad)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="holds a mean_scale_hyperprior, not a factorized_prior"):
        training.load_checkpoint(path, network="factorized_prior")
    with pytest.raises(ValueError, match="there is no such checkpoint"):
        training.load_checkpoint(tmp_path / "absent.safetensors")

    from safetensors.torch import save_file

    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(2)}, foreign)
    with pytest.raises(ValueError, match="is not a labkit checkpoint"):
        training.load_checkpoint(foreign)
    info = {"network": "factorized_prior", "size": "tiny", "channels": [24, 36], "scheme": schemes.noise().to_dict()}
    save_file({"a": torch.zeros(5000)}, foreign, metadata={"format": "labkit-network-1", "info": json.dumps(info)})
    with pytest.raises(ValueError, match="does not fit a factorized_prior: the file lacks") as error:
        training.load_checkpoint(foreign)
    assert "\n" not in str(error.value)


def test_train_writes_a_checkpoint_a_log_and_its_settings(train_photos, tmp_path):
    net = networks.factorized_prior("tiny")
    run = training.train(
        net, train_photos[:2], lmbda=0.01, steps=2, batch_size=1, out=tmp_path / "a.safetensors", log=tmp_path / "a.csv"
    )
    assert len(run.history) == 2 and len((tmp_path / "a.csv").read_text().splitlines()) == 3
    assert list(run.to_frame().columns) == list(training.Step.COLUMNS)
    loaded, info = training.load_checkpoint(tmp_path / "a.safetensors")
    assert (info["steps"], info["batch_size"], info["lmbda"]) == (2, 1, 0.01)
    assert loaded.entropy_bottleneck._offset.numel()  # the checkpoint includes coder tables
    training.train(loaded, train_photos[:2], lmbda=0.02, steps=1, batch_size=1, out=tmp_path / "b.safetensors")
    assert training.load_checkpoint(tmp_path / "b.safetensors")[1]["total_steps"] == 3


def test_crops_are_flipped_and_rotated_windows_of_the_images():
    image = torch.arange(3 * 40 * 50, dtype=torch.int32).remainder(251).to(torch.uint8).reshape(3, 40, 50)
    photos = datasets.PhotoSet([image], ["one"])
    windows = {
        turned.flip(axes).contiguous().numpy().tobytes()
        for top in range(40 - 32 + 1)
        for left in range(50 - 32 + 1)
        for window in (image[:, top : top + 32, left : left + 32],)
        for turned in (window, window.transpose(1, 2))
        for axes in ([], [1], [2], [1, 2])
    }
    g = torch.Generator().manual_seed(0)
    crops = (photos.crops(20, 32, g) * 255).round().to(torch.uint8)
    assert all(crop.contiguous().numpy().tobytes() in windows for crop in crops)
    orders = {tuple(crop[:, 0, 0].tolist()) for crop in photos.crops(40, 40, g, permute_colors=True)}
    assert len(orders) > len({tuple(crop[:, 0, 0].tolist()) for crop in photos.crops(40, 40, g)})


@pytest.fixture
def adopted():
    return adoption.adopt(compressai.models.Cheng2020AnchorCheckerboard(N=24), schemes.soft_then_hard(share=0.5))


def test_an_adopted_model_trains_in_two_stages_and_is_evaluated(adopted, train_photos):
    """The second stage also freezes h_a, which the latent codec holds at a deeper level."""
    kept = {}
    for step in training.stream(adopted, train_photos[:2], lmbda=0.01, steps=4, batch_size=1, crop=64):
        if step.step == 2:
            kept = {key: value.clone() for key, value in adopted.state_dict().items()}
    moved = {key for key, value in adopted.state_dict().items() if not torch.equal(value, kept[key])}
    assert not any(key.startswith(("g_a.", "latent_codec.hyper.h_a.")) for key in moved)
    assert any(key.startswith("g_s.") for key in moved) and any("h_s" in key for key in moved)
    report = evaluation.evaluate(adopted, [torch.rand(3, 70, 90, generator=torch.Generator().manual_seed(0))])
    assert report.mean["bpp"] > 0 and abs(report.mean["bpp"] / report.mean["estimated_bpp"] - 1) < 0.5


def test_weights_fit_a_network_with_coder_tables_of_other_weights(tmp_path):
    coarse, fine = (networks.pretrained("mean_scale_hyperprior", lmbda) for lmbda in (0.0035, 0.025))
    assert coarse.entropy_bottleneck._quantized_cdf.shape != fine.entropy_bottleneck._quantized_cdf.shape
    hash_of_fine = training.weights_hash(fine)
    training.save_checkpoint(fine, tmp_path / "fine.safetensors")
    training.load_weights(coarse, tmp_path / "fine.safetensors")
    assert training.weights_hash(coarse) == hash_of_fine
    assert torch.equal(coarse.entropy_bottleneck._quantized_cdf, fine.entropy_bottleneck._quantized_cdf)


def test_the_checkpoint_of_an_adopted_model_has_compressais_keys(adopted, train_photos, tmp_path):
    out = tmp_path / "x.safetensors"
    training.train(adopted, train_photos[:1], lmbda=0.01, steps=2, batch_size=1, crop=64, out=out)
    again = adoption.adopt(compressai.models.Cheng2020AnchorCheckerboard(N=24), schemes.soft_then_hard(share=0.5))
    assert training.load_weights(again, out) is again and again.info["lmbda"] == 0.01
    assert training.weights_hash(again) == training.weights_hash(adopted)
    adoption.release(again)
    again.load_state_dict(load_file(out))  # as a user without labkit would
    with pytest.raises(ValueError, match="does not fit: unknown network 'Cheng2020AnchorCheck"):
        training.load_checkpoint(out)


@pytest.mark.parametrize("N", [8, 24])
def test_an_adopted_model_with_strided_pointwise_convolutions_trains(N, train_photos):
    """In the channels-last layout on a CPU, torch 2.14.1 corrupts memory in their backward pass."""
    net = adoption.adopt(compressai.models.Cheng2020Anchor(N=N), schemes.mixed())
    for step in training.stream(net, train_photos[:1], lmbda=0.01, steps=2, batch_size=2, crop=128):
        assert math.isfinite(step.loss)


def test_the_weights_hash_depends_on_the_contents_only(tmp_path):
    """Saving and loading keeps the hash; changing a value or dropping the tables changes it."""
    net = networks.mean_scale_hyperprior("tiny", seed=3)
    net.update()
    before = training.weights_hash(net)
    training.save_checkpoint(net, tmp_path / "net.safetensors", note="anything")
    again, _ = training.load_checkpoint(tmp_path / "net.safetensors")
    assert len(before) == 64 and training.weights_hash(again) == before
    with torch.no_grad():
        again.g_a[0].bias[0] += 1e-6
    assert training.weights_hash(again) != before
    entropy.drop_tables(net)
    assert training.weights_hash(net) != before


@pytest.mark.parametrize("name", networks.names())
def test_using_a_network_keeps_its_weights_hash(name):
    """Masked convolutions change the weights under their masks in the first forward pass."""
    net = networks.get(name, "tiny", seed=3).eval()
    net.update()
    before = training.weights_hash(net)
    with torch.no_grad():
        net(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert training.weights_hash(net) == before


def test_tensorboard_receives_every_step(train_photos, tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    net = networks.factorized_prior("tiny")
    run = training.train(
        net, train_photos[:1], lmbda=0.01, steps=3, batch_size=1, crop=64, tensorboard=tmp_path, threads=1
    )
    board = events.EventAccumulator(str(tmp_path))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [
        (step.step, pytest.approx(step.loss)) for step in run.history
    ]


@pytest.mark.slow
def test_compiled_transforms_give_the_same_losses(train_photos):
    """The losses agree within float32's rounding, and the network is unchanged afterwards."""
    losses = {}
    for compiled in (False, True):
        net = networks.get("factorized_prior", "tiny", schemes.mixed(), seed=2)
        keys = list(net.state_dict())
        settings = {"lmbda": 0.01, "batch_size": 1, "crop": 64, "lr": 1e-3, "precision": "float32", "compile": compiled}
        losses[compiled] = [step.loss for step in training.stream(net, train_photos[:1], steps=5, **settings)]
        assert list(net.state_dict()) == keys and net.g_a._compiled_call_impl is None
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)


@pytest.mark.slow
def test_a_loop_left_open_does_not_abort_python():
    code = (
        "from labkit import datasets, networks, training\n"
        "steps = training.stream(networks.factorized_prior(), datasets.photos('train')[:1], lmbda=0.01, steps=9,"
        " batch_size=1, crop=64)\n"
        "print(next(steps).step)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr[-2000:]
