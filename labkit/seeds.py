"""Seeds of random streams."""

from __future__ import annotations

import numpy as np


def mix_seeds(*numbers: int) -> int:
    """Mix several integers into one seed.

    Streams with different numbers are independent, even if the numbers are small and close to each other.

    Args:
        *numbers: Non-negative integers, such as a seed, an epoch and an index.

    Returns:
        A non-negative integer below 2⁶³.
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1
