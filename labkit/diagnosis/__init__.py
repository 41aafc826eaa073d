"""The reasons why a codec's real bits differ from its estimate, and where the bits are."""

import labkit.entropy  # noqa: F401  # imports CompressAI without the warning of one of its dependencies
from labkit.diagnosis import plots
from labkit.diagnosis.examination import diagnose
from labkit.diagnosis.findings import KINDS, Finding
from labkit.diagnosis.pictures import Density, LatentMaps, densities, latent_maps
from labkit.diagnosis.report import Diagnosis

__all__ = [
    "KINDS",
    "Density",
    "Diagnosis",
    "Finding",
    "LatentMaps",
    "densities",
    "diagnose",
    "latent_maps",
    "plots",
]
