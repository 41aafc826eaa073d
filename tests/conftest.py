"""Settings and fixtures for all tests. torch uses one thread, because more would slow down parallel tests."""

import os
from pathlib import Path

import pytest
import torch

import labkit.datasets as datasets

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def kodak() -> Path:
    """The folder of the Kodak images: $LABKIT_DATASETS/kodak, or shared/datasets/kodak next to the checkout."""
    neighbor = Path(__file__).resolve().parents[2] / "shared" / "datasets"
    folder = Path(os.environ.get("LABKIT_DATASETS", neighbor)) / "kodak"
    if not folder.is_dir():
        pytest.skip("the Kodak images are missing: set LABKIT_DATASETS to the folder that contains kodak/")
    return folder


@pytest.fixture(scope="session")
def train_photos() -> datasets.PhotoSet:
    return datasets.photos("train")


@pytest.fixture(scope="session")
def test_photos() -> datasets.PhotoSet:
    return datasets.photos("test")
