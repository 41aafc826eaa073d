"""Names in the first edition of the course, which identified lessons, predictions and exercises by numbers.

Records of learners and copies of notebooks from the first edition still contain these numbers. The keys of the current
edition are words, so a new number never marks a different exercise as solved.
"""

from __future__ import annotations

from typing import Any

# Words for the lessons, and for their predictions and exercises, in the order of the first edition's numbers.
_LESSONS: dict[str, tuple[str, str]] = {
    "codec": ("size", "bpp psnr"),
    "scalar": ("derivative codewords", "loss straight_through gain"),
    "mismatch": ("losses noise", "sampled noise_rate temperature"),
    "risk": ("bias spread", "sampled exact_slope batch_size"),
    "annealing": ("constant cooled", "schedule flips warmest"),
    "bound": ("gap growth", "zero budget cost"),
    "center": ("stop ratio", "partial_stop gradient variance"),
    "method": ("codec span", "bd_rate interval"),
    "model": ("adopted killed", "loop paths resumed"),
}


def _numbered(place: int) -> dict[str, str]:
    """Return the current keys of predictions (place 0) or of exercises (place 1) by their numbers, such as 02.1."""
    return {
        f"{number:02}.{count}": f"{lesson}.{word}"
        for number, (lesson, words) in enumerate(_LESSONS.items())
        for count, word in enumerate(words[place].split(), start=1)
    }


# Key in the first edition → current key, for each section of the learner's record.
KEYS = {
    "lessons": {f"{number:02}": lesson for number, lesson in enumerate(_LESSONS)},
    "guesses": _numbered(0),
    "exercises": _numbered(1),
}

# Notebooks that now have another name. Notebooks that kept their names link to these.
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
    """Return the current key for a key of either edition.

    Args:
        section: "lessons", "guesses" or "exercises".
        key: Key of the first edition or of the current one.
    """
    return KEYS[section].get(key, key)


def has_old_keys(record: dict[str, dict[str, Any]]) -> bool:
    """Return True if a record has an entry with a key of the first edition."""
    return any(key in names for section, names in KEYS.items() for key in record[section])


def translate(record: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a record with all entries under their current keys.

    If a record has an entry under both keys, the one under the current key is kept.
    """
    translated = {}
    for section, entries in record.items():
        names = KEYS.get(section, {})  # the first edition had no questions
        old = {key: value for key, value in entries.items() if key in names}
        new = {key: value for key, value in entries.items() if key not in names}
        translated[section] = {present_key(section, key): value for key, value in old.items()} | new
    return translated


def is_old_notebook(name: str, text: str) -> bool:
    """Return True for a notebook of the first edition.

    Args:
        name: File name of the notebook.
        text: Content of the file.
    """
    return name in NOTEBOOKS or any(old in text for old in NOTEBOOKS)
