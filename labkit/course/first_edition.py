"""Names of the first edition of the course, where numbers identified lessons, predictions and exercises.

Records of learners and copies of notebooks from the first edition still contain these numbers. Keys of the present
edition are words, so that a new number never marks another exercise as solved.
"""

from __future__ import annotations

from typing import Any

# Key in the first edition → present key, for each section of the learner's record.
KEYS: dict[str, dict[str, str]] = {
    "lessons": {
        "00": "codec",
        "01": "scalar",
        "02": "mismatch",
        "03": "risk",
        "04": "annealing",
        "05": "bound",
        "06": "center",
        "07": "method",
        "08": "model",
    },
    "guesses": {
        "00.1": "codec.size",
        "01.1": "scalar.derivative",
        "01.2": "scalar.codewords",
        "02.1": "mismatch.losses",
        "02.2": "mismatch.noise",
        "03.1": "risk.bias",
        "03.2": "risk.spread",
        "04.1": "annealing.constant",
        "04.2": "annealing.cooled",
        "05.1": "bound.gap",
        "05.2": "bound.growth",
        "06.1": "center.stop",
        "06.2": "center.ratio",
        "07.1": "method.codec",
        "07.2": "method.span",
        "08.1": "model.adopted",
        "08.2": "model.killed",
    },
    "exercises": {
        "00.1": "codec.bpp",
        "00.2": "codec.psnr",
        "01.1": "scalar.loss",
        "01.2": "scalar.straight_through",
        "01.3": "scalar.gain",
        "02.1": "mismatch.sampled",
        "02.2": "mismatch.noise_rate",
        "02.3": "mismatch.temperature",
        "03.1": "risk.sampled",
        "03.2": "risk.exact_slope",
        "03.3": "risk.batch_size",
        "04.1": "annealing.schedule",
        "04.2": "annealing.flips",
        "04.3": "annealing.warmest",
        "05.1": "bound.zero",
        "05.2": "bound.budget",
        "05.3": "bound.cost",
        "06.1": "center.partial_stop",
        "06.2": "center.gradient",
        "06.3": "center.variance",
        "07.1": "method.bd_rate",
        "07.2": "method.interval",
        "08.1": "model.loop",
        "08.2": "model.paths",
        "08.3": "model.resumed",
    },
}

# Notebooks that have another name now. Notebooks that kept their names link to these.
NOTEBOOKS = (
    "01_uniform_scalar_quantisation.ipynb",
    "02_train_test_mismatch.ipynb",
    "03_gradient_risk.ipynb",
    "04_annealing.ipynb",
    "05_scale_lower_bound.ipynb",
    "06_zero_centre_quantisation.ipynb",
    "07_the_whole_method.ipynb",
    "08_your_own_model.ipynb",
)


def present_key(section: str, key: str) -> str:
    """Return the present key for a key of either edition.

    Args:
        section: "lessons", "guesses" or "exercises".
        key: Key of the first edition or of the present one.
    """
    return KEYS[section].get(key, key)


def has_old_keys(record: dict[str, dict[str, Any]]) -> bool:
    """Return True if a record has an entry under a key of the first edition."""
    return any(key in names for section, names in KEYS.items() for key in record[section])


def translate(record: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a record with all entries under their present keys.

    If a record has an entry under both keys, the one under the present key is kept.
    """
    translated = {}
    for section, entries in record.items():
        old = {key: value for key, value in entries.items() if key in KEYS[section]}
        new = {key: value for key, value in entries.items() if key not in KEYS[section]}
        translated[section] = {present_key(section, key): value for key, value in old.items()} | new
    return translated


def is_old_notebook(name: str, text: str) -> bool:
    """Return True for a notebook of the first edition.

    Args:
        name: File name of the notebook.
        text: Content of the file.
    """
    return name in NOTEBOOKS or any(old in text for old in NOTEBOOKS)
