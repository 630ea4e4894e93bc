"""NumPy dtypes of Arrow types, without pandas."""

from typing import Any

import numpy as np
import pyarrow as pa


def numpy_dtype(kind: Any) -> np.dtype[Any]:
    """The NumPy dtype of an Arrow type of numbers. PyArrow's own `to_pandas_dtype` imports pandas before version 26."""
    dtype: np.dtype[Any] = pa.array([], kind).to_numpy(zero_copy_only=False).dtype
    return dtype
