"""Figures as people read them, the same everywhere; what was not measured is an en dash."""

from __future__ import annotations

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def score(value: float | None) -> str:
    """A metric: three decimals."""
    return MISSING if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A share: ``98.7 %``."""
    return MISSING if value is None else f"{100 * value:.1f} %"


def megabytes(value: float | None) -> str:
    """A size in MB: one decimal, two below 0.1."""
    if value is None:
        return MISSING
    return f"{value:,.1f}" if value >= 0.1 else f"{value:.2g}"


def two_digits(value: float | None) -> str:
    """A latency in ms, a speed: two significant digits, whole above ten."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}" if value < 0.995 else f"{value:.1f}"


def times(value: float | None) -> str:
    """A factor: ``7.5x``."""
    return MISSING if value is None else f"{value:,.1f}\N{MULTIPLICATION SIGN}"


def count(value: int | None) -> str:
    """A number of parameters: ``22.7M``."""
    if value is None:
        return MISSING
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f}{letter}" if value < 100 * size else f"{value / size:.0f}{letter}"
    return str(value)


def duration(seconds: float | None) -> str:
    """A time: ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds is None:
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def signed(value: float, decimals: int = 1) -> str:
    """A difference: ``+1.2``, with a true minus sign, and without any at zero."""
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def gain(value: float, points: bool) -> str:
    """A difference of two scores, in points of a hundred or in the metric's own unit."""
    return signed(100 * value) if points else signed(value, 3)
