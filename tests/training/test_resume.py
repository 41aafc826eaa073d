"""A run that was stopped, killed or interrupted by an error can be resumed and ends with the same numbers."""

import json
import math
import os
import signal
from contextlib import suppress

import compressai.models
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialized

from labkit import adoption, first_edition, networks, schedules, schemes, training
from labkit.training import precision, states

SETTINGS = {
    "lmbda": 0.01,
    "batch_size": 1,
    "crop": 64,
    "lr": schedules.cosine(1e-3, 1e-4),
    "precision": "float32",
    "threads": 1,
}
SCHEMES = {
    "annealed": schemes.annealed(),
    "two stages": schemes.soft_then_hard(share=0.5),
    "sga": schemes.gumbel(),
}


class Stopped(Exception):
    pass


def run(photos, out, steps=9, net=None, **settings):
    net = net or networks.get("mean_scale_hyperprior", "tiny", schemes.annealed(), seed=1)
    return training.train(net, photos[:3], steps=steps, out=out, log=f"{out}.csv", **{**SETTINGS, **settings})


def stop_after(monkeypatch, step):
    """Simulate a process that ends suddenly after a step, two steps after its last save."""
    add = training.logs.Log.add

    def stop(log, seen):
        add(log, seen)
        if seen.step == step:
            raise Stopped

    save = states.Files.save
    monkeypatch.setattr(states.Files, "save", lambda f, s: save(f, s) if f.training.step <= step - 2 else None)
    monkeypatch.setattr(training.logs.Log, "add", stop)
    monkeypatch.setattr(training.run, "SAVING", math.inf)  # save as often as requested


def contents(path):
    with safe_open(path, framework="pt") as file:
        info = json.loads(file.metadata()["info"])
    del info["seconds"]
    return info, load_file(path)


def assert_same(first, second):
    (first_info, first_tensors), (second_info, second_tensors) = contents(first), contents(second)
    assert first_info == second_info and set(first_tensors) == set(second_tensors)
    assert all(torch.equal(value, second_tensors[name]) for name, value in first_tensors.items())


@pytest.mark.parametrize("after", [2, 5, 8])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_resumed_run_ends_with_the_same_numbers_bit_for_bit(scheme, after, train_photos, tmp_path, monkeypatch):
    def fresh():
        return networks.get("mean_scale_hyperprior", "tiny", SCHEMES[scheme], seed=1)

    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    settings = {"ema": 0.9, "save_every": 1e-9, "precision": "bfloat16"}
    uninterrupted = run(train_photos, whole, net=fresh(), **settings)
    with monkeypatch.context() as patch:
        stop_after(patch, after)
        with pytest.raises(Stopped):
            run(train_photos, parts, net=fresh(), **settings)
    assert states.read(tmp_path / "parts.safetensors.part")["step"] == max(after - 2, 0)
    resumed = run(train_photos, parts, net=fresh(), **settings)
    assert_same(whole, parts)
    assert [(s.step, s.loss, s.norm) for s in uninterrupted.history] == [
        (s.step, s.loss, s.norm) for s in resumed.history
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"{n}.safetensors{s}" for n in ("parts", "whole") for s in ("", ".csv")
    ]


def test_a_finished_run_is_read_and_not_repeated(train_photos, tmp_path, monkeypatch):
    out = tmp_path / "a.safetensors"
    first = run(train_photos, out)
    before = out.read_bytes()
    monkeypatch.setattr(training.Training, "__iter__", lambda self: pytest.fail("it was repeated"))
    net = networks.get("mean_scale_hyperprior", "tiny", schemes.annealed(), seed=1)
    again = run(train_photos, out, net=net)
    assert out.read_bytes() == before and training.weights_hash(net) == training.weights_hash(first.net)
    assert not net.training and json.dumps(net.info) == json.dumps(first.net.info)
    assert [s.loss for s in again.history] == [s.loss for s in first.history] and again.threads is None
    assert "9 steps in" in str(again) and "made earlier" in str(again)


def test_a_run_that_ends_between_its_last_state_and_its_checkpoint_is_completed(train_photos, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole.safetensors", tmp_path / "a.safetensors"
    run(train_photos, whole, ema=0.9)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(training.run, "SAVING", math.inf)
        patch.setattr(states.Files, "finish", lambda *_: (_ for _ in ()).throw(Stopped()))
        run(train_photos, out, ema=0.9, save_every=1e-9)
    assert states.read(tmp_path / "a.safetensors.part")["step"] == 9 and not out.exists()
    again = run(train_photos, out, ema=0.9)
    assert_same(whole, out)
    assert [step.step for step in again.history] == list(range(1, 10))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"lmbda": 0.02}, r"\(lmbda 0.01, not 0.02\)"),
        ({"steps": 10, "seed": 3}, r"\(steps 9, not 10, seed 0, not 3\)"),
        ({"net": 2}, r"\(other first weights\)"),
        ({"photos": 4}, r"\(other images\)"),
        ({"scheme": schemes.mixed()}, r"\(another scheme, other first weights\)|\(another scheme\)"),
    ],
)
@pytest.mark.parametrize("half_done", [False, True])
def test_another_run_is_overwritten_only_on_request(change, message, half_done, train_photos, tmp_path, monkeypatch):
    change, out = dict(change), tmp_path / "a.safetensors"
    if half_done:
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            stop_after(patch, 3)
            run(train_photos, out)
    else:
        run(train_photos, out)
    existing = tmp_path / ("a.safetensors.part" if half_done else "a.safetensors")
    before = existing.read_bytes()
    scheme = change.pop("scheme", schemes.annealed())
    net = networks.get("mean_scale_hyperprior", "tiny", scheme, seed=change.pop("net", 1))
    photos = train_photos[1:] if change.pop("photos", None) else train_photos
    expected = rf"{existing.name} belongs to another run {message}: choose another output file"
    with pytest.raises(ValueError, match=expected):
        run(photos, out, net=net, **change)
    assert existing.read_bytes() == before
    if not half_done:
        return
    run(photos, out, net=net, fresh=True, **change)
    assert out.exists() and not existing.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_run_after_the_step_and_saves_it(number, train_photos, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole.safetensors", tmp_path / "a.safetensors"
    run(train_photos, whole)
    forward = networks.MeanScaleHyperprior.forward
    calls = []

    def signaled(net, x):
        calls.append(x)
        if len(calls) == 4:
            os.kill(os.getpid(), number)
        return forward(net, x)

    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(networks.MeanScaleHyperprior, "forward", signaled)
        with pytest.raises(KeyboardInterrupt, match=r"stopped after step 4 of 9; .*part keeps step 4: the same"):
            run(train_photos, out)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    run(train_photos, out)
    assert_same(whole, out)


@pytest.mark.parametrize("quantity", ["loss", "gradient"])
def test_a_number_that_is_not_finite_ends_the_run_and_is_not_saved(quantity, train_photos, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole.safetensors", tmp_path / "a.safetensors"
    run(train_photos, whole)
    gradient = training.Training._gradient

    def bad(self, model, optimizer, batch):
        measured = gradient(self, model, optimizer, batch)
        if self.step == 5:
            self.parameters[0].grad[:] = math.nan
            measured[0 if quantity == "loss" else 3] = math.nan
        return measured

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "_gradient", bad)
        patch.setattr(training.run, "SAVING", math.inf)
        with pytest.raises(FloatingPointError, match=rf"the {quantity} is nan at step 6: .*part keeps step 5: the"):
            run(train_photos, out, save_every=1e-9)
    assert all(torch.isfinite(value).all() for value in load_file(f"{out}.part").values())
    run(train_photos, out)
    assert_same(whole, out)


def test_a_full_disk_causes_an_error_of_one_line_and_keeps_the_last_state(train_photos, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole.safetensors", tmp_path / "a.safetensors"
    run(train_photos, whole)
    calls, fsync = [], os.fsync

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        patch.setattr(training.run, "SAVING", math.inf)
        with pytest.raises(ValueError, match=r"part cannot be written: No space left on device; .* step [1-3]:"):
            run(train_photos, out, save_every=1e-9)
    assert sorted(p.name for p in tmp_path.glob("*a.safe*")) == ["a.safetensors.csv", "a.safetensors.part"]
    run(train_photos, out)
    assert_same(whole, out)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ValueError, match=r"b.safetensors.* cannot be written: No space left on device$"):
            run(train_photos, tmp_path / "b.safetensors")


def test_a_damaged_state_is_reported(train_photos, tmp_path):
    out = tmp_path / "a.safetensors"
    for content in (b"", b"hello " * 100):
        (tmp_path / "a.safetensors.part").write_bytes(content)
        with pytest.raises(ValueError, match=r"a.safetensors.part does not hold an unfinished training run: ") as error:
            run(train_photos, out)
        assert "\n" not in str(error.value)
        assert (tmp_path / "a.safetensors.part").read_bytes() == content


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_of_the_first_edition_can_be_resumed(finished, train_photos, tmp_path, monkeypatch):
    """The files of the first edition contain the British name of permute_colors."""
    whole, out = tmp_path / "whole.safetensors", tmp_path / "a.safetensors"
    settings = {"permute_colors": True, "save_every": 1e-9}
    run(train_photos, whole, **settings)
    with monkeypatch.context() as patch, suppress(Stopped):
        if not finished:
            stop_after(patch, 6)
        run(train_photos, out, **settings)
    file = out if finished else states.part(out)
    content = file.read_bytes()
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    (before,) = [old for old, present in first_edition.SETTINGS.items() if present == "permute_colors"]
    old = {name: text.replace("permute_colors", before) for name, text in metadata.items()}
    assert old != metadata
    file.write_bytes(serialized(load_file(file), old))
    monkeypatch.setattr(states, "load", record_calls(states.load, loads := []))
    again = run(train_photos, out, **settings)
    assert len(loads) == (not finished) and len(again.history) == 9
    if finished:
        assert file.read_bytes() != content and again.threads is None
    else:
        assert_same(whole, out)


def record_calls(function, calls):
    """Wrap a function so that it records its calls."""

    def recording(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return recording


def test_a_resumed_run_keeps_its_precision(train_photos, tmp_path, monkeypatch):
    """The timing that chooses a precision may give another answer when the run is resumed."""
    out = tmp_path / "a.safetensors"
    monkeypatch.setattr(precision, "_faster_on_cpu", lambda: "bfloat16")
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_after(patch, 4)
        run(train_photos, out, precision=None, save_every=1e-9)
    monkeypatch.setattr(precision, "_faster_on_cpu", lambda: "float32")
    for _ in range(2):  # from the state, then from the checkpoint
        assert run(train_photos, out, precision=None).settings["precision"] == "bfloat16"
    assert run(train_photos, out, precision=None, fresh=True).settings["precision"] == "float32"


@pytest.mark.parametrize("damage", ["half a line", "steps to come", "gone", "something else"])
def test_the_log_is_repaired(damage, train_photos, tmp_path, monkeypatch):
    out, log = tmp_path / "a.safetensors", tmp_path / "a.safetensors.csv"
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_after(patch, 6)
        run(train_photos, out, save_every=1e-9)
    lines = log.read_text().splitlines(keepends=True)
    assert len(lines) == 7 and states.read(tmp_path / "a.safetensors.part")["step"] == 4
    if damage == "half a line":
        log.write_text("".join(lines)[:-20])
    elif damage == "something else":
        log.write_text("a,b\n1,2\n")
    elif damage == "gone":
        log.unlink()
    result = run(train_photos, out)
    steps = [int(row.split(",")[0]) for row in log.read_text().splitlines()[1:]]
    assert steps == list(range(1 if damage in ("half a line", "steps to come") else 5, 10))
    assert [s.step for s in result.history] == steps


def test_averaged_weights_follow_their_formula(train_photos, tmp_path):
    """The reference is the average, in float64, of the weights after each step of the same run without averaging."""
    decay, expected = 0.8, {}
    net = networks.get("mean_scale_hyperprior", "tiny", schemes.annealed(), seed=1)
    expected = {name: p.detach().double().clone() for name, p in net.named_parameters()}
    settings = {k: v for k, v in SETTINGS.items() if k != "threads"}
    for _ in training.stream(net, train_photos[:2], steps=7, **settings):
        for name, p in net.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * p.detach().double()
    net = networks.get("mean_scale_hyperprior", "tiny", schemes.annealed(), seed=1)
    training.train(net, train_photos[:2], steps=7, ema=decay, **settings)
    for name, p in net.named_parameters():
        if not name.endswith("quantiles"):
            torch.testing.assert_close(p.double(), expected[name], rtol=1e-6, atol=1e-8)


def test_a_run_of_an_adopted_model_can_be_resumed(train_photos, tmp_path, monkeypatch):
    def fresh():
        torch.manual_seed(5)
        return adoption.adopt(compressai.models.Cheng2020AnchorCheckerboard(N=24), schemes.soft_then_hard(share=0.5))

    whole, out = tmp_path / "whole.safetensors", tmp_path / "a.safetensors"
    run(train_photos, whole, steps=4, net=fresh())
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_after(patch, 3)
        run(train_photos, out, steps=4, net=fresh(), save_every=1e-9)
    run(train_photos, out, steps=4, net=fresh())
    assert_same(whole, out)
