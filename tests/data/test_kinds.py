"""Files that are no plain text, made by the programs and libraries that people make them with."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from hpsearch.data.kinds import HEAD_BYTES, kind_of, written_by_us
from hpsearch.data.sources import find_text
from hpsearch.errors import DataError

TEXT = "A line of a plain text about nothing much at all.\n" * 40
TABLE = pyarrow.table({"text": [TEXT, TEXT]})


def made(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def zipped(*names: str) -> bytes:
    def write(file: io.BytesIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name in names:
                archive.writestr(name, TEXT)

    return made(write)


def tarred(form: int) -> bytes:
    def write(file: io.BytesIO) -> None:
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            info = tarfile.TarInfo("a.txt")
            info.size = len(TEXT)
            archive.addfile(info, io.BytesIO(TEXT.encode()))

    return made(write)


def database() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("create table texts (text)")
    return connection.serialize()


KINDS = {
    "gzip": lambda: gzip.compress(TEXT.encode()),
    "bzip2": lambda: bz2.compress(TEXT.encode()),
    "xz": lambda: lzma.compress(TEXT.encode()),
    "lzma": lambda: lzma.compress(TEXT.encode(), lzma.FORMAT_ALONE),
    "zstd": lambda: pyarrow.compress(TEXT.encode(), "zstd", asbytes=True),
    "ZIP archive": lambda: zipped("a.txt", "b.txt"),
    "Office document": lambda: zipped("[Content_Types].xml", "word/document.xml"),
    "OpenDocument or EPUB": lambda: zipped("mimetype", "content.xml"),
    "tar archive": lambda: tarred(tarfile.GNU_FORMAT),
    "a tar archive": lambda: tarred(tarfile.USTAR_FORMAT),
    "Parquet": lambda: made(lambda file: pyarrow.parquet.write_table(TABLE, file)),
    "Arrow or Feather": lambda: made(lambda file: pyarrow.feather.write_feather(TABLE, file)),
    "SQLite": database,
    "PDF": lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "picture": lambda: made(lambda file: Image.new("RGB", (4, 4)).save(file, "png")),
    "a picture": lambda: made(lambda file: Image.new("RGB", (4, 4)).save(file, "jpeg")),
    "NumPy": lambda: made(lambda file: np.save(file, np.arange(9))),
    "array of NumPy": lambda: made(lambda file: np.savez(file, a=np.arange(9))),
    "PyTorch": lambda: made(lambda file: torch.save({"a": torch.zeros(3)}, file)),
    "pickle": lambda: pickle.dumps([TEXT]),
    "model's weights": lambda: save({"a": torch.zeros(3)}),
    "UTF-16": lambda: TEXT.encode("utf-16"),
    "is UTF-16;": lambda: TEXT.encode("utf-16-be"),
    "UTF-32": lambda: TEXT.encode("utf-32"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_text_is_named_for_what_it_is(kind: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(KINDS[kind]())
    with pytest.raises(DataError) as caught:
        find_text(str(tmp_path / "text.txt"), tmp_path / "cache")
    assert "no plain text: it is " in str(caught.value)
    assert kind in str(caught.value)
    assert "\n" not in str(caught.value)


PLAIN = (
    *("PAR1é is a form of tables", "PK is a name", "BZh9 is how bzip2 begins", "ID3 tags", "GGUF is a form", "MZ", "é", "\0"),
    *("Rar! and zip", "{\\rtf1 a document}", "%!PS-Adobe", "ORC and elf", "RIFF is a form", "Obj", "(µ/ý", "]\t", "7z"),
    *("\ufeffa mark", "ab\0", '["a list"]', "number,value\n1,2\n", "the ftyp of a film", "II*", "OggS", "ustar " * 60),
)


@pytest.mark.parametrize("text", PLAIN)
def test_plain_text_is_taken_for_nothing_else(text: str) -> None:
    assert kind_of(text.encode()[:HEAD_BYTES]) is None
    assert not written_by_us(text.encode()[:HEAD_BYTES])
