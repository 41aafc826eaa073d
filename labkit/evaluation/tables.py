"""Tables on disk: Parquet, and CSV files whose columns keep their types.

In these CSV files, all text and all booleans are in quotes, and numbers are not. For example, "007" is text, 7 is an
integer and 7.0 is a floating-point number. Missing values are written as nan.
"""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.disk import whole

if TYPE_CHECKING:
    import pandas as pd


def save_table(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a pandas table without its index.

    The file is written under a temporary name and then renamed.

    Args:
        frame: Table of numbers, text and booleans.
        path: File name that ends in .csv or .parquet.

    Raises:
        ValueError: If the suffix is different or the file cannot be written.
    """
    suffix = _suffix(path)
    with whole(path) as temporary:
        if suffix == ".parquet":
            frame.to_parquet(temporary, index=False)
        else:
            columns = [[_cell(value) for value in frame[name].tolist()] for name in frame]
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
                writer.writerow(map(str, frame.columns))
                writer.writerows(zip(*columns, strict=True))


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a table that `save_table` wrote, with the original types of its columns.

    Args:
        path: File name that ends in .csv or .parquet. A .csv file from another program is read by `pandas.read_csv`.

    Raises:
        ValueError: If the file is missing or is not a table.
    """
    import pandas as pd

    path, suffix = Path(path), _suffix(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        if suffix == ".parquet":
            return pd.read_parquet(path)
        try:
            return _read_csv(path)
        except ValueError:  # there is text without quotes
            return pd.read_csv(path)
    except (ValueError, OSError, NotImplementedError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a table: {str(error).splitlines()[0]}") from None


def _suffix(path: str | Path) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise ValueError(f"path must end in .csv or .parquet, got {str(path)!r}")
    return suffix


def _cell(value: Any) -> Any:
    import pandas as pd

    if pd.isna(value):
        return math.nan
    return str(value) if isinstance(value, bool) else value


def _read_csv(path: Path) -> pd.DataFrame:
    """Read all cells twice, as text and as typed values, because only the text distinguishes integers from floats."""
    import pandas as pd

    tables = []
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC):
        with open(path, encoding="utf-8", newline="") as file:
            tables.append(list(csv.reader(file, quoting=quoting, strict=True)))
    (names, *raw), (_, *typed) = tables
    columns: dict[str, list[Any]] = {}
    for number, name in enumerate(names):
        cells = [(row[number], values[number]) for row, values in zip(raw, typed, strict=True)]
        texts = [text for text, value in cells if isinstance(value, str)]
        if not texts and all(re.fullmatch(r"-?\d+", text) for text, _ in cells):
            columns[name] = [int(text) for text, _ in cells]
        elif texts and set(texts) <= {"True", "False"}:
            columns[name] = [text == "True" if isinstance(value, str) else value for text, value in cells]
        else:
            columns[name] = [value for _, value in cells]
    return pd.DataFrame(columns)
