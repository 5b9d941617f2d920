"""Numbers as text. Imports nothing of ours; page.js writes numbers the same way."""

from math import isfinite

UNCHANGED = "±0.0%"


def number(value: float) -> str:
    """A whole number: 1,234."""
    return f"{value:,.0f}".replace("-", "−")


def short(value: float) -> str:
    """Any number in four figures: 12,346, 3.672, 0.0231, 3.2e-5."""
    if not isfinite(value):
        return "not a number"
    if 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        text = f"{float(mantissa):g}e{int(exponent)}"
    else:
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return text.replace("-", "−")


def share(part: float, whole: float) -> str:
    """A percentage: 12.3%, with the smallest ones as <0.1%."""
    value = 100 * part / whole
    return "<0.1%" if 0 < value < 0.05 else f"{value:.1f}%"


def change(before: float, now: float) -> str:
    """By how much a value changed, as a percentage with its sign: −3.1%."""
    if not before:
        return "–"
    text = f"{100 * (now - before) / abs(before):+.1f}%".replace("-", "−")
    return UNCHANGED if text[1:] == "0.0%" else text
