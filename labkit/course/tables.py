"""Tables of the lessons."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from pandas.io.formats.style import Styler

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def table(frame: pd.DataFrame, caption: str) -> Styler:
    """Return a table with a caption, for the last line of a cell.

    Integers have all digits. A column of numbers such as 0.5 and 0.04 has no more digits than these need. Other
    numbers have three significant digits, from 1 to 10 four, and at least one decimal below 1,000. Rounding errors
    are zeros. An index that only counts is hidden.

    Args:
        frame: The table.
        caption: Description of the table, including the units of its columns.

    >>> import pandas as pd, labkit as lk
    >>> "0.109" in lk.course.table(pd.DataFrame({"rate": [0.10903]}), "Rate in bits per latent").to_html()
    True
    """
    import pandas as pd
    from pandas.io.formats.style import Styler

    if any(frame.index.names):  # pandas would put the names in a separate row
        frame = frame.reset_index()
    columns = [frame.iloc[:, place] for place in range(frame.shape[1])]
    largest = max((abs(value) for column in columns for value in _floats(column)), default=0.0)
    texts = [[_text(value, _are_settings(column), largest) for value in column] for column in columns]
    shown = pd.DataFrame(dict(enumerate(texts)), index=frame.index).set_axis(frame.columns, axis="columns")
    styler = Styler(shown, caption=escape(caption), cell_ids=False).format(escape="html")
    for axis in (0, 1):
        styler.format_index(lambda label: _text(label, _are_settings([label])), axis=axis, escape="html")
    styler.set_table_styles([{"selector": "caption", "props": "text-align: left; white-space: nowrap"}])
    return styler.hide() if isinstance(frame.index, pd.RangeIndex) else styler


def _floats(values: Iterable[Any]) -> list[float]:
    """Return the finite numbers among the values that are not integers."""
    import numpy as np

    floats = [float(value) for value in values if isinstance(value, float | np.floating)]
    return [value for value in floats if math.isfinite(value)]


def _are_settings(values: Iterable[Any]) -> bool:
    """Return True if three significant digits write every number exactly, such as 0.5 and 0.04."""
    return all(f"{value:.6g}" == f"{value:.3g}" for value in _floats(values))


def _text(value: Any, settings: bool, largest: float = 0.0) -> str:
    """Return a cell as text.

    Args:
        value: Content of the cell.
        settings: Whether the column needs no more than three digits.
        largest: Largest number of the table. Numbers far below are rounding errors.
    """
    import numpy as np

    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}".replace("-", "−")
    if not isinstance(value, float | np.floating):
        return str(value)
    value = float(value)
    if math.isnan(value):
        return "–"
    size = abs(value)
    if size == 0 or (size < 1e-4 * min(largest, 1.0) and not settings):
        return "0"
    if size < 1e-5:
        digits, _, exponent = f"{value:.2e}".partition("e")
        text = f"{digits} · 10{str(int(exponent)).translate(_RAISED)}"
    elif settings:
        text = f"{Decimal(f'{value:.3g}'):,f}"
    elif size >= 999.95:
        text = f"{value:,.0f}"
    elif size >= 9.9995:
        text = f"{value:.1f}"
    elif size >= 0.9995:
        text = f"{value:.3f}"
    else:
        text = f"{Decimal(f'{value:#.3g}'):f}"
    return text.replace("-", "−")
