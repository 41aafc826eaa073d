"""Strings decode to the same latents with every instruction set that this processor can be told to use."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from compressai.entropy_models import EntropyModel

import labkit as lk
from labkit.entropy import GaussianConditional
from labkit.files import codec
from labkit.files.container import Container
from tests.fixed_point import machines
from tests.fixed_point.machines import ALL, FIXTURES, FOLDER, IN_FIXTURES, OLDEST, SETTINGS, WIDE

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = {"oldest": OLDEST, **SETTINGS}


@pytest.fixture(scope="module")
def fixtures():
    return {name: machines.read(FOLDER / name) for name in FIXTURES}


@pytest.mark.parametrize("name", IN_FIXTURES)
@pytest.mark.parametrize("fixture", FIXTURES)
def test_a_fixture_of_another_instruction_set_decodes_and_codes_again_to_the_same_strings(fixture, name, fixtures):
    """The fixture tests what matters: it has symbols other than 0, escapes, and σ next to the boundaries of tables."""
    file = fixtures[fixture]
    net, strings = machines.load(file, name)
    z_hat = []
    for path, module in net.named_modules():
        if path.rpartition(".")[2] == "h_s":
            module.register_forward_pre_hook(lambda _, inputs: z_hat.append(inputs[0]))
    y_hat = machines.decoded_latents(net, strings)
    assert machines.checksum(y_hat) == file[f"{name}/checksum"]

    coded = Coded()
    with coded:
        assert machines.code(net, y_hat, z_hat[0] if z_hat else None) == strings
    assert (coded.symbols != 0).mean() >= 0.05 and coded.escapes >= 5
    if z_hat:
        distance = np.abs(coded.scales[:, None] - file["gaussian/scale_table"][None, :-1]).min(1)
        assert (distance <= 2**-14).any()


def test_a_file_of_another_instruction_set_decodes_to_its_latents():
    """The first test photograph, of which labkit coded 200×130 pixels in the environment OLDEST."""
    container = Container.read(FOLDER / "sse41.lkc")
    net = lk.networks.pretrained(container.network, 0.0035)
    decoded = codec.decode(container, net)
    assert container.version == 2 and decoded.same_latents
    photo = lk.datasets.photos("test").images[0][:, :130, :200].contiguous()
    here = codec.decompress(codec.compress(photo, net, verify=False), net)
    errors = [(image.float() - photo).square().mean().item() for image in (decoded.image, here)]
    assert errors[0] == pytest.approx(errors[1], rel=0.01)  # g_a may choose a few other symbols here


class Coded:
    """Within this context, collects symbols, scales and the number of escapes of all that is coded."""

    def __enter__(self):
        self.symbols, self.scales, self.escapes = np.zeros(0), np.zeros(0), 0
        quantize, build_indexes = EntropyModel.quantize, GaussianConditional.build_indexes

        def quantized(model, inputs, mode, means=None):
            symbols = quantize(model, inputs, mode, means)
            if mode == "symbols":
                if isinstance(model, GaussianConditional):
                    index = self.indexes.flatten().long()
                else:
                    index = model._build_indexes(inputs.shape).flatten().long()
                place = symbols.flatten() - model._offset[index]
                self.escapes += ((place < 0) | (place >= model._cdf_length[index] - 2)).sum().item()
                self.symbols = np.append(self.symbols, symbols)
            return symbols

        def indexes(model, scales):
            self.scales = np.append(self.scales, scales)
            self.indexes = build_indexes(model, scales)
            return self.indexes

        self.patches = [
            mock.patch.object(EntropyModel, "quantize", quantized),
            mock.patch.object(GaussianConditional, "build_indexes", indexes),
        ]
        for patch in self.patches:
            patch.start()

    def __exit__(self, *_):
        for patch in self.patches:
            patch.stop()


def decoded_by_child(files, environment):
    """Return what `machines.decode` returns for each file, in a process with another environment."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.fixed_point.machines", "decode", *map(str, files)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def decoded(tmp_path_factory):
    """Return a function that decodes in an environment what every network coded here, once per environment.

    It returns the results of strings coded in fixed point, and of strings coded with predictors in floating point.
    """
    folder = tmp_path_factory.mktemp("coded")
    files = [folder / "fixed.npz", folder / "floating.npz"]
    for file, floating_point in zip(files, (False, True), strict=True):
        np.savez(file, **machines.encode(ALL, floating_point=floating_point))
    return functools.cache(lambda setting: decoded_by_child(files, ENVIRONMENTS[setting]))


@pytest.mark.slow
@pytest.mark.parametrize("setting", ENVIRONMENTS)
def test_latents_of_every_network_are_equal(setting, decoded):
    fixed, floating = decoded(setting)
    assert set(fixed) == set(ALL) and all(equal["batch"] and equal["singly"] for equal in fixed.values()), fixed
    # σ alone hardly ever decides: without means, floating point decodes as well. With means, single images differ from
    # a batch even here, and all latents differ if the instruction set or the number of threads does.
    failed = {name for name, equal in floating.items() if not (equal["batch"] and equal["singly"])}
    assert len(failed) >= 4, floating


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mean_scale_hyperprior", "joint_autoregressive"])
def test_an_old_processor_decodes_other_latents_in_floating_point(name, decoded):
    """Otherwise the test above could not fail."""
    _, floating = decoded("oldest")
    assert not (floating[name]["batch"] or floating[name]["singly"])


@pytest.mark.slow
def test_tables_are_stored_because_other_instruction_sets_build_others(decoded):
    fixed, _ = decoded("default capability")
    if fixed[WIDE]["tables"]:
        pytest.skip("this processor builds the same tables with ATEN_CPU_CAPABILITY=default")
    assert fixed[WIDE]["batch"] and fixed[WIDE]["singly"]
