"""Formatting of numbers, the same in the terminal and in the reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"


def with_minus_signs(text: str) -> str:
    """``text`` with minus signs for hyphens."""
    return text.replace("-", MINUS)


def format_number(value: float | None, digits: int = 3) -> str:
    """``0.312``; very small and very large values in scientific notation; a dash for None."""
    if value is None:
        return MISSING
    if value != 0 and not 10**-digits <= abs(value) < 1e6:
        return with_minus_signs(f"{value:.2e}")
    return with_minus_signs(f"{value:,.{digits}f}")


def format_signed(value: float | None, digits: int = 3) -> str:
    """``+0.047``, or with a minus sign."""
    if value is None:
        return MISSING
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else ("+" if value > 0 else MINUS) + text


def format_with_error(value: float | None, error: float | None, digits: int = 3, sign: bool = False) -> str:
    """``0.312 ± 0.011``, without the error if it is None; ``sign`` also shows a plus sign."""
    if value is None:
        return MISSING
    text = format_signed(value, digits) if sign else with_minus_signs(f"{value:.{digits}f}")
    return text if error is None else f"{text} ± {error:.{digits}f}"


def format_mean(entry: Mapping[str, Any]) -> str:
    """The mean of a held-out figure and its standard error."""
    return format_with_error(entry.get("mean"), entry.get("se"))


def format_delta(entry: Mapping[str, Any]) -> str:
    """The paired change of a held-out figure from the base policy and its standard error."""
    return format_with_error(entry.get("delta"), entry.get("delta_se"), sign=True)


def format_seconds(value: float | None) -> str:
    """``8.2 s``, ``4 min 12 s`` or ``3 h 5 min``."""
    if value is None:
        return MISSING
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def format_bytes(size: float) -> str:
    """``1.5 GB``, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"
