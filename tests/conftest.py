"""Shared by all tests: one torch thread, since two slow each other down beside anything else, and the image sets."""

import os
from pathlib import Path

import pytest
import torch

import labkit.datasets as datasets

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def kodak() -> Path:
    """The Kodak images, in $LABKIT_DATASETS/kodak or in shared/datasets/kodak beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "datasets"
    folder = Path(os.environ.get("LABKIT_DATASETS", beside)) / "kodak"
    if not folder.is_dir():
        pytest.skip("the Kodak images are not at hand: point LABKIT_DATASETS at a folder that holds kodak/")
    return folder


@pytest.fixture(scope="session")
def train_photos() -> datasets.PhotoSet:
    return datasets.photos("train")


@pytest.fixture(scope="session")
def test_photos() -> datasets.PhotoSet:
    return datasets.photos("test")
