"""Photographs, image folders, and toy sources of points."""

from labkit.datasets.images import (
    ImageFiles,
    PhotoSet,
    folder,
    load_images,
    photos,
    training_images,
)
from labkit.datasets.reading import MAX_PIXELS, SUFFIXES, load_image, transparent
from labkit.datasets.sources import Banana, Gaussian, Laplacian, Ring, Sawbridge, banana

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "Banana",
    "Gaussian",
    "ImageFiles",
    "Laplacian",
    "PhotoSet",
    "Ring",
    "Sawbridge",
    "banana",
    "folder",
    "load_image",
    "load_images",
    "photos",
    "training_images",
    "transparent",
]
