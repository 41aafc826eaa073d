"""A GPU: training steps as CUDA graphs beside the steps themselves, and what is coded there; skipped without one."""

import functools

import pytest
import torch

from labkit import datasets, networks, schemes, training
from labkit.training import trainer
from labkit.training.graphs import WARM_UP, Graphed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
STEPS = 24


def test_a_replay_draws_what_the_step_itself_would():
    generator, wanted = torch.Generator("cuda"), torch.Generator("cuda")
    step = Graphed(lambda batch: batch + torch.rand(3, 5, device="cuda", generator=generator), generator)
    for call in range(WARM_UP + 4):
        batch = torch.full((3, 5), float(call), device="cuda")
        generator.manual_seed(call)
        wanted.manual_seed(call)
        assert torch.equal(step(batch), batch + torch.rand(3, 5, device="cuda", generator=wanted))


@pytest.mark.parametrize("network", ["factorized_prior", "mean_scale_hyperprior", "channel_autoregressive"])
@pytest.mark.parametrize("scheme", schemes.names())
def test_a_graphed_training_ends_where_the_same_steps_end(monkeypatch, network, scheme):
    def trained():
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

    graphed = trained()
    monkeypatch.setattr(
        trainer.Training, "_gradients", lambda self, *given: functools.partial(self._gradient, *given[:2])
    )
    plain = trained()
    apart = abs(graphed / plain - 1)
    assert apart[: WARM_UP + 2].max() < 1e-3  # of which the last two are replays
    assert apart[:, :2].max() < 0.05, apart.tolist()  # cuDNN's sums differ from one run to the next, and training parts


def test_evaluation_on_a_gpu_decodes_what_was_coded():
    from labkit import evaluation

    net, photos = networks.pretrained().to("cuda"), datasets.photos("test")[:2]
    rows, losses = evaluation.evaluate(net, photos, progress=False).rows, evaluation.rounded_losses(net, photos)
    for row, (rate, distortion) in zip(rows, losses, strict=True):
        assert 255**2 * 10 ** (-row["psnr"] / 10) == pytest.approx(distortion, rel=0.02)
        assert row["estimated_bpp"] == pytest.approx(rate, rel=1e-3)
        assert row["bpp"] == pytest.approx(rate, rel=0.02)
