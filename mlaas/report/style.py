"""How the plots look: the style, the colours, and safe text; the object interface of Matplotlib only, no global figure."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

P = ParamSpec("P")

# Petroff's ten colours, told apart by the colour-blind too (arXiv:2107.02270)
COLOURS = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
SIGNAL, BACKGROUND = COLOURS[2], COLOURS[0]
SPLIT_COLOURS = {"train": "#717581", "validation": "#832db6", "test": "#bd1f01"}
SPLIT_LINES = {"train": "--", "validation": ":", "test": "-"}
DPI = 130
NAME = 34  # longest name of a user that a plot shows in full


class Plot(NamedTuple):
    """What a plot function returns: the figure (None when there is nothing to draw; numbers["reason"] says why) and the numbers it shows."""

    figure: Figure | None
    numbers: Mapping[str, Any]


def nothing(reason: str, **numbers: Any) -> Plot:
    """No figure, with the sentence that takes its place."""
    return Plot(None, {"reason": reason, **numbers})


@functools.cache
def _settings() -> Any:
    import mplhep  # type: ignore[import-untyped]

    ours = {
        "font.family": ["TeX Gyre Heros", "DejaVu Sans"],
        "font.size": 12,
        "axes.unicode_minus": True,
        "axes.labelsize": 13,
        "axes.titlesize": 12,
        "axes.linewidth": 1.2,
        "legend.fontsize": 10.5,
        "legend.handlelength": 1.8,
        "lines.linewidth": 1.8,
        "xtick.major.size": 7,
        "ytick.major.size": 7,
        "xtick.minor.size": 3.5,
        "ytick.minor.size": 3.5,
        "hatch.linewidth": 0.7,
        "mathtext.fontset": "dejavusans",
        "figure.figsize": (6.4, 4.8),
        "savefig.facecolor": "white",
    }
    return {**mplhep.style.ROOT, **ours}


def styled(function: Callable[P, Plot]) -> Callable[P, Plot]:
    """Draw in the style of this module without changing Matplotlib's settings for anybody else."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Plot:
        with mpl.rc_context(_settings()):
            return function(*args, **kwargs)

    return wrapper


def axes(width: float = 6.4, height: float = 4.8) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def panels(width: float, height: float, rows: int, columns: int, *, arranged: bool = True, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of rows x columns axes in reading order, sizes in inches; `arranged` makes room for labels by itself (slow for many axes)."""
    figure = Figure(figsize=(width, height), layout="constrained" if arranged else None)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).ravel())


def render(figure: Figure, kind: str = "png", dpi: int = DPI) -> bytes:
    """The figure as a PNG of 128 colours (a third of the size, no visible difference) or as a PDF; the same bytes for the same figure."""
    stream = io.BytesIO()
    with mpl.rc_context(_settings()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # a name in a script without font shows as boxes; that is enough
        if kind != "png":
            figure.savefig(stream, format=kind, metadata={"CreationDate": None})
            return stream.getvalue()
        figure.set_dpi(dpi)
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    image = image.quantize(128, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    palette, corner = image.getpalette() or [], image.getpixel((0, 0))
    if isinstance(corner, int):
        palette[3 * corner : 3 * corner + 3] = [255, 255, 255]  # the average of the background's bin is not quite white
        image.putpalette(palette)
    image.save(stream, "png", optimize=True)
    return stream.getvalue()


def literal(text: Any, longest: int = NAME) -> str:
    """Text of a user as it is: never mathematics, never hidden from a legend, on one line, cut in the middle when too long."""
    line = "".join(c if c.isprintable() else " " for c in str(text))
    line = shorten(line, longest).replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line


def shorten(text: str, longest: int) -> str:
    """The text, or its beginning and end when it is longer than `longest` characters."""
    if len(text) <= longest:
        return text
    head = (longest - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (longest - 1 - head) :]}"


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits; a dash when it is not finite."""
    return f"{value:.{digits}g}" if value == value and abs(value) != float("inf") else "–"


def headroom(ax: Axes, share: float = 0.3) -> None:
    """Leave room above the curves for the legend (on logarithmic axes too)."""
    low, high = ax.get_ylim()
    ax.set_ylim(low, low * (high / low) ** (1 + share) if ax.get_yscale() == "log" else low + (high - low) * (1 + share))
