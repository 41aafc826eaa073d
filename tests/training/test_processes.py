"""Two processes under torchrun give the losses, weights, reports and files of one process.

They sum each batch in two halves. The float32 losses therefore agree to a few parts in ten million. The weights agree
to 1e-5, because Adam moves a weight by a full step even if its gradient is tiny.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from labkit import datasets, entropy, evaluation, networks, schemes, surrogates, training
from labkit.training import data, processes, states

LMBDA, STEPS, CROP = 0.01, 6, 64
CASES = {
    "toy": ("toy_2d", schemes.noise()),
    "hyperprior": ("mean_scale_hyperprior", schemes.annealed()),
    "two stages": ("factorized_prior", schemes.soft_then_hard(share=0.5)),
    "context": ("cheng2020_anchor", schemes.mixed(shared_noise=False)),
    "gumbel": ("factorized_prior", schemes.gumbel()),
}
WEIGHTS = {"rtol": 0, "atol": 1e-5}


def train(case, folder, **more):
    """Train a case; return the run and the final weights."""
    network, scheme = CASES[case]
    torch.set_num_threads(1)
    if network == "toy_2d":
        net, source = networks.toy_2d(scheme), datasets.Banana()
        settings = {"batch_size": 128}
    else:
        net, source = networks.get(network, "tiny", scheme, seed=1), datasets.photos("train")[:3]
        settings = {"batch_size": 4, "crop": CROP, "permute_colors": True, "ema": 0.9}
        settings |= {"out": folder / f"{case}.safetensors", "log": folder / f"{case}.csv"}
    settings |= {"lr": 1e-3, "precision": "float32", "threads": 1, "progress": False}
    run = training.train(net, source, lmbda=LMBDA, steps=STEPS, seed=3, **settings, **more)
    weights = {name: value for name, value in net.state_dict().items() if value.is_floating_point()}
    return run, weights


def half_done(case, folder, steps=3):
    """Write OUT.part of a case after a number of steps in one process."""
    network, scheme = CASES[case]
    settings = training.Settings(
        lmbda=LMBDA, steps=STEPS, seed=3, batch_size=4, crop=CROP, permute_colors=True, ema=0.9, lr=1e-3,
        precision="float32",
    )  # fmt: skip
    net = networks.get(network, "tiny", scheme, seed=1)
    trainer = training.Training(net, datasets.photos("train")[:3], settings)
    files = states.Files(trainer, folder / f"{case}.safetensors")
    for step in trainer:
        if step.step == steps:
            files.save(0.0)
            break


def main(folder):
    """Run in each of two processes: train all cases, resume a half-done run, and evaluate."""
    results = {}
    for case in CASES:
        run, weights = train(case, folder)
        results[case] = {"losses": [s.loss for s in run.history], "norms": [s.norm for s in run.history]}
        if processes.ranks()[0] == 0:
            torch.save(weights, folder / f"{case}.pt")
    (folder / "resumed").mkdir(exist_ok=True)
    run, weights = train("hyperprior", folder / "resumed")
    if processes.ranks()[0] == 0:
        torch.save(weights, folder / "resumed.pt")
    results["rows"] = report(folder).rows
    (folder / f"found-{processes.ranks()[0]}.json").write_text(json.dumps(results))


def report(folder):
    net, _ = training.load_checkpoint(folder / "hyperprior.safetensors")
    return evaluation.evaluate(net, datasets.photos("test")[:3], progress=False)


def torchrun(*command, **more):
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, command)]
    return subprocess.run(start, env=environment, capture_output=True, text=True, timeout=300, **more)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Return the folder and the results of two processes."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "resumed").mkdir()
    half_done("hyperprior", folder / "resumed")
    done = torchrun(__file__, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return folder, [json.loads((folder / f"found-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_same_steps_as_one(case, two_processes, tmp_path):
    folder, results = two_processes
    run, weights = train(case, tmp_path)
    for result in results:  # every process has the loss of the whole batch
        assert result[case]["losses"] == pytest.approx([step.loss for step in run.history], rel=1e-5)
        assert result[case]["norms"] == pytest.approx([step.norm for step in run.history], rel=1e-4)
    for name, value in torch.load(folder / f"{case}.pt", weights_only=True).items():
        torch.testing.assert_close(value, weights[name], **WEIGHTS)


@pytest.mark.slow
def test_a_run_resumes_with_more_processes(two_processes, tmp_path):
    folder, _ = two_processes
    _, weights = train("hyperprior", tmp_path)
    for name, value in torch.load(folder / "resumed.pt", weights_only=True).items():
        torch.testing.assert_close(value, weights[name], **WEIGHTS)
    assert not list(folder.rglob("*.part"))


@pytest.mark.slow
def test_the_processes_share_the_images_and_each_reports_all_of_them(two_processes):
    folder, results = two_processes
    rows = report(folder).rows
    timeless = [{key: value for key, value in row.items() if not key.endswith("_seconds")} for row in rows]
    for result in results:
        assert [{key: row[key] for key in timeless[0]} for row in result["rows"]] == timeless


@pytest.mark.slow
def test_the_commands_run_under_torchrun(tmp_path):
    out = tmp_path / "a.safetensors"
    labkit = Path(sys.executable).with_name("labkit")
    options = f"--network factorized_prior --size tiny --lmbda 0.01 --steps 2 --crop 64 --out {out}".split()
    done = torchrun("--no-python", labkit, "train", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("2 steps in") == 1
    photos = Path(__file__).parents[2] / "data" / "photographs" / "test"
    done = torchrun("--no-python", labkit, "evaluate", out, "--data", photos)
    assert done.returncode == 0 and done.stdout.count("encoding took") == 1, done.stderr[-3000:]
    done = torchrun("--no-python", labkit, "train", *options, "--batch-size", "3", "--fresh")
    assert done.returncode != 0
    assert "batch_size must be a multiple of the 2 processes, got 3" in done.stderr and "Error" not in done.stdout


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("colors", [False, True])
def test_the_parts_of_a_batch_together_are_the_batch(parts, colors, train_photos):
    """This holds for images of different sizes too."""
    images = [image[:, : 100 + 17 * i, : 180 - 29 * i] for i, image in enumerate(train_photos.images[:4])]
    settings = {"first": 2, "steps": 4, "batch_size": 6, "crop": 64, "permute_colors": colors, "seed": 5}
    source = datasets.PhotoSet(images, list("abcd"))
    whole = list(data.batches(source, device="cpu", **settings))
    split = [list(data.batches(source, device="cpu", part=(k, parts), **settings)) for k in range(parts)]
    assert all(len(batch) == 6 // parts for share in split for batch in share)
    for step, batch in enumerate(whole):
        assert torch.equal(batch, torch.cat([share[step] for share in split]))


@pytest.mark.parametrize("name", ["aun", "uq", "ssl", "ste"])
def test_the_parts_of_the_noise_together_are_the_noise(name):
    """The cases draw noise of the latent's shape, one number per image, three numbers per latent, and no noise."""
    surrogate = surrogates.get(name, **({"classes": 3} if name == "ssl" else {}))
    scheme = schemes.noise().replace(hyper_rate=surrogate, hyper_distortion=surrogate)
    y = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))

    def latents(y, part):
        bottleneck = entropy.EntropyBottleneck(3, scheme=scheme).train()
        entropy.set_generator(bottleneck, torch.Generator().manual_seed(7), part)
        return bottleneck(y)[0].detach()

    halves = [latents(half, (k, 2)) for k, half in enumerate(y.chunk(2))]
    torch.testing.assert_close(latents(y, (0, 1)), torch.cat(halves), rtol=0, atol=1e-5)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
