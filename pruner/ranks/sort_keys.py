"""Sort keys: numbers as unsigned integers of the same order, so that every order of documents is one of uint64."""

import numpy as np

_SIGN = np.uint64(1 << 63)
_SIGN_SHIFT = np.int64(63)


def ordered_bits(values: np.ndarray) -> np.ndarray:
    """Integers that compare as the values do, uint64 [D]; equal values, 0.0 and -0.0 among them, give equal ones.

    values [D] are booleans, integers or floats without NaN. Raises TypeError for another type.
    """
    if values.dtype.kind == "f":
        bits = (values.astype(np.float64) + 0.0).view(np.uint64)  # -0.0 becomes 0.0
        negative = (bits.view(np.int64) >> _SIGN_SHIFT).view(np.uint64)  # all bits set, or none
        return np.asarray(bits ^ (negative | _SIGN))
    if values.dtype.kind == "i":
        return np.asarray(values.astype(np.int64).view(np.uint64) ^ _SIGN)
    if values.dtype.kind in "ub":
        return values.astype(np.uint64)
    raise TypeError(f"values of type {values.dtype} have no sort key")


def float_of(bits: np.ndarray) -> np.ndarray:
    """The floats that `ordered_bits` made these integers of, float64 [D]."""
    positive = (bits & _SIGN) != 0
    return np.asarray(np.where(positive, bits ^ _SIGN, ~bits).view(np.float64))
