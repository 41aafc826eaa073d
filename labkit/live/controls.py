"""Controls of a panel: sliders, menus and switches, and their values as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets


def choice(label: str, values: Sequence[Any], value: Any) -> ipywidgets.SelectionSlider:
    """Make a slider over a few values. It sends a value to Python only when it is released.

    Args:
        label: Text next to the slider; its last word is the symbol of the setting.
        values: Values in order.
        value: Initial value.

    Raises:
        ValueError: If the initial value is not one of the values.
    """
    check_value(label, value, values)
    return ipywidgets.SelectionSlider(
        options=[(format_value(each), each) for each in values],
        value=value,
        description=label,
        continuous_update=False,
        style={"description_width": "initial"},
        layout={"width": "280px"},
    )


def menu(label: str, values: Sequence[str], value: str) -> ipywidgets.Dropdown:
    """Make a drop-down list.

    Args:
        label: Text next to the list; its last word is the symbol of the setting.
        values: Entries in order.
        value: Initial entry.

    Raises:
        ValueError: If the initial entry is not one of the entries.
    """
    check_value(label, value, values)
    return ipywidgets.Dropdown(
        options=list(values),
        value=value,
        description=label,
        style={"description_width": "initial"},
        layout={"width": "max-content"},
    )


def switch(label: str, value: bool) -> ipywidgets.Checkbox:
    """Make a checkbox.

    Args:
        label: Text next to the box.
        value: Initial state.
    """
    return ipywidgets.Checkbox(value=value, description=label, indent=False, layout={"width": "max-content"})


def check_value(name: str, value: Any, values: Sequence[Any]) -> None:
    """Check the value of a setting.

    Args:
        name: Name of the setting for the error message.
        value: Value to check.
        values: All allowed values.

    Raises:
        ValueError: If the value is not one of the allowed values.
    """
    if value not in values:
        raise ValueError(f"{name} must be one of {', '.join(map(str, values))}, got {value!r}")


def values_of(control: ipywidgets.Widget) -> list[Any]:
    """Return all values that a control can have."""
    if isinstance(control, ipywidgets.Checkbox):
        return [False, True]
    return [each[1] if isinstance(each, tuple) else each for each in control.options]


def value_of(control: ipywidgets.Widget) -> Any:
    """Return the value of a control, rounded: a slider may report 0.010000000000000002 for 0.01."""
    value = control.value
    return float(f"{value:.6g}") if isinstance(value, float) else value


def symbol_of(control: ipywidgets.Widget) -> str:
    """Return the short name of a setting: the whole label of a checkbox, the last word of any other label."""
    label: str = control.description
    return label if isinstance(control, ipywidgets.Checkbox) else label.split()[-1]


def format_value(value: Any) -> str:
    """Format a value in the way that controls show it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
