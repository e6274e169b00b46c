from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest

from tangoflux.data.prompts import Prompt, PromptFile, draw_prompts, load_prompts
from tangoflux.data.text_rows import MAX_FILE_BYTES
from tangoflux.errors import ConfigError, DataError


def load(path: Path) -> list[Prompt]:
    return load_prompts(path, default_duration_s=2.0, max_duration_s=4.0)


def write(directory: Path, content: str | bytes, name: str = "prompts.txt") -> Path:
    path = directory / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


def jsonl(directory: Path, *rows: object) -> Path:
    return write(directory, "".join(json.dumps(row) + "\n" for row in rows), "prompts.jsonl")


def message_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_text_file_gives_a_prompt_a_line_and_skips_blank_ones(tmp_path: Path) -> None:
    path = write(tmp_path, "a dog barks\n\n  a beep, twice  \r\n   \n雨の音 🌧\u2028rain")
    assert load(path) == [
        Prompt("p000001", "a dog barks", 2.0),
        Prompt("p000002", "a beep, twice", 2.0),
        Prompt("p000003", "雨の音 🌧\u2028rain", 2.0),
    ]


def test_byte_order_mark_is_not_part_of_the_first_prompt(tmp_path: Path) -> None:
    assert load(write(tmp_path, b"\xef\xbb\xbfa beep"))[0].text == "a beep"


def test_a_table_of_captions_as_audiocaps_has_it_is_a_prompt_bank(tmp_path: Path) -> None:
    table = (
        'audiocap_id,youtube_id,start_time,caption\n91139,r1nicOVtvkQ,130,"A woman talks, then laughs"\n7,x,0,Rain\n'
    )
    assert load_prompts(write(tmp_path, table, "train.csv"), 10, 30) == [
        Prompt("p000001", "A woman talks, then laughs", 10),
        Prompt("p000002", "Rain", 10),
    ]
    own = load_prompts(write(tmp_path, "id,prompt,duration_s\nx,a bell,2.5\n", "own.csv"), 10, 30)
    assert own == [Prompt("x", "a bell", 2.5)]


def test_jsonl_rows_may_name_duration_and_id_and_carry_other_keys(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path,
        {"prompt": "a beep", "duration_s": 1.5, "id": "clip-7.b"},
        {"prompt": "a bark", "id": 12, "prompt_id": "own", "source": {"split": "train"}},
        {"prompt": "rain", "duration_s": 4},
    )
    assert load(path) == [
        Prompt("clip-7.b", "a beep", 1.5),
        Prompt("12", "a bark", 2.0),
        Prompt("p000003", "rain", 4.0),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "contains no prompts"),
        (b"\n \n\r\n", "contains no prompts"),
        (b"fine\n\xff\xfe\x00", "prompts.txt:2: not UTF-8"),
        (b"fine\nPK\x03\x04\x00\x00", "prompts.txt:2: not text"),
    ],
)
def test_text_files_without_usable_text_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    assert said in message_of(write(tmp_path, content))


def test_missing_file_directory_pipe_and_other_suffix_are_refused(tmp_path: Path) -> None:
    assert "no such prompt file" in message_of(tmp_path / "absent.txt")
    (tmp_path / "folder.txt").mkdir()
    assert "not a regular file" in message_of(tmp_path / "folder.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    assert "not a regular file" in message_of(tmp_path / "pipe.txt")
    assert ".jsonl" in message_of(write(tmp_path, "a beep", "prompts.doc"))


def test_file_beyond_the_limit_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "huge.txt"
    path.touch()
    os.truncate(path, MAX_FILE_BYTES + 1)
    assert "the limit is" in message_of(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('["a beep"]', "list instead of an object"),
        ("{}", "no 'prompt'"),
        ('{"text": "a beep"}', "no 'prompt' among the keys 'text'"),
        ('{"prompt": null}', "prompt is None"),
        ('{"prompt": "  "}', "prompt is '  '"),
        ('{"prompt": "\\ud800"}', "surrogate"),
        ('{"prompt": "a", "duration": 3}', "did you mean 'duration_s'"),
        ('{"prompt": "a", "duration_s": "2"}', "duration_s is '2'"),
        ('{"prompt": "a", "duration_s": true}', "duration_s is True"),
        ('{"prompt": "a", "duration_s": 0}', "from 0.001 to 4"),
        ('{"prompt": "a", "duration_s": 1e-6}', "from 0.001 to 4"),
        ('{"prompt": "a", "duration_s": -1}', "from 0.001 to 4"),
        ('{"prompt": "a", "duration_s": 4.01}', "from 0.001 to 4"),
        ('{"prompt": NaN}', "prompt is nan"),
        ('{"prompt": "a", "duration_s": Infinity}', "duration_s is inf"),
        ('{"prompt": "a", "duration_s": 1' + "0" * 400 + "}", "from 0.001 to 4"),
        ('{"prompt": "a", "id": "../a"}', "id is '../a'"),
        ('{"prompt": "a", "id": ".hidden"}', "the first a letter or digit"),
        ('{"prompt": "a", "id": ""}', "id is ''"),
        ('{"prompt": "a", "id": "' + "x" * 65 + '"}', "1 to 64"),
        ('{"prompt": "a", "id": "a\\n"}', "1 to 64"),
        ('{"prompt": "a", "id": true}', "id is True"),
    ],
)
def test_wrong_line_is_named_by_file_and_number(tmp_path: Path, line: str, said: str) -> None:
    message = message_of(write(tmp_path, '{"prompt": "fine"}\n\n' + line, "prompts.jsonl"))
    assert "prompts.jsonl:3: " in message
    assert said in message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.jsonl", '{"prompt": "a", "duration_s": null, "id": null}'),
        ("p.jsonl", '{"prompt": "a", "duration_s": NaN, "id": NaN, "source": null}'),
        ("p.jsonl", '{"prompt": "a"}'),
        ("p.csv", "prompt,duration_s,id\na,,\n"),
        ("p.csv", "prompt,duration_s,id\na,nan,\n"),
        ("p.csv", " prompt , duration_s,id,\na,,,\n"),
        ("p.txt", "a"),
    ],
)
def test_null_is_absent_in_every_kind_of_file(tmp_path: Path, name: str, content: str) -> None:
    assert load(write(tmp_path, content, name)) == [Prompt("p000001", "a", 2.0)]


def test_duplicate_ids_are_refused_with_both_lines(tmp_path: Path) -> None:
    message = message_of(jsonl(tmp_path, {"prompt": "a", "id": "x"}, {"prompt": "b"}, {"prompt": "c", "id": "x"}))
    assert "prompts.jsonl:3: id 'x' is also that of line 1" in message


def test_a_file_that_changes_while_it_is_used_is_refused(tmp_path: Path) -> None:
    bank = PromptFile(write(tmp_path, "a dog\na bell\n"), 2.0, 4.0)
    assert [prompt.text for prompt in bank] == [prompt.text for prompt in bank] == ["a dog", "a bell"]
    write(tmp_path, "a dog\na bell\na siren\n")
    with pytest.raises(DataError, match=r"prompts\.txt was changed while it was used"):
        iter(bank)


def test_a_bank_is_read_line_by_line_and_takes_little_memory_however_many_there_are(tmp_path: Path) -> None:
    lines = "".join(f"a dog barks for the time number {index}\n" for index in range(50_000))
    file = write(tmp_path, lines)
    tracemalloc.start()
    bank = PromptFile(file, 2.0, 4.0)
    drawn = draw_prompts(bank, 10, 0, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(bank), len(drawn)) == (50_000, 10)
    assert peak < 40 * len(bank), "a prompt alone takes some 300 bytes"


def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    assert "prompts.txt:2: the line is longer than" in message_of(write(tmp_path, "a dog\n" + "x" * 2**21))


def test_given_id_may_not_be_one_that_another_row_gets_by_its_place(tmp_path: Path) -> None:
    assert "'p000002'" in message_of(jsonl(tmp_path, {"prompt": "a", "id": "p000002"}, {"prompt": "b"}))


BANK = [Prompt(f"p{index:03d}", f"sound {index}", 2.0) for index in range(50)]


def test_draw_is_without_replacement_and_sorted_by_id() -> None:
    drawn = draw_prompts(BANK, 20, seed=0, iteration=1)
    assert len({prompt.id for prompt in drawn}) == 20
    assert drawn == sorted(drawn, key=lambda prompt: prompt.id)
    assert draw_prompts(BANK, 50, seed=0, iteration=1) == BANK


def test_draw_depends_on_seed_and_iteration_but_not_on_the_banks_order() -> None:
    drawn = draw_prompts(BANK, 20, seed=0, iteration=1)
    assert draw_prompts(BANK[::-1], 20, seed=0, iteration=1) == drawn
    assert draw_prompts(BANK, 20, seed=1, iteration=1) != drawn
    assert draw_prompts(BANK, 20, seed=0, iteration=2) != drawn


def test_bank_smaller_than_a_draw_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"draws 51 different prompts, but the bank has 50.*--prompts-per-iteration"):
        draw_prompts(BANK, 51, seed=0, iteration=1)
