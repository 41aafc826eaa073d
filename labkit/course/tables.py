"""Tables of the lessons."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from pandas.io.formats.style import Styler


def table(frame: pd.DataFrame, caption: str) -> Styler:
    """Return a table with a caption, for the last line of a cell.

    Integers keep all their digits, and other numbers get three significant digits, also in labels. An index that only
    counts rows is hidden.

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
    styler = Styler(frame, caption=escape(caption), cell_ids=False).format(_digits, escape="html")
    for axis in (0, 1):
        styler.format_index(_digits, axis=axis, escape="html")
    styler.set_table_styles([{"selector": "caption", "props": "text-align: left; white-space: nowrap"}])
    return styler.hide() if isinstance(frame.index, pd.RangeIndex) else styler


def _digits(value: Any) -> str:
    """Return a number with three significant digits, and any other value as text."""
    import numpy as np

    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    if not isinstance(value, float | np.floating):
        return str(value)
    value = float(value)
    if math.isnan(value):
        return "–"
    if abs(value) >= 999.5:
        return f"{value:,.0f}"
    return f"{value + 0.0:#.3g}".rstrip(".")  # adding zero turns −0 into 0
