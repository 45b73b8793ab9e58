"""How far generated text is from real text: the objective `generation_divergence`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

ORDERS = (1, 2, 3)
"""Lengths of the character n-grams."""


def ngram_divergence(generated: Iterable[str], reference: Iterable[str], orders: tuple[int, ...] = ORDERS) -> float:
    """Jensen-Shannon divergence between the character n-grams of two sets of texts, averaged over `orders`.

    Bits: 0 for equal distributions, 1 for texts without a common n-gram; n-grams do not cross from one text to the next. A
    set without an n-gram of some length shares none of it. Source: Lin 1991, "Divergence measures based on the Shannon
    entropy", IEEE Transactions on Information Theory 37(1).
    """
    ours, theirs = list(generated), list(reference)
    return float(np.mean([_jensen_shannon(_count(ours, n), _count(theirs, n)) for n in orders]))


def _count(texts: Iterable[str], n: int) -> Counter[str]:
    return Counter(text[start : start + n] for text in texts for start in range(len(text) - n + 1))


def _jensen_shannon(ours: Counter[str], theirs: Counter[str]) -> float:
    if not ours or not theirs:
        return 0.0 if not ours and not theirs else 1.0
    # Sorted: a sum of floats depends on its order, and a set's differs from process to process.
    keys = sorted(ours.keys() | theirs.keys())
    p, q = (np.array([counts[key] for key in keys], dtype=np.float64) / counts.total() for counts in (ours, theirs))
    return max(0.0, _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2)


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log2(p)).sum())
