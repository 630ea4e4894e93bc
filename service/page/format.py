"""Formatting for the page: numbers with units, times, and text with its invisible characters made visible."""

import math
import re
from datetime import datetime, timezone
from typing import Any

from markupsafe import Markup, escape

# Control characters except tab and line feed, zero-width characters, and marks that change the text direction.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffe\uffff\ud800-\udfff]"
)

_SHORT = 200  # characters
_CHANGE = 0.1  # of a share, from which it is marked


def number(value: float) -> str:
    """Such as 12,345."""
    return f"{value:,.0f}"


def compact(value: float) -> str:
    """Such as 123,456; 39.4 M; 2 B: three digits from a million on."""
    rounded = float(f"{value:.3g}")  # before the unit is chosen: 999,900,000 is 1 B, not 1e+03 M
    for size, name in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= 1e6 and rounded >= size:
            return f"{rounded / size:g} {name}"
    return number(value)


def percent(share: float) -> str:
    """Such as 37.1 %, or < 0.1 %."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return f"{100 * share:.1f} %"


def perplexity(value: float | None) -> str:
    """At least three significant digits, such as 45.5; – for None."""
    if value is None:
        return "–"
    if math.isinf(value):
        return "over 1e308"
    if value >= 1e7:
        return f"{value:.2e}"
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}" if value >= 100 else f"{value:.1f}"


def score_value(value: float | None) -> str:
    """A value of any score, with four significant digits unless it is a whole number; – for None."""
    if value is None:
        return "–"
    if value == round(value) and abs(value) < 1e9:
        return number(value)
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1e9 else f"{value:.4g}"


def percentile(value: float) -> str:
    """With one digit after the point, and none of a whole number: such as 24.9, or 75."""
    return f"{value:.1f}".removesuffix(".0")


def change(before: float, after: float) -> str:
    """The class of a share that grows, `up`, or shrinks, `down`, by more than a tenth; else empty."""
    if abs(after - before) <= _CHANGE * before:
        return ""
    return "up" if after > before else "down"


def ratio(before: float, after: float) -> str:
    """The factor from before to after, such as × 1.24."""
    if before == 0:
        return "–"
    times = after / before
    return f"× {times:.2f}" if times < 10 else f"× {times:.0f}"


def duration(seconds: float) -> str:
    """Such as 12 s; 4 min; 2 h 05 min; 3 days 4 h."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    return f"{hours // 24} days {hours % 24} h"


def hours(seconds: float) -> str:
    """Such as 0.02 h."""
    return f"{seconds / 3600:,.2f} h" if seconds < 36_000 else f"{seconds / 3600:,.0f} h"


def age(when: datetime, now: datetime | None = None) -> str:
    """The time since then, such as 3 min ago."""
    return f"{duration(((now or datetime.now(timezone.utc)) - when).total_seconds())} ago"


def time(text: str) -> datetime:
    """A time as the API writes it, in ISO 8601 with `Z`, which Python 3.10 does not read."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def utc(when: datetime) -> str:
    """Such as 2026-11-25 04:31 UTC."""
    return f"{when.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def domain_name(row: dict[str, Any]) -> str:
    """The name of a row of a report's domains."""
    if "others" in row:
        return f"({row['others']:,} smaller domains)"
    return "(no domain)" if row["domain"] is None else str(row["domain"])


def visible(text: str) -> str:
    """Text with each invisible character replaced by a symbol or its code point."""
    return _HIDDEN.sub(lambda found: _symbol(found.group()), text)


def html(text: str | None) -> Markup:
    """Escaped text with each invisible character replaced by a marked symbol; "none" for None."""
    if text is None:
        return Markup('<span class="none">none</span>')
    parts: list[Markup] = []
    end = 0
    for found in _HIDDEN.finditer(text):
        parts.append(escape(text[end : found.start()]))
        code = f"U+{ord(found.group()):04X}"
        parts.append(Markup('<span class="hidden-mark" title="{}">{}</span>').format(code, _symbol(found.group())))
        end = found.end()
    parts.append(escape(text[end:]))
    return Markup("").join(parts)


def html_short(text: str | None) -> Markup:
    """`html` of the first 200 characters, with the number of characters if there are more."""
    if text is None or len(text) <= _SHORT:
        return html(text)
    return html(text[:_SHORT]) + Markup(' <span class="none">… {} characters</span>').format(number(len(text)))


def setting(value: Any) -> str:
    """A value of JSON as a reader writes it: lists and objects without brackets, – for null and what is empty."""
    if isinstance(value, dict):
        return ", ".join(f"{name}={each}" for name, each in value.items()) or "–"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "–"
    if isinstance(value, float):
        return f"{value:g}"
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _symbol(character: str) -> str:
    """The symbol of a control character, or the code point."""
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"
