"""Where text comes from: every word that `data.text` knows, as one UTF-8 file on disk with its sha256.

`pydoc`      the help texts inside Python (`pydoc_data.topics`), in alphabetical order of topics
`stdlib`     Python's own .py files in alphabetical order; site-packages, tests, idlelib and
             what `pydoc` holds are left out
`hf:NAME`    the `train` split of a Hugging Face data set, `hf:NAME:CONFIG` for one of its configurations; with the extra `hf`
a file       used where it lies, never copied
a folder     its files whose suffix is in TEXT_SUFFIXES, in alphabetical order of relative paths; hidden ones are left out, and
             what this program wrote itself: studies, models, exports, reports (`Text.note` says what is left out)

A file named like one of the words is reached as `./pydoc`. A path may be written as a `file:` URI: one whose name is no UTF-8
is kept so (`text.path_word`). A byte order mark at the start of a file is no text. Texts of many files are joined once, a blank
line between them, in the cache folder. Hashing reads all of a text: the result is remembered by path, size and times of change,
so that the second opening of 10 GB costs a `stat`. Files must not change while a study runs.
"""

from __future__ import annotations

import codecs
import hashlib
import importlib.util
import json
import logging
import os
import re
import secrets
import stat
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpsearch.data import cache
from hpsearch.data.kinds import HEAD_BYTES, kind_of, written_by_us
from hpsearch.errors import DataError, did_you_mean, install
from hpsearch.files import WROTE
from hpsearch.text import path_of, path_word

_SUFFIXES = """
    .txt .text .md .markdown .rst .tex .org .adoc .html .htm .xml .json .jsonl .yaml .yml .toml .csv .tsv
    .py .pyi .c .h .cc .cpp .hpp .cs .go .java .jl .js .kt .lua .php .pl .r .rb .rs .scala .sh .sql .swift .ts .css
"""
TEXT_SUFFIXES = frozenset(_SUFFIXES.split())
"""What counts as text in a folder. A file given by name may have any suffix."""

_BLOCK = 4 * 2**20
_NAMED = 3
"""Names that are told of what is left out."""
_STUDY = re.compile(r"\d{4,}-")
_BOM = codecs.BOM_UTF8
_GIVE = "; give the path of a text file or of a folder of them"
_WORDS = ("pydoc", "stdlib")
# pydoc_data holds the text of `pydoc`: trained on beside it, it would give the held-out part away.
_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "pydoc_data", "__pycache__"})


@dataclass(frozen=True)
class Text:
    """One text: a non-empty UTF-8 file of `size` bytes, and the user's `files` that it is made of."""

    name: str
    path: Path
    size: int
    sha256: str
    files: frozenset[Path]
    start: int = 0
    """Where the text begins: after a byte order mark."""
    note: str = ""
    """What of a folder is left out, in a sentence; empty where nothing is."""


def find_text(word: str, cache_dir: Path, *, without: frozenset[Path] = frozenset()) -> Text:
    """The text that `word` names (see the module). `without`: resolved paths that a folder leaves out.

    Relative paths are relative to the working directory; `~` is the home folder. Raises DataError: missing (with the
    nearest name), empty, a folder without text, not UTF-8 (with the byte offset), or not readable.
    """
    if not word:
        raise DataError(f"the text has an empty name{_GIVE}")  # As a path it would be the working directory.
    if word == "pydoc":
        return _pydoc(cache_dir)
    if word == "stdlib":
        root = Path(sysconfig.get_paths()["stdlib"])
        return _joined(word, root, _stdlib_files(root), cache_dir)
    if word.startswith("hf:"):
        return _hugging_face(word, cache_dir)
    try:
        path = Path(path_of(word)).expanduser()
        mode = path.stat().st_mode
        path = path.resolve()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{word}: no such file or folder{_nearest(word)}") from None
    except (OSError, ValueError, RuntimeError) as error:  # A name that is no name, no home folder, a loop of links.
        told = (isinstance(error, OSError) and error.strerror) or error
        raise DataError(f"{word}: cannot be read: {told}; give another path") from None
    if stat.S_ISDIR(mode):
        files, note = _text_files(word, path, without, cache_dir)
        if not files:
            raise DataError(
                f"{word}: no text in this folder; it needs files with a suffix such as .txt, .md or .py, or name a file itself"
                + (f" ({note})" if note else "")
            )
        return replace(_joined(word, path, files, cache_dir), note=note and f"{word}: {note}")
    if not stat.S_ISREG(mode):
        raise DataError(f"{word}: neither a file nor a folder; give the path of a text file")
    return _file(word, path, cache_dir)


def _nearest(word: str) -> str:
    """The nearest existing neighbour of the first part of the path that does not exist, spelled as the user would."""
    parts = Path(path_of(word)).parts
    parent = Path()
    for part in parts:
        try:
            names = [entry.name for entry in parent.expanduser().iterdir()]
        except OSError:
            break
        if part not in names and not (parent / part).expanduser().exists():
            spelled = [str(parent / name) for name in names]
            offered = did_you_mean(str(parent / part), [*spelled, *(_WORDS if len(parts) == 1 else ())])
            if offered or part == parts[-1]:
                return offered or _GIVE
            return f"; the folder '{parent / part}' does not exist"
        parent = parent / part
    return _GIVE


def _file(word: str, path: Path, cache_dir: Path) -> Text:
    before = _stamp(word, path)
    key = ["file", path_word(str(path)), *before]
    if before[0] == 0:
        raise DataError(f"{word}: the file is empty; give a file with text")
    found = cache.recall(cache_dir, key)
    if found is None:
        cache.require_writable(cache_dir)  # Even where this file is too young to be remembered: a slot will find it old enough.
        sha256 = hashlib.sha256()
        for block in _checked(word, path, before[0]):
            sha256.update(block)
        if _stamp(word, path) != before:
            raise DataError(f"{word}: the file changed while it was read; wait until it is complete and run again")
        found = {"sha256": sha256.hexdigest()}
        if cache.settled(before[1]):
            cache.remember(cache_dir, key, found)
    start = len(_BOM) if _head(word, path, len(_BOM)) == _BOM else 0
    if before[0] == start:
        raise DataError(f"{word}: the file is empty but for a byte order mark; give a file with text")
    return Text(word, path, before[0], found["sha256"], frozenset({path}), start)


def _stamp(word: str, path: Path) -> tuple[int, int, int]:
    """Size, and the times of change of content and of inode: what stands for a file's content between two openings."""
    try:
        return cache.stamp(path)[:3]
    except OSError as error:
        raise _unreadable(f"{word}: {path_word(str(path))}", error) from None


def _head(word: str, path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise _unreadable(f"{word}: {path_word(str(path))}", error) from None


def _unreadable(where: str, error: OSError) -> DataError:
    return DataError(f"{where}: cannot be read: {error.strerror or error}; check the path and its permissions")


def _checked(word: str, path: Path, size: int) -> Iterator[bytes]:
    """The file's first `size` bytes in blocks, checked to be UTF-8 on the way. (One that grows while it is read has no end.)"""
    decoder = codecs.getincrementaldecoder("utf-8")()
    where = word if _same(word, path) else f"{word}: {path_word(str(path))}"
    read = 0
    try:
        with path.open("rb") as file:
            while True:
                block = file.read(min(_BLOCK, size - read))
                other = kind_of(block[:HEAD_BYTES]) if read == 0 else None
                if other is not None:
                    kind, remedy = other
                    raise DataError(f"{where}: no plain text: it is {kind}; {remedy}, or name another text")
                pending = len(decoder.getstate()[0])
                decoder.decode(block, final=not block)
                if not block:
                    return
                yield block
                read += len(block)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8: byte {error.object[error.start]:#04x} at offset {read - pending + error.start:,}; "
            "convert the file to UTF-8 (iconv -t utf-8)"
        ) from None
    except OSError as error:
        raise _unreadable(where, error) from None


def _same(word: str, path: Path) -> bool:
    """Whether a message that names the word has named the file."""
    try:
        return Path(path_of(word)).expanduser().resolve() == path
    except (OSError, ValueError, RuntimeError):
        return False


def _joined(word: str, root: Path, files: Sequence[Path], cache_dir: Path) -> Text:
    """One text of many files, joined in the cache folder unless that was done before."""

    def stamped() -> list[tuple[str, int, int, int]]:
        return [(path_word(file.relative_to(root).as_posix()), *_stamp(word, file)) for file in files]

    stamps = stamped()
    key = ["folder", path_word(str(root)), stamps]
    found = cache.recall(cache_dir, key)
    names = frozenset(file.resolve() if file.is_symlink() else file for file in files)
    if found is not None:
        path = _kept_path(cache_dir, found["sha256"])
        if cache.holds(cache_dir, path, found["sha256"]):
            return Text(word, path, found["size"], found["sha256"], names)
    if not any(size for _, size, *_ in stamps):
        raise DataError(f"{word}: every text file in this folder is empty; give a folder with text")

    def blocks() -> Iterator[bytes]:
        for file, (_, size, *_) in zip(files, stamps, strict=True):
            first, last = True, b""
            for last in _checked(word, file, size):
                yield last.removeprefix(_BOM) if first else last
                first = False
            if last.removeprefix(_BOM):
                yield b"\n" if last.endswith(b"\n") else b"\n\n"

    text = _kept(word, blocks(), cache_dir, names)
    if stamps != stamped():
        raise DataError(f"{word}: the folder changed while it was read; wait until it is complete and run again")
    if cache.settled(max(mtime for _, _, mtime, _ in stamps)):
        cache.remember(cache_dir, key, {"sha256": text.sha256, "size": text.size})
    return text


def _kept_path(cache_dir: Path, sha256: str) -> Path:
    return cache_dir / "texts" / f"{sha256}.txt"


def _kept(word: str, blocks: Iterable[bytes], cache_dir: Path, files: frozenset[Path] = frozenset()) -> Text:
    """A text kept in the cache folder under its own hash."""
    sha256, size = hashlib.sha256(), 0
    fresh = cache_dir / "texts" / f"{secrets.token_hex(8)}.joining"
    with cache.writing(fresh) as file:
        for block in blocks:
            sha256.update(block)
            size += file.write(block)
    if size == 0:
        fresh.unlink()
        raise DataError(f"{word}: the text is empty; give another one")
    path = _kept_path(cache_dir, sha256.hexdigest())
    fresh.replace(path)
    return Text(word, path, size, sha256.hexdigest(), files)


def _text_files(word: str, folder: Path, without: frozenset[Path], cache_dir: Path) -> tuple[list[Path], str]:
    """The texts in a folder in order, and what is left out, in a sentence."""
    found: list[Path] = []
    left: dict[str, list[str]] = {}

    def leave(why: str, path: Path) -> None:
        left.setdefault(why, []).append(path_word(path.relative_to(folder).as_posix()))

    def closed(error: OSError) -> None:
        if error.filename is None or Path(error.filename) == folder:
            raise _unreadable(word, error)
        leave("that cannot be read", Path(error.filename))

    cache_dir = cache_dir.resolve()
    for parent, folders, files in os.walk(folder, onerror=closed):
        entered = []
        for name in sorted(folders):
            path = Path(parent, name)
            if name.startswith("."):
                leave("hidden", path)
            elif path.is_symlink():
                leave("behind links to folders", path)
            elif path == cache_dir or _is_ours(path):
                leave("of hpsearch itself", path)
            else:
                entered.append(name)
        folders[:] = entered
        noted = _noted(Path(parent)) if WROTE in files else set()
        for name in sorted(files):
            path = Path(parent, name)
            if name.startswith("."):
                leave("hidden", path)
            elif path.suffix.lower() not in TEXT_SUFFIXES:
                leave("without a suffix of text", path)
            elif not path.is_file():  # A pipe that is named like a text would never end.
                leave("that are no files", path)
            elif path.resolve() in without:
                leave("held out", path)
            elif name in noted or written_by_us(_head(word, path, HEAD_BYTES)):
                leave("of hpsearch itself", path)
            else:
                found.append(path)
    told = []
    for why, names in left.items():
        shown = ", ".join(sorted(names)[:_NAMED]) + (", …" if len(names) > _NAMED else "")
        told.append(f"{len(names)} {why} ({shown})")
    found.sort(key=lambda file: file.relative_to(folder).as_posix())
    return found, f"left out: {'; '.join(told)}" if told else ""


def _noted(folder: Path) -> set[str]:
    """The names of this program's files in a folder, by the note that it left there; `*` where all are."""
    try:
        noted = json.loads((folder / WROTE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return set()
    return {WROTE, *(name for name in noted if isinstance(name, str))} if isinstance(noted, list) else set()


def _is_ours(folder: Path) -> bool:
    """Whether this program made a folder: a study's, a run's, a model's or a cache. It changes while one works."""

    def has(*names: str) -> bool:
        return all((folder / name).exists() for name in names)

    try:
        return (
            has("study.json", "space.yaml")
            or (_STUDY.match(folder.name) is not None and (folder.parent / "hpsearch.db").exists())
            or (has("log.jsonl") and (has("checkpoints") or has("model.safetensors")))
            or has("model.safetensors", "tokenizer.json")
            or "*" in _noted(folder)
            or (has("index") and (has("texts") or has("tokens")))
        )
    except OSError:
        return False  # It cannot be entered, and is told as such.


def _pydoc(cache_dir: Path) -> Text:
    from pydoc_data.topics import topics

    content = "".join(topics[name].strip("\n") + "\n\n" for name in sorted(topics)).encode()
    sha256 = hashlib.sha256(content).hexdigest()
    path = _kept_path(cache_dir, sha256)
    if not cache.holds(cache_dir, path, sha256):
        return _kept("pydoc", [content], cache_dir)
    return Text("pydoc", path, len(content), sha256, frozenset())


def _stdlib_files(root: Path) -> list[Path]:
    found = []
    for parent, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        found += [Path(parent, name) for name in files if name.endswith(".py")]
    if not found:
        raise DataError(f"stdlib: this Python has no source files under {root}; use another text")
    return sorted(found, key=lambda file: file.relative_to(root).as_posix())


def _hugging_face(word: str, cache_dir: Path) -> Text:
    """A data set's train split. Fetched once: later openings use what is kept and need no network."""
    name, _, configuration = word.removeprefix("hf:").partition(":")
    key = ["hf", name, configuration]
    found = cache.recall(cache_dir, key)
    if found is not None and cache.holds(cache_dir, path := _kept_path(cache_dir, found["sha256"]), found["sha256"]):
        return Text(word, path, found["size"], found["sha256"], frozenset())
    if importlib.util.find_spec("datasets") is None:
        raise DataError(f"{word}: the library datasets is missing; {install('hf')}")
    import datasets

    # Its retries would be lines of their own: what fails in the end is told below.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    load: Callable[..., Any] = datasets.load_dataset
    try:
        rows = load(name, configuration or None, split="train")
        strings = [column for column, kind in rows.features.items() if getattr(kind, "dtype", "") in ("string", "large_string")]
    except Exception as error:  # the library raises whatever its builders, its cache and its network raise
        raise DataError(f"{word}: {_first_line(error)}; check the name, its configuration and the network") from None
    column = "text" if "text" in strings else strings[0] if len(strings) == 1 else None
    if column is None:
        raise DataError(f"{word}: no column of text; it has {', '.join(rows.features)}")
    text = _kept(word, (f"{row}\n\n".encode() for batch in rows.iter(1000) for row in batch[column] if row), cache_dir)
    cache.remember(cache_dir, key, {"sha256": text.sha256, "size": text.size})
    return text


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
