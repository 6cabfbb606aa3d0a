"""Names of the arrays that coders work on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]
Symbols = NDArray[np.int32]
