import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hpsearch.data.sources import find_text
from hpsearch.errors import BadInput, DataError
from hpsearch.paths import cache_dir
from hpsearch.text import path_of, path_word

Write = Callable[..., Path]


def age(path: Path, seconds: int = 60) -> None:
    """Make a file old enough for its hash to be remembered."""
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns - seconds * 10**9))


def test_pydoc_holds_every_help_topic_in_order_and_is_the_same_each_time(tmp_path: Path) -> None:
    from pydoc_data.topics import topics

    first, second = find_text("pydoc", tmp_path / "a"), find_text("pydoc", tmp_path / "b")
    content = first.path.read_text("utf-8")
    assert content == "".join(topics[name].strip("\n") + "\n\n" for name in sorted(topics))
    assert first.sha256 == second.sha256 == hashlib.sha256(first.path.read_bytes()).hexdigest()
    assert first.size == first.path.stat().st_size > 100_000


def test_stdlib_holds_python_sources_without_tests_and_site_packages(tmp_path: Path) -> None:
    text = find_text("stdlib", tmp_path)
    content = text.path.read_text("utf-8")
    assert Path(os.__file__).read_text("utf-8") in content
    relative = [file.parts for file in text.files]
    assert not any({"site-packages", "test", "idlelib", "pydoc_data"} & set(parts) for parts in relative)
    assert find_text("stdlib", tmp_path) == text


def test_a_file_is_used_where_it_lies(write: Write, tmp_path: Path) -> None:
    path = write("text.txt", "some text")
    text = find_text(str(path), tmp_path / "cache")
    assert (text.path, text.size, text.sha256) == (path.resolve(), 9, hashlib.sha256(b"some text").hexdigest())


def test_relative_paths_and_the_home_folder_are_resolved(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("home/pydoc", "not the help topics")
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("HOME", str(path.parent))
    assert find_text("./pydoc", tmp_path / "cache").path == path.resolve()
    assert find_text("~/pydoc", tmp_path / "cache").path == path.resolve()


def test_a_folder_is_its_text_files_in_order_of_relative_paths(write: Write, tmp_path: Path) -> None:
    write("f/b.md", "second\n")
    write("f/a.txt", "first")
    write("f/sub/c.py", "third")
    write("f/.hidden/d.txt", "no")
    write("f/.e.txt", "no")
    write("f/image.png", b"\x89PNG")
    write("f/empty.txt", "")
    text = find_text(str(tmp_path / "f"), tmp_path / "cache")
    assert text.path.read_text() == "first\n\nsecond\n\nthird\n\n"
    assert {path.name for path in text.files} == {"a.txt", "b.md", "c.py", "empty.txt"}


def test_a_changed_file_in_a_folder_changes_the_text(write: Write, tmp_path: Path) -> None:
    for name in ("a", "b"):
        age(write(f"f/{name}.txt", name))
    folder, cache = str(tmp_path / "f"), tmp_path / "cache"
    first = find_text(folder, cache)
    assert find_text(folder, cache) == first
    age(write("f/b.txt", "c"), 120)
    second = find_text(folder, cache)
    assert second.sha256 != first.sha256
    assert second.path.read_text() == "a\n\nc\n\n"


def test_a_second_opening_does_not_read_the_file(write: Write, tmp_path: Path) -> None:
    path = write("text.txt", "a" * 1000)
    age(path)
    first = find_text(str(path), tmp_path / "cache")
    # Only a reader could find the file's own hash again.
    index = list((tmp_path / "cache" / "index").iterdir())
    assert len(index) == 1
    index[0].write_text('{"sha256": "remembered"}')
    assert find_text(str(path), tmp_path / "cache").sha256 == "remembered"
    assert first.sha256 == hashlib.sha256(b"a" * 1000).hexdigest()


def test_a_young_file_is_hashed_again(write: Write, tmp_path: Path) -> None:
    path = write("text.txt", "one")
    first = find_text(str(path), tmp_path / "cache")
    times = path.stat()
    path.write_text("two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert find_text(str(path), tmp_path / "cache").sha256 != first.sha256


def test_a_damaged_index_is_made_again(write: Write, tmp_path: Path) -> None:
    path = write("text.txt", "one")
    age(path)
    first = find_text(str(path), tmp_path / "cache")
    next((tmp_path / "cache" / "index").iterdir()).write_bytes(b"\x00\x01")
    assert find_text(str(path), tmp_path / "cache") == first


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("shakespear.txt", "no such file or folder; did you mean 'shakespeare.txt'?"),
        ("books/prid.txt", "no such file or folder; did you mean 'books/pride.txt'?"),
        ("bookz/pride.txt", "no such file or folder; did you mean 'books'?"),
        ("pydocs", "no such file or folder; did you mean 'pydoc'?"),
        ("nowhere/at/all.txt", "no such file or folder; the folder 'nowhere' does not exist"),
        ("shakespeare.txt/x", "no such file or folder; give the path of a text file or of a folder of them"),
        ("qqq", "no such file or folder; give the path of a text file or of a folder of them"),
        ("books/nul\0.txt", r"books/nul\x00.txt: cannot be read"),
        ("empty.txt", "the file is empty; give a file with text"),
        ("bare", "no text in this folder"),
        ("hollow", "every text file in this folder is empty"),
    ],
)
def test_a_text_that_cannot_be_used_is_refused_in_one_line_with_a_remedy(
    word: str, sentence: str, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("shakespeare.txt", "To be")
    write("books/pride.txt", "It is")
    write("empty.txt", "")
    write("bare/picture.png", b"\x89PNG")
    write("hollow/a.txt", "")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        find_text(word, tmp_path / "cache")
    assert sentence in str(caught.value)
    shown = word.replace("\0", r"\x00")
    assert str(caught.value).startswith(f"{shown}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "offset"),
    [
        (b"\xff", "0xff at offset 0"),
        (b"a" * 10 + b"\xe9 la carte", "0xe9 at offset 10"),
        (b"a" * (4 * 2**20 - 1) + "é".encode() + b"\xc3", "0xc3 at offset 4,194,305"),
        (b"a" * (4 * 2**20 - 1) + b"\xe2\x82" + b"z", "0xe2 at offset 4,194,303"),
        (b"b" * 5_000_000 + b"\x80", "0x80 at offset 5,000,000"),
    ],
)
def test_what_is_not_utf8_is_refused_with_the_byte_and_its_offset(
    content: bytes, offset: str, write: Write, tmp_path: Path
) -> None:
    path = write("f/latin.txt", content)
    with pytest.raises(DataError, match=rf"not UTF-8: byte {offset}; convert"):
        find_text(str(path), tmp_path / "cache")
    with pytest.raises(DataError, match=rf"latin\.txt: not UTF-8: byte {offset}; convert"):
        find_text(str(path.parent), tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.txt"))
    assert not list((tmp_path / "cache").rglob("*.hpsearch-tmp"))


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "text.txt").write_text("text")
    assert find_text(str(tmp_path), tmp_path / "cache").path.read_text() == "text\n\n"
    with pytest.raises(DataError, match="neither a file nor a folder"):
        find_text(str(tmp_path / "pipe"), tmp_path / "cache")


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as open_to_all:
        Path(open_to_all).chmod(0o755)
        path = Path(open_to_all) / "secret.txt"
        path.write_text("x")
        path.chmod(0)
        me = os.geteuid()
        if me == 0:
            os.seteuid(65534)  # Root reads everything; nobody does not.
        try:
            with pytest.raises(DataError, match="Permission denied"):
                find_text(str(path), tmp_path / "cache")
        finally:
            os.seteuid(me)


def test_a_cache_folder_that_cannot_be_written_is_named(write: Write, tmp_path: Path) -> None:
    blocked = write("file-in-the-way", "x")
    with pytest.raises(DataError, match=r"file-in-the-way.*cannot keep prepared data here.*HPSEARCH_CACHE_DIR"):
        find_text("pydoc", blocked)


def test_what_this_program_wrote_is_no_text_of_a_folder_and_is_named(write: Write, tmp_path: Path) -> None:
    write("f/a.txt", "text")
    write("f/notes/space.yaml", "mine")
    write("f/notes/log.jsonl", "mine too")
    before = find_text(str(tmp_path / "f"), tmp_path / "f" / "kept").sha256
    write("f/studies/hpsearch.db", b"SQLite format 3\x00")
    write("f/studies/0001-s/space.yaml", "name: s")
    write("f/studies/0002-t/study.json", "{}")
    write("f/studies/0002-t/space.yaml", "name: t")
    write("f/other/0003-u/study.json", "{}")
    write("f/other/0003-u/space.yaml", "name: u")
    write("f/model/log.jsonl", "{}")
    write("f/model/checkpoints/step-00000008.pt", b"\x00")
    write("f/exported/model.safetensors", b"\x00")
    write("f/exported/tokenizer.json", "{}")
    write("f/exported/README.md", "# A model")
    write("f/begun/hpsearch-wrote.json", '["*"]')
    write("f/begun/config.yaml", "d_model: 16")
    write("f/figures/hpsearch-wrote.json", '["history.csv"]')
    write("f/figures/history.csv", "trial,value\n0,1.5\n")
    write("f/best.yaml", "# The best trial of study s: trial 0\n\nhpsearch: 1  # of this file's form\n")
    write("f/hand.toml", "hpsearch = 1\n[hyperparameters]\n")
    write("f/best.json", '{\n  "hpsearch": 1,\n  "study": {}}')
    write("f/r.html", '<!DOCTYPE html>\n<html>\n<meta name="generator" content="hpsearch 0.1.0">\n')
    write("f/t.csv", "number,state,value,learning_rate\n0,complete,1.5,0.1\n")
    text = find_text(str(tmp_path / "f"), tmp_path / "f" / "kept")
    assert text.sha256 == before
    assert {path.name for path in text.files} == {"a.txt", "space.yaml", "log.jsonl"}
    assert "14 of hpsearch itself (begun, best.json, best.yaml, …)" in text.note
    # A folder that is named is what was asked for, whoever wrote it.
    assert find_text(str(tmp_path / "f" / "exported"), tmp_path / "cache").path.read_text() == "# A model\n\n{}\n\n"


def test_what_is_left_out_of_a_folder_is_told_with_its_count_and_first_names(write: Write, tmp_path: Path) -> None:
    for name in ("a.txt", ".git/config.txt", ".e.txt", "one.gz", "two.png", "three.bin", "four", "v.txt"):
        write(f"f/{name}", "text of " + name)
    write("elsewhere/b.txt", "text")
    (tmp_path / "f/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "f/loop").symlink_to(tmp_path / "f")
    (tmp_path / "f/broken.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "f/pipe.txt")
    held_out = (tmp_path / "f/v.txt").resolve()
    text = find_text(str(tmp_path / "f"), tmp_path / "cache", without=frozenset({held_out}))
    assert {path.name for path in text.files} == {"a.txt"}
    for part in (
        "2 hidden (.e.txt, .git)",
        "4 without a suffix of text (four, one.gz, three.bin, …)",
        "2 behind links to folders (linked, loop)",
        "2 that are no files (broken.txt, pipe.txt)",
        "1 held out (v.txt)",
    ):
        assert part in text.note
    assert "\n" not in text.note
    assert find_text(str(tmp_path / "elsewhere"), tmp_path / "cache").note == ""


@pytest.mark.parametrize("name", [b"caf\xe9.txt", b"100% \xff#?.txt", "naïve €.txt".encode(), b"file:x.txt"])
def test_a_text_of_any_name_is_found_again_by_its_word(name: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(os.fsdecode(name)).write_text("text")
    given = os.fsdecode(name)
    for path in ("./" + given, str(tmp_path / given)):
        word = path_word(path)
        word.encode()  # As every file, database and terminal takes it.
        assert path_of(word) == path
        assert path_word(word) == word
        assert find_text(word, tmp_path / "cache").path == tmp_path / given


def test_a_file_uri_names_a_text(tmp_path: Path) -> None:
    (tmp_path / "a b.txt").write_text("text")
    for start in ("file:", "file://", "file://localhost"):
        assert find_text(f"{start}{tmp_path}/a%20b.txt", tmp_path / "cache").path == tmp_path / "a b.txt"


def test_a_byte_order_mark_is_no_text(write: Write, tmp_path: Path) -> None:
    path = write("f/a.txt", "\ufeffone")
    write("f/b.txt", "\ufefftwo \ufeff")
    text = find_text(str(path), tmp_path / "cache")
    assert text.path.read_bytes()[text.start :] == b"one"
    assert find_text(str(path.parent), tmp_path / "cache").path.read_text() == "one\n\ntwo \ufeff\n\n"
    with pytest.raises(DataError, match="empty but for a byte order mark"):
        find_text(str(write("c.txt", "\ufeff")), tmp_path / "cache")


def test_a_loop_of_links_and_a_home_that_is_nobodys_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for word in (str(tmp_path / "a"), "~nobody-of-this-name/a.txt"):
        with pytest.raises(DataError, match=r"cannot be read: .*; give another path"):
            find_text(word, tmp_path / "cache")


def test_a_file_that_grows_while_it_is_read_is_read_to_where_it_ended(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("log.txt", "line\n" * 100)
    monkeypatch.setattr("hpsearch.data.sources._BLOCK", 50)

    def growing(head: bytes) -> None:
        with path.open("ab") as file:
            file.write(b"more\n" * 100)

    monkeypatch.setattr("hpsearch.data.sources.kind_of", growing)
    with pytest.raises(DataError, match="changed while it was read"):
        find_text(str(path), tmp_path / "cache")


def test_a_kept_text_that_was_changed_is_made_again_whatever_its_size(write: Write, tmp_path: Path) -> None:
    for name in ("a", "b"):
        age(write(f"f/{name}.txt", name))
    kept = tmp_path / "cache"
    for word in (str(tmp_path / "f"), "pydoc"):
        text = find_text(word, kept)
        content = text.path.read_bytes()
        text.path.write_bytes(b"x" * len(content))
        assert find_text(word, kept).path.read_bytes() == content


def test_a_user_without_a_home_folder_is_told_to_name_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(number: int) -> None:
        raise KeyError(number)

    for name in ("HPSEARCH_CACHE_DIR", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(BadInput, match=r"no home folder .* HPSEARCH_CACHE_DIR"):
        cache_dir()


def test_a_hugging_face_name_without_the_extra_names_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # as where it is not installed
    with pytest.raises(DataError, match=r"^hf:roneneldan/TinyStories: .*pip install -c constraints.txt '\.\[hf\]'$"):
        find_text("hf:roneneldan/TinyStories", tmp_path)


def test_a_hugging_face_data_set_is_read_once_and_kept(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = write("set/train.jsonl", '{"text": "one", "n": 1}\n{"text": "", "n": 2}\n{"text": "zwei é", "n": 3}\n')
    text = find_text(f"hf:{path.parent}", tmp_path / "cache")
    assert text.path.read_text("utf-8") == "one\n\nzwei é\n\n"
    path.unlink()
    assert find_text(f"hf:{path.parent}", tmp_path / "cache") == text
    with pytest.raises(DataError, match=r"^hf:no/such-set: .*; check the name, its configuration and the network$"):
        find_text("hf:no/such-set", tmp_path / "cache")
    two = write("two/train.jsonl", '{"question": "a", "answer": "b"}\n')
    with pytest.raises(DataError, match="no column of text; it has question, answer"):
        find_text(f"hf:{two.parent}", tmp_path / "cache")
