"""What a file is that is no plain text, by its first bytes: so that a person is told what to do with it."""

from __future__ import annotations

import re

HEAD_BYTES = 8192
"""How much of a file tells."""

_UNPACK, _CONVERT = "unpack it first", "convert it to UTF-8"
_TEXT_OF = "take the text out of it first"
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (rb"\x1f\x8b", "compressed with gzip", f"{_UNPACK} (gunzip)"),
    (rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", "compressed with bzip2", f"{_UNPACK} (bunzip2)"),
    (rb"\xfd7zXZ\x00", "compressed with xz", f"{_UNPACK} (unxz)"),
    (rb"\x5d\x00\x00(?s:.){2}", "compressed with lzma", f"{_UNPACK} (unlzma)"),
    (rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", "compressed with zstd", f"{_UNPACK} (unzstd)"),
    (rb"\x04\x22\x4d\x18", "compressed with lz4", f"{_UNPACK} (unlz4)"),
    (rb"\x1f[\x9d\xa0]", "compressed with compress", f"{_UNPACK} (uncompress)"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (rb"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (rb"PK\x03\x04(?s:.){0,4000}\[Content_Types\]\.xml", "an Office document", f"{_TEXT_OF} (save it as plain text)"),
    (rb"PK\x03\x04.{26}mimetype", "an OpenDocument or EPUB file", f"{_TEXT_OF} (save it as plain text)"),
    (rb"PK\x03\x04(?s:.){0,400}data\.pkl", "a model or tensors of PyTorch", "name the text"),
    (rb"PK\x03\x04(?s:.){26,400}?\.npy", "an array of NumPy", "name the text"),
    (rb"PK(\x03\x04|\x05\x06|\x07\x08)", "a ZIP archive", f"{_UNPACK} (unzip)"),
    (rb"(?s:.){257}ustar(\x00|  \x00)", "a tar archive", f"{_UNPACK} (tar -xf)"),
    (rb"PAR1\x15", "a Parquet table", _TEXT_OF),
    (rb"ARROW1\x00\x00|FEA1\x00|\xff{4}(?s:.){4}\x10\x00", "an Arrow or Feather table", _TEXT_OF),
    (rb"Obj\x01", "an Avro file", _TEXT_OF),
    (rb"SQLite format 3\x00", "a SQLite database", _TEXT_OF),
    (rb"%PDF-", "a PDF", f"{_TEXT_OF} (pdftotext)"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document of the old form", f"{_TEXT_OF} (save it as plain text)"),
    (rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF(?s:.){4}WEBP|II\*\x00|MM\x00\*", "a picture", "name a text"),
    (rb"RIFF(?s:.){4}(WAVE|AVI )|ID3[\x02-\x04]\x00|OggS\x00|fLaC\x00", "sound", "name a text"),
    (rb"\x00\x00(?s:.){2}ftyp|\x1a\x45\xdf\xa3", "a film", "name a text"),
    (rb"\x93NUMPY", "an array of NumPy", "name the text"),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file", _TEXT_OF),
    (rb"\x80[\x02-\x05]", "a pickle", "name the text"),
    (rb"(?s:.){3,4}\x00{4,5}\{\"|GGUF[\x01-\x09]\x00", "a model's weights", "name the text"),
    (rb"\x7fELF|MZ\x90|\xcf\xfa\xed\xfe|\xca\xfe\xba\xbe|\x00asm", "a program", "name a text"),
    (rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff", "UTF-32", f"{_CONVERT} (iconv -f utf-32 -t utf-8)"),
    (rb"\xff\xfe|\xfe\xff", "UTF-16", f"{_CONVERT} (iconv -f utf-16 -t utf-8)"),
)
_COMPILED = [(re.compile(pattern, re.DOTALL), kind, remedy) for pattern, kind, remedy in _KINDS]

OURS = re.compile(
    rb'hpsearch(:| =) \d|<meta name="generator" content="hpsearch |(#|//) (The best|A) trial of study |'
    rb'\{\s*"hpsearch": \d|number,state,value,|\[\s*\{\s*"number": \d+,\s*"state": "'
)
"""How the lines begin by which a file that this program wrote is known: configs, reports, tables."""


def kind_of(head: bytes) -> tuple[str, str] | None:
    """What a file with this head is, and what to do; None where it may be plain text in UTF-8."""
    for pattern, kind, remedy in _COMPILED:
        if pattern.match(head):
            return kind, remedy
    pairs = len(head) // 2
    for zeros, kind in ((head[1::2].count(0), "utf-16le"), (head[::2].count(0), "utf-16be")):
        if pairs >= 8 and zeros > 0.7 * pairs and head.count(0) < 1.2 * pairs:
            return "UTF-16", f"{_CONVERT} (iconv -f {kind} -t utf-8)"
    return None


def written_by_us(head: bytes) -> bool:
    """Whether this program wrote a file with this head: an exported config, a report, a table of trials."""
    start = head.lstrip()
    if start.startswith((b"{", b"[", b"number,")):
        return OURS.match(start) is not None
    return any(OURS.match(line) for line in head.splitlines())
