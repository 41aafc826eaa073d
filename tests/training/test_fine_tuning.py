"""Fine-tuning scales the latents for the new λ, then trains."""

from __future__ import annotations

import pytest
import torch

import labkit as lk
from labkit.training import fine_tuning


@pytest.mark.parametrize(("kind", "gain"), [("factorized_prior", 2.0), ("elic", 1.0)])
def test_latents_are_scaled_if_the_network_is_scalable_and_knows_its_lmbda(kind, gain, monkeypatch):
    calls = []
    monkeypatch.setattr(fine_tuning, "stream", lambda *_, **settings: calls.append(settings) or iter(()))
    net = lk.networks.get(kind, "tiny")
    before = next(net.g_s.parameters()).clone()
    for lmbda, info in ((0.01, {}), (0.04, {"lmbda": 0.01})):
        net.info = info
        assert list(lk.training.fine_tune(net, None, lmbda=lmbda, steps=3, seed=5)) == []
    assert torch.allclose(next(net.g_s.parameters()), before / gain)
    assert [(call["lmbda"], call["steps"], call["seed"]) for call in calls] == [(0.01, 3, 5), (0.04, 3, 5)]
