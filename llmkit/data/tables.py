"""Tables of text: .csv, .tsv and tab-separated .txt files, with quotes that enclose fields or are characters."""

import csv
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from llmkit.data.files import File, RawRow, lines_of, state_of
from llmkit.errors import UsageError
from llmkit.log import log

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
"""Delimiters of tables; a .txt file is one if `data.names` are given."""


def read(file: File) -> Iterator[RawRow]:
    """Yield the rows of a table, with the columns of its first line, or `data.names` if it has no header line."""
    limit = csv.field_size_limit(2**31 - 1)  # of the process
    try:
        yield from _read(file)
    finally:
        csv.field_size_limit(limit)


def _read(file: File) -> Iterator[RawRow]:
    path, names, delimiter = file.path, file.config.names, DELIMITERS[file.suffix]
    quoting, doubtful = csv.QUOTE_NONE, 0
    if file.suffix != ".txt":
        quoting, doubtful = _quoting(path, state_of(path), file.config.encoding, delimiter)
    if doubtful:
        raise UsageError(f"{path} line {doubtful}: ends a quoted field that holds whole rows; {_conversion(file)}")
    reader = csv.reader(file.lines(), delimiter=delimiter, quoting=quoting, strict=True)
    try:
        header = names or next(reader, ())
        if len(header) == 1 and not names and (other := next((c for c in ";\t|" if c in header[0]), None)):
            raise UsageError(f"{path}: columns are separated by {other!r}; save it with commas, or with tabs as .tsv")
        if duplicates := sorted({repr(name) for name in header if header.count(name) > 1}):
            raise UsageError(f"{path}: {', '.join(duplicates)} is in the header twice; name each column once")
        for values in filter(None, reader):
            where = f"{path} line {reader.line_num}"
            if tuple(values) == names:
                raise UsageError(f"{where}: is a header line; leave out data.names")
            if len(values) != len(header):  # csv.DictReader would accept it
                owner = "data.names" if names else "the header"
                yield where, ValueError(f"{len(values)} fields where {owner} has {len(header)}")
            else:
                yield where, dict(zip(header, values, strict=True))
    except csv.Error as e:
        raise UsageError(f"{path} line {reader.line_num}: not CSV ({e}); {_conversion(file)}") from None


@functools.cache
def _quoting(path: Path, state: object, encoding: str, delimiter: str) -> tuple[int, int]:
    """Return how csv reads the quotes of a table, and a line from which on both ways may be meant, or 0.

    In a .tsv file a quote is a character (GLUE, WMT) if any in it does not enclose a field as in CSV. Both may be meant
    if a quoted field holds lines that are rows by themselves, and no line of the file has too many fields for a row.
    """
    cell = rf'(?:"(?:[^"]|"")*+"|[^"{delimiter}\r\n]*+)'
    quoted_row = re.compile(rf"{cell}(?:{delimiter}{cell})*+[\r\n]*")
    taken: list[str] = []
    width = most = doubtful = 0

    def lines() -> Iterator[str]:
        for line in lines_of(path, encoding):
            taken.append(line)
            yield line

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    try:
        for values in reader:
            widths = {line.count(delimiter) + 1 for line in taken}
            width, most = width or len(values), max(most, *widths)
            if delimiter == "\t" and not quoted_row.fullmatch("".join(taken)):
                raise csv.Error
            if len(taken) > 1 and widths == {width} and any(delimiter in value for value in values):
                doubtful = doubtful or reader.line_num
            taken.clear()
    except csv.Error:
        if delimiter == "\t":
            log(f"{path}: quotes are read as characters (line {reader.line_num} is not quoted as in CSV)", "data")
            return csv.QUOTE_NONE, 0
    return csv.QUOTE_MINIMAL, doubtful if most == width else 0


def _conversion(file: File) -> str:
    """The command that makes a table with quotes as characters a .jsonl file, where nothing is quoted."""
    names, delimiter, encoding = file.config.names, DELIMITERS[file.suffix], file.config.encoding
    options = f"sep={delimiter!r}, encoding={encoding!r}, dtype=str, keep_default_na=False"
    options += f", names={[*names]}" if names else ""
    write = f"to_json({file.path.name.partition('.')[0] + '.jsonl'!r}, orient='records', lines=True)"
    code = f"import pandas; pandas.read_csv({str(file.path)!r}, {options}, quoting=3).{write}"
    return f'if a quote is a character here: python -c "{code}"; if not, leave out quoting=3'
