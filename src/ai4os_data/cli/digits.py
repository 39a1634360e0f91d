"""The 1,797 scanned digits that scikit-learn ships, as PNG files in class folders."""

from __future__ import annotations

import io
import random
from collections import Counter

import numpy as np
from PIL import Image

try:
    from sklearn.datasets import load_digits
except ImportError as error:
    raise ImportError("the scanned digits come with scikit-learn: pip install 'ai4os-data[demo]'") from error

_DARKEST = 16  # the scans have 17 shades
_TEST_SHARE = 0.2


def digit_files(seed: int = 0) -> dict[str, bytes]:
    """Every scan as an 8 x 8 grey PNG, under ``train/<class>/…`` (four fifths) or ``test/<class>/…``.

    Source: E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, https://doi.org/10.24432/C50P49.
    """
    scans, labels = load_digits(return_X_y=True)
    numbers = list(range(len(scans)))
    random.Random(seed).shuffle(numbers)
    test = set(numbers[: round(_TEST_SHARE * len(numbers))])
    counts: Counter[str] = Counter()
    files = {}
    for number, (scan, label) in enumerate(zip(scans, labels, strict=True)):
        folder = f"{'test' if number in test else 'train'}/{label}"
        files[f"{folder}/{counts[folder]:04d}.png"] = _png(scan.reshape(8, 8))
        counts[folder] += 1
    return files


def _png(scan: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((scan * (255 / _DARKEST)).round().astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()
