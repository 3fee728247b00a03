"""Files of data: every format of text can be read in every encoding, compressed or not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from llmkit import DataConfig, UsageError
from llmkit.data import files, sources

ROWS = [{"text": "le café – naïve", "label": "a"}, {"text": "“déçu”", "label": "b"}]
CONTENT = {
    "a.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS),
    "a.json": json.dumps(ROWS, ensure_ascii=False),
    "a.csv": "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS),
    "a.tsv": "text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in ROWS),
    "a.txt": "".join(f"{row['text']}\n" for row in ROWS),
    "a.md": "".join(f"{row['text']}\n" for row in ROWS),
    "a.conll": "café\tB-X\nnaïve\tO\n",
    "a.conllu": "1\tcafé\tcafé\tNOUN\t_\t_\t0\troot\t_\t_\n",
}


def rows(path: Path, encoding: str = "utf-8") -> list[dict]:
    config = DataConfig(document="line", encoding=encoding)
    return [row for source in sources.find(path, "train", config) for _, row in source.rows()]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("compression", ["", ".gz", ".GZ"])
@pytest.mark.parametrize("name", CONTENT)
def test_every_format_of_text_is_read_in_its_encoding(
    tmp_path: Path, name: str, compression: str, encoding: str
) -> None:
    (tmp_path / name).write_text(CONTENT[name], encoding="utf-8")
    encoded, path = CONTENT[name].encode(encoding), tmp_path / f"{encoding}.{name}{compression}"
    path.write_bytes(gzip.compress(encoded) if compression else encoded)
    assert rows(path, encoding) == rows(tmp_path / name)


def test_a_byte_order_mark_is_removed_whatever_the_encoding_is_called(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf8", "utf-16-le"):
        (tmp_path / "a.csv").write_bytes("\ufefftext\na\n".encode(encoding))
        assert rows(tmp_path / "a.csv", encoding) == [{"text": "a"}]


def test_text_with_zeros_that_is_not_utf16_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a fine film\0 indeed\n")
    assert rows(tmp_path / "a.txt") == [{"text": "a fine film\0 indeed"}]


def test_a_file_that_is_not_compressed_as_its_name_says_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(b"not compressed")
    with pytest.raises(UsageError, match=r"a\.txt\.gz: cannot be read"):
        rows(tmp_path / "a.txt.gz")


@pytest.mark.parametrize(
    ("name", "suffix"), [("a.jsonl", ".jsonl"), ("b.JSONL.zst", ".jsonl"), ("c.en.gz", ".en"), ("d.gz", ""), ("e", "")]
)
def test_suffix_of_a_file_is_that_of_its_content(name: str, suffix: str) -> None:
    assert files.suffix_of(Path(name)) == suffix
