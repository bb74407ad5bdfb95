"""Files that are there as a whole or not at all, and tables."""

import csv
from pathlib import Path

import pytest

from fastvit.files import as_whole, write_table


def test_what_fails_leaves_the_file_that_was_there(tmp_path: Path):
    path = tmp_path / "answers.json"
    with as_whole(path) as unfinished:
        unfinished.write_text("first")
        assert not path.exists()

    def write_half() -> None:
        with as_whole(path) as unfinished:
            unfinished.write_text("sec")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_is_what_csv_reads(tmp_path: Path):
    rows = [["a, b", "1"], ['"c"', "ü\nü"]]
    write_table(tmp_path / "table.csv", ("name", "value"), iter(rows))
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["name", "value"], *rows]


def test_a_file_name_that_is_no_text_stays_as_it_is_in_a_table(tmp_path: Path):
    write_table(tmp_path / "table.csv", ("name",), [[b"caf\xe9.png".decode(errors="surrogateescape")]])
    assert (tmp_path / "table.csv").read_bytes() == b"name\ncaf\xe9.png\n"
