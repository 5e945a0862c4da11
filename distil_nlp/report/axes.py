"""Scales and round tick values for the pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Maps values from ``low`` to ``high`` onto pixels from ``start`` to ``stop``."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values within the scale, about ``most`` at the most."""
        return log_ticks(self.low, self.high, most) if self.log else linear_ticks(self.low, self.high, most)


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between ``low`` and ``high``.

    >>> linear_ticks(0.83, 0.89, 4)
    [0.84, 0.86, 0.88]
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.10g}") for number in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round factors of powers of ten between ``low`` and ``high``, the fewer the wider apart these are.

    >>> log_ticks(8, 120, most=5)
    [10.0, 20.0, 50.0, 100.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    candidates: list[float] = []
    for factors in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        candidates = [factor * 10.0**power for power in powers for factor in factors]
        candidates = [float(f"{tick:.10g}") for tick in candidates if low <= tick <= high]
        if len(candidates) <= most:
            break
    return candidates[:: math.ceil(len(candidates) / most)] if candidates else []


def tick_label(value: float) -> str:
    """A tick without trailing zeros.

    >>> tick_label(0.84), tick_label(20.0), tick_label(1e-5)
    ('0.84', '20', '1e-05')
    """
    return f"{value:.6g}"
