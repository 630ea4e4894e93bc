"""Student's t distribution: tail probabilities and quantiles, for any positive number of degrees of freedom."""

import math
from functools import lru_cache

_TERMS_MAX = 500  # of the continued fraction
_STEPS = 60  # of the bisection


def two_sided(t: float, df: float) -> float:
    """The probability of a value at least as far from 0 as `t`, with `df` degrees of freedom."""
    if math.isinf(t):
        return 0.0
    return _beta_ratio(df / (df + t * t), df / 2, 0.5)


@lru_cache(maxsize=1024)
def quantile(confidence: float, df: float) -> float:
    """The t whose interval [-t, t] has this probability, such as 4.30 for 0.95 and 2 degrees of freedom."""
    low, high = 0.0, 1.0
    while two_sided(high, df) > 1 - confidence:
        low, high = high, 2 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided(middle, df) > 1 - confidence else (low, middle)
    return high


def _beta_ratio(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by Lentz's continued fraction."""
    if x <= 0 or x >= 1:
        return min(1.0, max(0.0, x))
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly
        return 1 - _beta_ratio(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    tiny = 1e-300
    c, d = 1.0, 1 / max(1 - (a + b) * x / (a + 1), tiny)
    fraction = d
    for m in range(1, _TERMS_MAX):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / (1 + term * d or tiny), 1 + term / c or tiny
            fraction *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * fraction / a
