"""Controls where a kernel is there, a still picture where none is."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from diffbook.show.figure import figure


def explore(draw: Callable[..., Any], alt: str, **controls: Any) -> None:
    """Let the reader drive ``draw(**values) -> Figure``.

    Args:
        draw: called with one keyword for each control; returns a matplotlib figure.
        alt: alt text of the picture drawn with the start values.
        controls: ``name=(low, high, step)`` or ``(low, high, step, start)`` gives a slider (whole
            numbers if all of them are), a list a drop-down menu, a string a text box.

    With a live kernel these are ipywidgets. Where ``DIFFBOOK_STATIC`` is set (the site, the tests)
    the still picture of the start values stands in, so that no page carries a dead slider.

    Raises:
        ValueError: for a control of another form.
    """
    start = {name: _start(name, control) for name, control in controls.items()}
    if os.environ.get("DIFFBOOK_STATIC"):
        figure(draw(**start), alt)
        return
    import ipywidgets as widgets
    from IPython.display import display

    output = widgets.Output()
    handles = {name: _widget(widgets, name, control) for name, control in controls.items()}

    def redraw(_change: Any = None) -> None:
        with output:
            output.clear_output(wait=True)
            values = {name: handle.value for name, handle in handles.items()}
            figure(draw(**values), alt if values == start else f"{alt} Now: {values}.")

    for handle in handles.values():
        handle.observe(redraw, names="value")
    redraw()
    display(widgets.VBox([*handles.values(), output]))


def _start(name: str, control: Any) -> Any:
    if isinstance(control, str):
        return control
    if isinstance(control, list) and control:
        return control[0]
    if isinstance(control, tuple) and len(control) in (3, 4) and control[0] < control[1]:
        start = control[3] if len(control) == 4 else control[0]
        if control[0] <= start <= control[1]:
            return start
    raise ValueError(
        f"control {name}={control!r}: give (low, high, step[, start]) with start between low and "
        "high, a list of choices or a text"
    )


def _widget(widgets: Any, name: str, control: Any) -> Any:
    label = {"description": name.replace("_", " "), "continuous_update": False}
    if isinstance(control, str):
        return widgets.Text(value=control, **label)
    if isinstance(control, list):
        return widgets.Dropdown(options=control, description=label["description"])
    low, high, step = control[:3]
    whole = all(isinstance(number, int) for number in control)
    kind = widgets.IntSlider if whole else widgets.FloatSlider
    return kind(value=_start(name, control), min=low, max=high, step=step, **label)
