from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path

import pytest

from tangoflux.data.text_rows import csv_rows, id_text, text_lines
from tangoflux.errors import DataError


def rows(directory: Path, content: bytes) -> list[tuple[int, dict[str, str]]]:
    (directory / "t.csv").write_bytes(content)
    return list(csv_rows(directory / "t.csv", "table"))


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        (b'a,b\n1,2\n3,"x\n4,5\n6,7\n', 3, 'a quote is not closed; close it, or write ""'),
        (b'a,b\n1,2\n\n3,"x ""y\n', 4, "a quote is not closed"),
        (b'a,b\n1,"x" y\n', 2, """',' expected after '"'; write "" for a quote"""),
        (b'a,b\n"1\n2",3\n4,"5"6\n', 4, "expected after"),
        (
            b"a,b\n1,2\n3," + b"x" * 140_000 + b"\n",
            3,
            "a cell is longer than 131,072 characters; is a quote not closed",
        ),
        (b'a,b\n1,2\n3,"' + b"x\n" * 70_000, 3, "is a quote not closed"),
        (b'"a,b\n1,2\n', 1, "a quote is not closed"),
        (b"a,b\n1,2\n3,caf\xe9\n", 3, "not UTF-8 text .*; save the file as UTF-8"),
        (b'a,b\n"1\n\xe9",2\n', 3, "not UTF-8 text"),
        ("a,b\n1,2\n".encode("utf-16"), 1, "it is UTF-16.; save the file as UTF-8"),
        ("a,b\n1,2\n".encode("utf-16-le"), 1, "it holds a NUL byte"),
        (b"a,b\n1,2\n3,x\0\n", 3, "it holds a NUL byte"),
        (b"a,b\r1,2\r3,4\r", 1, "a carriage return in a cell; save the file with the line ends of"),
        (b"a,b\n1,2\r3,4\n", 2, "a carriage return in a cell"),
        (b"a,b\n1,2\n3\n", 3, "the number of cells is not that of the columns in the first line: 1 instead of 2"),
        (b"a,b\n1,2\n3,4,5\n", 3, "3 instead of 2; enclose a text with commas in quotes"),
        (b'a,b\n"1\n2",3\n\n4\n', 5, "1 instead of 2"),
        (b"a,b,a\n1,2,3\n", 1, "two columns are named 'a'; give each its own name"),
        (b"a, a\n1,2\n", 1, "two columns are named 'a'"),
        (b"a;b\n1;2\n", 1, "the columns 'a;b' are not separated by commas"),
        (b"a\tb\n1\t2\n", 1, "not separated by commas"),
    ],
)
def test_what_is_wrong_in_a_table_is_told_with_its_line_and_the_way_out(
    tmp_path: Path, content: bytes, line: int, said: str
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        rows(tmp_path, content)
    assert str(caught.value).startswith(f"{tmp_path}/t.csv:{line}: ")


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\n1,2\n",
        b"\xef\xbb\xbfa,b\r\n1,2\r\n",
        b"a , b\n\n1,2\n\n",
        b'"a","b"\n"1","2"',
        b"a,b,,\n1,2,,\n",
    ],
)
def test_tables_of_every_editor_are_read(tmp_path: Path, content: bytes) -> None:
    [(_, row)] = rows(tmp_path, content)
    assert (row["a"], row["b"]) == ("1", "2")


def test_a_row_of_several_lines_is_named_by_its_first(tmp_path: Path) -> None:
    found = rows(tmp_path, b'a,b\n"1\n2\r3",x\n\n4,y\n')
    assert found == [(2, {"a": "1\n2\r3", "b": "x"}), (5, {"a": "4", "b": "y"})]


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        (b"one\rtwo\rthree\r", 1, "a carriage return in the line; save the file with the line ends of Unix or Windows"),
        (b"one\ntwo\rthree\n", 2, "a carriage return"),
        (b"one\ncaf\xe9\n", 2, "not UTF-8 text"),
        ("one\n".encode("utf-16"), 1, "it is UTF-16"),
        ("one\n".encode("utf-16-be"), 1, "NUL byte"),
        (b"one\n\0\n", 2, "NUL byte"),
    ],
)
def test_what_is_wrong_in_lines_of_text_is_told_with_the_line(
    tmp_path: Path, content: bytes, line: int, said: str
) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        list(text_lines(tmp_path / "t.txt", "text"))
    assert str(caught.value).startswith(f"{tmp_path}/t.txt:{line}: ")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((value, "12") for value in (12, 12.0, "12", "12.0", Decimal("12.0"), Decimal(12))),
        (2.0**53, "9007199254740992"),
        *((value, "-1") for value in (-1, -1.0, "-1.0")),
        *((value, value) for value in ("d7", "v1.0", "1.10", "12.00", "1.0\n", 12.5, math.inf, True, None, [12.0])),
    ],
)
def test_an_id_that_is_a_whole_number_is_its_digits(value: object, text: object) -> None:
    assert id_text(value) == text and type(id_text(value)) is type(text)
