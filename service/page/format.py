"""How the page writes things: numbers with their units, times, and text of a corpus so that all of it is seen."""

import math
import re
from datetime import datetime, timezone

from markupsafe import Markup, escape

# Control characters but tab and line feed, marks without width, and those that change the direction of text.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffe\uffff\ud800-\udfff]"
)

_NAME = 200  # characters of an id, a domain or a path


def number(value: float) -> str:
    """12,345."""
    return f"{value:,.0f}"


def short(value: float) -> str:
    """123,456; 39.4 M; 2 B, as tokens are counted."""
    rounded = float(f"{value:.3g}")  # first, as 999,900,000 is 1 B and not 1e+03 M
    for size, name in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= 1e6 and rounded >= size:
            return f"{rounded / size:g} {name}"
    return number(value)


def percent(share: float) -> str:
    """37.1 %, with more digits where it is small."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return f"{100 * share:.1f} %"


def perplexity(value: float | None) -> str:
    """Three digits or more, as a perplexity of 45.54 is no other than 45.5."""
    if value is None:
        return "–"
    if math.isinf(value):
        return "over 1e308"
    if value >= 1e7:
        return f"{value:.2e}"
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}" if value >= 100 else f"{value:.1f}"


def ratio(before: float, after: float) -> str:
    """How many times as large `after` is: × 1.24."""
    if before == 0:
        return "–"
    times = after / before
    return f"× {times:.2f}" if times < 10 else f"× {times:.0f}"


def duration(seconds: float) -> str:
    """12 s; 4 min; 2 h 05 min; 3 days 4 h."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    return f"{hours // 24} days {hours % 24} h"


def span(low: float, high: float) -> str:
    """A duration that lies between two: 3 to 5 min."""
    first, second = duration(low), duration(high)
    if first == second:
        return f"about {first}"
    (left, unit), right = first.rsplit(" ", 1), second
    return f"{left} to {right}" if right.endswith(f" {unit}") and " " not in left else f"{first} to {second}"


def hours(seconds: float) -> str:
    """0.02 h, as GPU-hours are counted."""
    return f"{seconds / 3600:,.2f} h" if seconds < 36_000 else f"{seconds / 3600:,.0f} h"


def age(when: datetime, now: datetime | None = None) -> str:
    """How long ago a time was."""
    return f"{duration(((now or datetime.now(timezone.utc)) - when).total_seconds())} ago"


def moment(when: datetime) -> str:
    """2026-11-25 04:31 UTC."""
    return f"{when.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def plain(text: str) -> str:
    """Text of a corpus with each character that would not be seen as a symbol or its code."""
    return _HIDDEN.sub(lambda found: _name(found.group()), text)


def shown(text: str | None) -> Markup:
    """The same for HTML, with the symbols marked and the rest escaped."""
    if text is None:
        return Markup('<span class="none">none</span>')
    parts: list[Markup] = []
    end = 0
    for found in _HIDDEN.finditer(text):
        parts.append(escape(text[end : found.start()]))
        code = f"U+{ord(found.group()):04X}"
        parts.append(Markup('<span class="hidden-mark" title="{}">{}</span>').format(code, _name(found.group())))
        end = found.end()
    parts.append(escape(text[end:]))
    return Markup("").join(parts)


def brief(text: str | None) -> Markup:
    """`shown` for a name, of which the first 200 characters are enough; what is left out is said."""
    if text is None or len(text) <= _NAME:
        return shown(text)
    return shown(text[:_NAME]) + Markup(' <span class="none">… {} characters</span>').format(number(len(text)))


def _name(character: str) -> str:
    """The symbol of a control character, else the code."""
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"
