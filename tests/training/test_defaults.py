"""Python, the command line and sweeps have the same defaults; the trainer times steps to choose the precision."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import subprocess
import sys

import pytest
import torch

import labkit as lk
from labkit import cli, datasets, defaults, networks, schemes, training
from labkit.training import precision

REQUIRED = ("lmbda", "steps")
FIELDS = {field.name: field.default for field in dataclasses.fields(training.Settings) if field.name not in REQUIRED}


def parameters(function):
    return inspect.signature(function).parameters


@pytest.mark.parametrize("function", [training.train, training.train_stack, training.stream])
def test_a_signature_names_every_setting_with_its_default(function):
    signature = parameters(function)
    assert {name: signature[name].default for name in FIELDS} == FIELDS
    assert all(signature[name].annotation == training.Settings.__annotations__[name] for name in FIELDS)
    assert not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in signature.values())


def test_the_command_line_has_the_defaults_of_python():
    options = {option.name: option.default for option in cli.main.commands["train"].params}
    python = {name: p.default for name, p in parameters(training.train).items()}
    names = [*FIELDS, "threads", "save_every"]
    assert {name: options[name] for name in names} == {name: python[name] for name in names}
    assert options["size"] == parameters(networks.get)["size"].default
    assert networks.get(options["network"]).scheme == networks.toy_2d().scheme == schemes.get(options["scheme"])


def test_sweeps_have_the_defaults_of_python_with_three_exceptions(tmp_path):
    from labkit.research.sweeps import Sweep

    (run,) = Sweep(tmp_path, {"lmbda": 0.01, "steps": 1}).runs()
    expected = {**FIELDS, "lr": defaults.LR, "network": defaults.NETWORK, "size": defaults.SIZE}
    expected |= {"scheme": defaults.SCHEME, "save_every": defaults.SAVE_EVERY}
    expected |= {"precision": "float32", "workers": 0, "threads": 1}  # results are comparable between machines
    assert {name: run.settings[name] for name in expected} == expected


def test_the_help_of_the_command_line_shows_the_defaults():
    code = "import sys; from labkit.cli import main\ntry:\n main(['train', '--help'])\nexcept SystemExit:\n pass\n"
    code += "assert 'torch' not in sys.modules"
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    text = " ".join(text.split())
    for default in ("mean_scale_hyperprior", "tiny", "mixed", "4", "256", "cosine:8e-4:1e-5", "1.0", "0", "60.0"):
        assert f"[default: {default}]" in text


def test_a_schedule_can_be_given_as_text():
    settings = training.Settings(lmbda=1.0, steps=3)
    assert settings.lr == lk.schedules.cosine(8e-4, 1e-5)
    assert training.Settings(lmbda=1.0, steps=3, lr=settings.lr) == settings
    assert settings.learning_rate(0) == pytest.approx(8e-4) and settings.learning_rate(2) == pytest.approx(1e-5)
    with pytest.raises(ValueError, match="got 'cosine:1'"):
        training.Settings(lmbda=1.0, steps=3, lr="cosine:1")


@pytest.mark.parametrize(
    ("seconds", "answer"),
    [
        ({"float32": [3.0, 1.6, 9.0], "bfloat16": [9.0, 1.0, 7.0]}, "bfloat16"),  # the shortest times count
        ({"float32": [1.1, 9.0, 9.0], "bfloat16": [1.0, 1.0, 1.0]}, "float32"),  # a gain of 10% is too small
        ({"float32": [1.0, 1.0, 1.0], "bfloat16": [3.0, 0.9, 3.0]}, "float32"),
    ],
)
def test_bfloat16_is_chosen_if_it_is_clearly_faster(seconds, answer, monkeypatch):
    clock, times = itertools.count(), {name: itertools.cycle(values) for name, values in seconds.items()}
    monkeypatch.setattr(precision, "_has_bfloat16_kernels", lambda: True)
    monkeypatch.setattr(precision, "_seconds", lambda convolution, x, name: next(times[name]))
    monkeypatch.setattr(precision.time, "perf_counter", lambda: next(clock) * precision.BUDGET / 10)
    assert precision._faster_on_cpu.__wrapped__() == answer


def test_a_processor_without_bfloat16_kernels_is_not_timed(monkeypatch):
    monkeypatch.setattr(precision, "_has_bfloat16_kernels", lambda: False)
    monkeypatch.setattr(precision, "_seconds", lambda *_: pytest.fail("it was timed"))
    assert precision._faster_on_cpu.__wrapped__() == "float32"


def test_a_missing_kernel_library_causes_no_error(monkeypatch):
    def missing():
        raise RuntimeError("no oneDNN")

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", missing)
    assert not precision._has_bfloat16_kernels()


def test_the_timing_changes_neither_thread_count_nor_gradient_mode():
    threads = torch.get_num_threads()
    with torch.no_grad():
        assert precision._faster_on_cpu.__wrapped__() in ("float32", "bfloat16")
        assert not torch.is_grad_enabled()
    assert torch.get_num_threads() == threads


def test_images_train_in_the_faster_precision_and_points_in_float32(monkeypatch, train_photos):
    monkeypatch.setattr(precision, "_faster_on_cpu", lambda: "bfloat16")
    settings = training.Settings(lmbda=0.01, steps=1, crop=64, device="cpu")
    codec = training.Training(networks.factorized_prior(), train_photos[:1], settings)
    toy = training.Training(networks.toy_2d(), datasets.Banana(), settings)
    assert (codec.settings.precision, toy.settings.precision) == ("bfloat16", "float32")
    (run,) = training.train_stack(
        [networks.factorized_prior()], train_photos[:1], [{}], lmbda=0.01, steps=1, crop=64, batch_size=1, device="cpu"
    )
    assert run.settings["precision"] == "float32"


def test_the_error_names_an_unknown_device():
    with pytest.raises(ValueError, match="device must be cpu, cuda or cuda:N, got 'gpu'"):
        training.Settings(lmbda=1.0, steps=1, device="gpu")


def test_the_error_for_a_model_without_a_scheme_recommends_adoption(train_photos):
    import compressai.models

    with pytest.raises(ValueError, match=r"^FactorizedPrior carries no quantization scheme: call labkit\.adopt\("):
        lk.train(compressai.models.FactorizedPrior(8, 8), train_photos[:1], lmbda=0.01, steps=1)
