"""The claims of the study, in their order. NAME.toml declares the runs of a claim, NAME.py its findings."""

from __future__ import annotations

from labkit.checks import check_name
from labkit.research.study.claim import Claim
from labkit.research.study.claims.bound import Bound
from labkit.research.study.claims.comparison import Comparison
from labkit.research.study.claims.elsewhere import Elsewhere
from labkit.research.study.claims.gradients import Gradients, TrainedGradients
from labkit.research.study.claims.method import Method
from labkit.research.study.claims.mismatch import Mismatch, TrainedMismatch
from labkit.research.study.claims.prediction import Prediction
from labkit.research.study.claims.replication import Replication
from labkit.research.study.claims.structure import Structure
from labkit.research.study.claims.temperature import Temperature
from labkit.research.study.claims.tradeoff import Tradeoff
from labkit.research.study.claims.tricks import Tricks
from labkit.research.study.claims.variations import Variations
from labkit.research.study.claims.zero_center import ZeroCenter

CLAIMS: dict[str, Claim] = {
    claim.name: claim
    for claim in (
        Mismatch(),
        Gradients(),
        Tradeoff(),
        Structure(),
        Bound(),
        ZeroCenter(),
        Method(),
        Variations(),
        Elsewhere(),
        Temperature(),
        Tricks(),
        Comparison(),
        Prediction(),
        TrainedMismatch(),
        TrainedGradients(),
        Replication(),
    )
}


def get(name: str) -> Claim:
    """Return a claim by name.

    Raises:
        ValueError: If there is no such claim.
    """
    check_name("claim", name, CLAIMS)
    return CLAIMS[name]
