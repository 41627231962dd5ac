"""Files to passages: offsets are the file's, and what cannot be read is named with the place."""

from __future__ import annotations

import codecs
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxcomp import InputError
from ctxcomp.inputs import decode, read_sources


def write(path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_utf8_is_decoded_as_it_is(text):
    assert decode(text.encode(), "f") == text or text.encode().startswith((b"\xff\xfe", b"\xfe\xff"))


@pytest.mark.parametrize("bom", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_utf16_needs_its_mark(bom):
    encoding = "utf-16-le" if bom == codecs.BOM_UTF16_LE else "utf-16-be"
    assert decode(bom + "Zür\r\nich".encode(encoding), "f") == "Zür\r\nich"
    with pytest.raises(InputError, match="f: binary, not text"):
        decode("Zürich".encode(encoding), "f")


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"abc\0def", "binary, not text"), (b"a" * 200_000 + b"\0", "binary, not text"),
     (codecs.BOM_UTF32_LE + "x".encode("utf-32-le"), "binary, not text"),
     ("café".encode("latin-1"), r"not UTF-8 text \(byte 0xe9 at offset 3\): .*iconv"),
     ("abc".encode("utf-16") + b"x", r"not UTF-16 text \(byte 0x78 at offset 8\)")],
)  # fmt: skip
def test_other_bytes_are_named(tmp_path, data, message):
    with pytest.raises(InputError, match=message):
        read_sources([write(tmp_path / "f.txt", data)])


def test_a_text_file_is_one_passage_whatever_its_name(tmp_path):
    path = write(tmp_path / "notes.rst", b"\xef\xbb\xbfa\r\nb\rc\n")
    (source,) = read_sources([path])
    assert (source.passage.text, source.passage.id, source.name) == ("\ufeffa\r\nb\rc\n", path, path)


def test_jsonl_is_one_passage_a_line(tmp_path):
    lines = [
        '\ufeff{"text": "a\u2028b\x85c", "id": 7, "title": "T", "score": 2, "metadata": {"protect": [[0, 1]]}}',
        "", " ",
        '{"text": "", "id": null, "other": [1]}\r',
    ]  # fmt: skip
    path = write(tmp_path / "p.JSONL", "\n".join(lines).encode())
    first, second = (source.passage for source in read_sources([path]))
    assert (first.text, first.id, first.title, first.score) == ("a\u2028b\x85c", "7", "T", 2)
    assert first.metadata == {"protect": [[0, 1]]}
    assert (second.text, second.id, second.score) == ("", f"{path}:4", None)


@pytest.mark.parametrize(
    ("line", "message"),
    [('{"text": ', "p.jsonl:2: not JSON \\(Expecting value, column 9\\)"), ('{"text": "a"} x', "Extra data, column 15"),
     ("[1]", 'no "text"'), ("null", 'no "text"'), ("{}", 'no "text"'), ('{"text": 5}', 'no "text"'),
     ('{"text": null}', 'no "text"'), ('{"text": "a", "title": 5}', "'title' must be text, got 5"),
     ('{"text": "a", "id": true}', "'id' must be text, got True"), ('{"text": "a", "id": [1]}', "'id' must be text"),
     ('{"text": "a", "score": "1"}', "'score' must be a finite number, got '1'"),
     ('{"text": "a", "score": NaN}', "got nan"), ('{"text": "a", "score": 1e999}', "got inf"),
     (f'{{"text": "a", "score": {"9" * 400}}}', "must be a finite number"),
     (f'{{"text": "a", "score": {"9" * 5000}}}', "not JSON"), ('{"text": "a", "metadata": 5}', "must be a dict"),
     (f'{{"text": {"[" * 200_000}', "not JSON .*recursion")],
)  # fmt: skip
def test_a_bad_line_is_named_by_its_number(tmp_path, line, message):
    with pytest.raises(InputError, match=r"p\.jsonl:2: ") as caught:
        read_sources([write(tmp_path / "p.jsonl", f'{{"text": "fine"}}\n{line}\n'.encode())])
    assert caught.match(message)


def test_folders_are_read_in_order_without_hidden_files(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("b/z.MD", "b/skip.py", "a.txt", ".hidden.txt", ".git/x.txt", "c.jsonl"):
        write(tmp_path / name, b'{"text": "x"}')
    (tmp_path / "d.txt").mkdir()
    names = [os.path.relpath(source.name, tmp_path) for source in read_sources([str(tmp_path)])]
    assert names == ["a.txt", os.path.join("b", "z.MD"), "c.jsonl"]


def test_links_that_loop_or_dangle_do_no_harm(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "a.txt", b"x")
    (tmp_path / "sub" / "up").symlink_to("..")
    (tmp_path / "self.txt").symlink_to("self.txt")
    (tmp_path / "nowhere.txt").symlink_to("gone")
    assert [source.name for source in read_sources([str(tmp_path)])] == [str(tmp_path / "a.txt")]
    for name in ("self.txt", "nowhere.txt"):
        with pytest.raises(InputError, match="no such file"):
            read_sources([str(tmp_path / name)])


@pytest.mark.parametrize("path", ["", "no/such", "x" * 5000, "a\0b"])
def test_what_does_not_exist_is_named(path):
    with pytest.raises(InputError, match="no such file or folder"):
        read_sources([path])


def test_a_folder_without_text_says_what_is_looked_for(tmp_path):
    with pytest.raises(InputError, match=r"no \.txt, \.md, \.jsonl files in this folder"):
        read_sources([str(tmp_path)])


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file that cannot be read even by root")
def test_a_file_that_cannot_be_read_is_named():
    with pytest.raises(InputError, match="/proc/self/mem: cannot be read: "):
        read_sources(["/proc/self/mem"])


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path):
    path = write(tmp_path / "a.txt", b"x")
    os.chmod(path, 0)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        read_sources([path])


def test_standard_input_is_read_once():
    with pytest.raises(InputError, match="only once"):
        read_sources(["-", "-"])
