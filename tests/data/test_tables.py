"""Tables: quotes enclose fields, as pandas writes them, or are characters, as in the .tsv files of GLUE and WMT."""

from __future__ import annotations

import csv
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from llmkit import DataConfig, UsageError
from llmkit.data import sources

SWALLOWING = 'sentence{0}label\n"charming{0}0\nplain{0}1\nends"{0}0\n'
"""Both readings fit: three rows, or one whose quoted field spans lines."""


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8", newline="")
    return path


def rows(path: Path, **fields: Any) -> list[Any]:
    return [row for _, row in sources.find(path, "train", DataConfig(**fields))[0].rows()]


def fault(path: Path, **fields: Any) -> str:
    with pytest.raises(UsageError) as error:
        rows(path, **fields)
    (line,) = error.value.faults
    return line


@pytest.mark.parametrize("line", ['"A", he said', 'he said "A"', '5" pipe', '"', '"A" and "B"', '"open'])
def test_quotes_of_a_tsv_that_does_not_quote_are_characters(tmp_path: Path, line: str, capsys) -> None:
    """One line decides for the whole file."""
    sentences = ['"charming', "plain", 'ends"', '"both"', line]
    content = "sentence\tlabel\n" + "".join(f"{sentence}\t{i}\n" for i, sentence in enumerate(sentences))
    path = write(tmp_path / "train.tsv", content)
    expected = [{"sentence": sentence, "label": f"{i}"} for i, sentence in enumerate(sentences)]
    assert rows(path) == rows(path) == expected
    assert capsys.readouterr().err.count(f"{path}: quotes are read as characters (line ") == 1


def test_mrpc_and_cola_are_read_as_glue_ships_them(tmp_path: Path) -> None:
    first, second = 'his brother , whom he called " the witness " , of it .', '" The witness " , he said .'
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
    mrpc = write(tmp_path / "msr_paraphrase_train.txt.tsv", f"{header}1\t702876\t702977\t{first}\t{second}\r\n")
    row = {"Quality": "1", "#1 ID": "702876", "#2 ID": "702977", "#1 String": first, "#2 String": second}
    assert rows(mrpc) == [row]
    cola = write(tmp_path / "cola.tsv", "gj04\t1\t\tOur friends won't buy this.\ngj04\t0\t*\tThe \"car honked.\n")
    assert [(r["label"], r["text"]) for r in rows(cola, names=("source,label,mark,text",))] == [
        ("1", "Our friends won't buy this."), ("0", 'The "car honked.')
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "delimiter"), [("a.tsv", "\t"), ("a.csv", ",")])
@pytest.mark.parametrize("quoting", [0, 1])
def test_tables_of_pandas_are_read_back(tmp_path: Path, name: str, delimiter: str, quoting: int) -> None:
    texts = ['He said "hi"', '"', "a\tb, c", "two\nlines", "two, with\ta\nseparator, twice\t", '"open', "", " x "]
    table = pd.DataFrame({"text": texts, "label": [str(i) for i in range(len(texts))]})
    table.to_csv(tmp_path / name, sep=delimiter, index=False, quoting=quoting)
    assert rows(tmp_path / name) == table.to_dict("records")


@pytest.mark.parametrize(("name", "delimiter"), [("a.tsv", "\t"), ("a.csv", ",")])
def test_a_quoted_field_that_holds_whole_rows_is_refused_with_a_command(
    tmp_path: Path, name: str, delimiter: str
) -> None:
    line = fault(write(tmp_path / name, SWALLOWING.format(delimiter)))
    assert line.startswith(f"{tmp_path / name} line 4: ends a quoted field that holds whole rows; ")
    assert [row["sentence"] for row in _obey(line, tmp_path)] == ['"charming', "plain", 'ends"']
    enclosing = _obey(line.replace(", quoting=3", ""), tmp_path)
    assert enclosing == [{"sentence": f"charming{delimiter}0\nplain{delimiter}1\nends", "label": "0"}]


def test_the_command_keeps_names_and_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes('"café,0\nends",1\n'.encode("cp1252"))
    line = fault(tmp_path / "a.csv", names=("text,label",), encoding="cp1252")
    assert _obey(line, tmp_path) == [{"text": '"café', "label": "0"}, {"text": 'ends"', "label": "1"}]


def _obey(line: str, folder: Path) -> list[dict]:
    """Run the command in a message, and return the rows of the file it writes."""
    _, _, command = line.partition("python -c ")
    code = shlex.split(command.rpartition(";")[0])[0]
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    return rows(folder / "a.jsonl")


def test_quoted_fields_that_span_lines_are_read_if_the_file_shows_that_quotes_enclose(tmp_path: Path) -> None:
    """The first row could be two; the last line has too many fields for a row without quotes."""
    path = write(tmp_path / "a.csv", 'text,label\n"Hello, world\nsecond line",1\n"one, two, three",0\n')
    assert [row["text"] for row in rows(path)] == ["Hello, world\nsecond line", "one, two, three"]


def test_csv_with_quotes_as_characters_is_refused_with_a_command(tmp_path: Path) -> None:
    line = fault(write(tmp_path / "a.csv", 'text,label\n"one" said,1\n"two,0\n'))
    assert "a.csv line 2: not CSV" in line
    assert [row["text"] for row in _obey(line, tmp_path)] == ['"one" said', '"two']


def test_a_changed_file_is_looked_at_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'text\tlabel\nsay "a"\t1\n')
    assert rows(path)[0]["text"] == 'say "a"'
    write(path, 'text\tlabel\n"say ""a"" now"\t1\n')
    assert rows(path)[0]["text"] == 'say "a" now'


def test_long_fields_are_read_and_the_limit_of_the_process_stays(tmp_path: Path) -> None:
    (tmp_path / "long.csv").write_text(f"text,label\n{'x' * 200_000},1\n")
    limit = csv.field_size_limit()
    ((_, row),) = sources.read(sources.find(str(tmp_path / "long.csv"), "train"))
    assert (len(row["text"]), csv.field_size_limit()) == (200_000, limit)
