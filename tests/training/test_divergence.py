"""Jensen-Shannon divergence between character n-grams."""

from __future__ import annotations

import pytest
from scipy.spatial.distance import jensenshannon

from hpsearch.training.divergence import ngram_divergence


def test_equal_texts_have_no_divergence() -> None:
    assert ngram_divergence(["to be or not to be"], ["to be or not to be"]) == 0.0


def test_texts_without_a_common_character_are_one_bit_apart() -> None:
    assert ngram_divergence(["aaaa"], ["bbbb"]) == pytest.approx(1.0)


def test_it_is_symmetric() -> None:
    assert ngram_divergence(["abba"], ["abc"]) == pytest.approx(ngram_divergence(["abc"], ["abba"]))


def test_characters_alone_agree_with_scipy() -> None:
    # aab against abb: (2/3, 1/3) and (1/3, 2/3); scipy gives the square root.
    expected = jensenshannon([2 / 3, 1 / 3], [1 / 3, 2 / 3], base=2) ** 2
    assert ngram_divergence(["aab"], ["abb"], orders=(1,)) == pytest.approx(expected)


def test_longer_ngrams_see_the_order_of_characters() -> None:
    assert ngram_divergence(["ababab"], ["aaabbb"], orders=(1,)) == pytest.approx(0.0)
    assert ngram_divergence(["ababab"], ["aaabbb"], orders=(2,)) > 0.2


def test_ngrams_do_not_cross_from_one_text_to_the_next() -> None:
    assert ngram_divergence(["ab", "ab"], ["abab"], orders=(2,)) > 0.0


def test_an_empty_sample_is_as_far_as_possible() -> None:
    assert ngram_divergence([""], ["text"]) == 1.0
