"""On a GPU, CUDA graphs train like plain steps, and coded images decode; skipped without a GPU."""

import functools

import pytest
import torch

from labkit import datasets, networks, schemes, training
from labkit.training import trainer
from labkit.training.graphs import WARM_UP, Graphed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
STEPS = 24


def test_a_replay_draws_the_same_noise_as_the_step():
    generator, expected = torch.Generator("cuda"), torch.Generator("cuda")
    step = Graphed(lambda batch: batch + torch.rand(3, 5, device="cuda", generator=generator), generator)
    for call in range(WARM_UP + 4):
        batch = torch.full((3, 5), float(call), device="cuda")
        generator.manual_seed(call)
        expected.manual_seed(call)
        assert torch.equal(step(batch), batch + torch.rand(3, 5, device="cuda", generator=expected))


@pytest.mark.parametrize("network", ["factorized_prior", "mean_scale_hyperprior", "channel_autoregressive"])
@pytest.mark.parametrize("scheme", schemes.names())
def test_training_with_graphs_equals_training_without(monkeypatch, network, scheme):
    def train():
        net = networks.get(network, "tiny", schemes.get(scheme), 0)
        run = training.train(
            net,
            datasets.photos("train"),
            steps=STEPS,
            lmbda=0.01,
            crop=64,
            lr=1e-3,
            device="cuda",
            precision="float32",
            progress=False,
        )
        return run.to_frame()[["rate", "distortion", "norm"]].to_numpy()

    graphed = train()
    monkeypatch.setattr(
        trainer.Training, "_gradients", lambda self, *arguments: functools.partial(self._gradient, *arguments[:2])
    )
    plain = train()
    difference = abs(graphed / plain - 1)
    assert difference[: WARM_UP + 2].max() < 1e-3  # the last two steps are replays
    # Sums of cuDNN differ between runs, and training amplifies the differences.
    assert difference[:, :2].max() < 0.05, difference.tolist()


def test_evaluation_on_a_gpu_decodes_the_coded_images():
    from labkit import evaluation

    net, photos = networks.pretrained().to("cuda"), datasets.photos("test")[:2]
    rows, losses = evaluation.evaluate(net, photos, progress=False).rows, evaluation.rounded_losses(net, photos)
    for row, (rate, distortion) in zip(rows, losses, strict=True):
        assert 255**2 * 10 ** (-row["psnr"] / 10) == pytest.approx(distortion, rel=0.02)
        assert row["estimated_bpp"] == pytest.approx(rate, rel=1e-3)
        assert row["bpp"] == pytest.approx(rate, rel=0.02)
