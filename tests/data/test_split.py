from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.config import DataConfig
from hpsearch.data.split import HELD_OUT_BYTES, Part, cut, split_text
from hpsearch.errors import DataError

Write = Callable[..., Path]


@given(st.text(), st.integers(0, 200), st.integers(0, 50))
def test_a_cut_lies_between_characters_and_ends_a_line_where_one_is_near(text: str, at: int, reach: int) -> None:
    block = text.encode()
    at = min(at, len(block))
    found = cut(block, at, reach=reach)
    assert block[:found].decode() + block[found:].decode() == text
    near = block[max(0, at - reach) : at]
    if b"\n" in near:
        assert block[:found].endswith(b"\n")
        assert b"\n" not in block[found:at]
    else:
        assert at - 3 <= found <= at


@given(st.text(max_size=300), st.integers(8, 40))
def test_pieces_of_a_part_are_its_text_in_order(tmp_path_factory: pytest.TempPathFactory, text: str, size: int) -> None:
    path = tmp_path_factory.getbasetemp() / "pieces.txt"
    path.write_bytes(b"\n" + text.encode() + b"after")
    part = Part("x", path, "", 1, 1 + len(text.encode()))
    pieces = [piece.decode() for piece in part.pieces(size)]
    assert "".join(pieces) == text
    assert all(0 < len(piece.encode()) <= size for piece in pieces)


@given(text=st.text(alphabet="aé€😀\n", min_size=1, max_size=400), share=st.floats(0.01, 0.99))
def test_the_two_parts_are_disjoint_and_are_the_whole_text(
    tmp_path_factory: pytest.TempPathFactory, text: str, share: float
) -> None:
    path = tmp_path_factory.getbasetemp() / "split.txt"
    path.write_text(text, "utf-8")
    split = split_text(DataConfig(text=str(path), validation=share), tmp_path_factory.getbasetemp() / "cache")
    (train,), (validation,) = split.train, split.validation
    content = path.read_bytes()
    assert (train.start, train.stop, validation.stop) == (0, validation.start, len(content))
    content[: train.stop].decode()
    wanted = len(content) - round(len(content) * share)
    assert 0 <= wanted - train.stop <= 3 + min(wanted, len(content) - wanted) // 10


def test_the_cut_ends_a_line_of_ordinary_text(write: Write, tmp_path: Path) -> None:
    path = write("lines.txt", "".join(f"line {number}\n" for number in range(5000)))
    split = split_text(DataConfig(text=str(path), validation=0.1), tmp_path)
    assert path.read_bytes()[: split.train[0].stop].endswith(b"\n")
    assert split.validation_bytes == pytest.approx(path.stat().st_size / 10, rel=0.01)


def test_held_out_spans_are_even_disjoint_and_in_the_validation_part(write: Write, tmp_path: Path) -> None:
    text = "".join(f"{number}é€😀 " for number in range(40_000))
    split = split_text(DataConfig(text=str(write("t.txt", text)), validation=0.3), tmp_path)
    held_out = split.held_out(20)
    validation = split.validation[0].read(0, split.validation_bytes)
    assert len(held_out) == 20
    places = [validation.index(span.encode()) for span in held_out]
    for index, (place, span) in enumerate(zip(places, held_out, strict=True)):
        assert HELD_OUT_BYTES - 6 <= len(span.encode()) <= HELD_OUT_BYTES
        assert 0 <= place - index * len(validation) // 20 <= 3
    assert all(place + len(span.encode()) <= after for place, span, after in zip(places, held_out, places[1:], strict=False))


@pytest.mark.parametrize(("size", "count"), [(2048, 1), (4095, 1), (4096, 2), (10_000, 4), (200_000, 20)])
def test_a_short_validation_part_has_fewer_spans(size: int, count: int, write: Write, tmp_path: Path) -> None:
    data = DataConfig(text=str(write("train.txt", "x" * 100)), validation=str(write("valid.txt", "y" * size)))
    spans = split_text(data, tmp_path).held_out(20)
    assert [len(span) for span in spans] == [HELD_OUT_BYTES] * count


def test_a_validation_part_too_small_to_evaluate_names_both_numbers(write: Write, tmp_path: Path) -> None:
    split = split_text(DataConfig(text=str(write("t.txt", "x" * 20_000)), validation=0.1), tmp_path)
    with pytest.raises(DataError, match="validation part has 2,000 bytes and an evaluation needs 2,048; use a longer text"):
        split.held_out(20)


def test_spans_run_over_the_tails_of_all_sources(write: Write, tmp_path: Path) -> None:
    paths = [str(write(f"{name}.txt", name * 30_000)) for name in "ab"]
    spans = split_text(DataConfig(text=tuple(paths), validation=0.5), tmp_path).held_out(10)
    assert spans[:5] == ["a" * 2048] * 5
    assert spans[5:] == ["b" * 2048] * 5
    odd = split_text(DataConfig(text=tuple(paths), validation=0.5), tmp_path).held_out(9)
    assert set(odd[4]) == {"a", "b"}


def test_the_fingerprint_follows_content_cut_and_weights_but_not_the_place(write: Write, tmp_path: Path) -> None:
    def fingerprint(text: object, validation: object = 0.1) -> str:
        return split_text(DataConfig(text=text, validation=validation), tmp_path / "cache").fingerprint

    a, copy, other = str(write("a.txt", "a" * 999)), str(write("sub/copy.txt", "a" * 999)), str(write("b.txt", "b" * 999))
    assert fingerprint(a) == fingerprint(copy)
    known = [
        fingerprint(a),
        fingerprint(other),
        fingerprint(a, 0.2),
        fingerprint(a, other),
        fingerprint([a, other]),
        fingerprint({a: 1.0, other: 1.0}),
        fingerprint({a: 1.0, other: 3.0}),
    ]
    assert len(set(known)) == len(known)
    assert fingerprint({a: 1.0, other: 3.0}) == fingerprint({copy: 2.0, other: 6.0})


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_a_validation_share_outside_its_bounds_is_refused(share: float, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give a share above 0 and below 1"):
        split_text(DataConfig(text="pydoc", validation=share), tmp_path)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_a_weight_that_is_no_weight_is_refused(weight: float, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the weight of 'pydoc' is .*; give a number above 0"):
        split_text(DataConfig(text={"pydoc": weight}), tmp_path)


@pytest.mark.parametrize("nothing", [(), {}])
def test_no_text_at_all_is_refused(nothing: object, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.text names no text"):
        split_text(DataConfig(text=nothing), tmp_path)


def test_a_text_that_is_named_twice_is_refused(write: Write, tmp_path: Path) -> None:
    path = write("f/a.txt", "text")
    write("f/b.txt", "more")
    for words in ((str(path), str(path)), (str(path.parent), str(path)), ("pydoc", "pydoc")):
        with pytest.raises(DataError, match="name it once"):
            split_text(DataConfig(text=words), tmp_path / "cache")


def test_a_validation_file_is_never_trained_on(write: Write, tmp_path: Path) -> None:
    apart = write("f/valid.txt", "held out")
    write("f/train.txt", "trained on")
    split = split_text(DataConfig(text=str(apart.parent), validation=str(apart)), tmp_path / "cache")
    assert split.train[0].read(0, 99) == b"trained on\n\n"
    assert split.validation[0].read(0, 99) == b"held out"
    with pytest.raises(DataError, match="is also trained on"):
        split_text(DataConfig(text=str(apart), validation=str(apart)), tmp_path / "cache")
    copy = write("copy.txt", "held out")
    with pytest.raises(DataError, match="is also trained on"):
        split_text(DataConfig(text=str(apart), validation=str(copy)), tmp_path / "cache")


def test_a_missing_validation_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"valid\.txt: no such file"):
        split_text(DataConfig(text="pydoc", validation=str(tmp_path / "valid.txt")), tmp_path)
