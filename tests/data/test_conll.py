"""CoNLL files: separators, `#` words, comments, predicates, and the line of every fault."""

from __future__ import annotations

import gzip
from pathlib import Path

import datasets
import pytest

from llmkit.data import sources
from llmkit.data.loading import load_part
from llmkit.errors import UsageError
from llmkit.recipe import DataConfig
from llmkit.tasks import SemanticRoles, TokenClassification

CONLLU = """# sent_id = 1
# text = Bush nominated two individuals to replace jurists
1	Bush	Bush	PROPN	NNP	_	2	nsubj	_	_	_	ARG0	_
2	nominated	nominate	VERB	VBD	_	0	root	_	_	nominate.01	V	_
3	two	two	NUM	CD	_	4	nummod	_	_	_	_	_
4	individuals	individual	NOUN	NNS	_	2	obj	_	_	_	ARG1	ARG0
5	to	to	PART	TO	_	6	mark	_	_	_	_	_
6	replace	replace	VERB	VB	_	2	advcl	_	_	replace.01	ARG2	V
7	jurists	jurist	NOUN	NNS	_	6	obj	_	_	_	_	ARG1

1	***	***	PUNCT	NFP	_	0	root	_	_	_	¶

1-2	vámonos	_	_	_	_	_	_	_	_
1	vamos	ir	VERB	_	_	0	root	_	_
2	nos	nosotros	PRON	_	_	1	obj	_	_
2.1	ya	ya	ADV	_	_	_	_	1:advmod	_

""".replace("¶", "")  # a sentence without predicates ends in an empty column


def rows(path: Path, content: str) -> list:
    path.write_text(content, encoding="utf-8")
    return list(sources.find(path, "train")[0].rows())


def test_tabs_separate_columns_and_a_hash_may_be_a_word(tmp_path: Path) -> None:
    """As in WNUT 2017: a line of one tab between sentences, the word `#`, and words with spaces."""
    content = "# \tO\n#tag\tO\nNew York\tB-location\n\t\n北京\tB-location\r\n\r\n\n#\tO\n"
    sentences = rows(tmp_path / "a.conll", content)
    assert [row["tokens"] for _, row in sentences] == [["# ", "#tag", "New York"], ["北京"], ["#"]]
    assert sentences[1][1]["tags"] == ["B-location"]
    assert sentences[1][0] == f"{tmp_path / 'a.conll'} line 5"


def test_spaces_separate_columns_and_the_last_is_the_tag(tmp_path: Path) -> None:
    content = "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n"
    ((_, row),) = rows(tmp_path / "eng.train.iob", content)
    assert row["tokens"] == ["EU", "rejects"] and row["tags"] == ["B-ORG", "O"]
    assert row["column 3"] == ["B-NP", "B-VP"]


def test_a_comment_before_a_sentence_is_skipped(tmp_path: Path) -> None:
    content = "# id 7\tdomain=en\nBerlin _ _ B-LOC\n\n# id 8\tdomain=en\n# _ _ O\n"
    assert [row["tokens"] for _, row in rows(tmp_path / "a.conll", content)] == [["Berlin"], ["#"]]


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("a\tO\nb\nc\tO\n", 2, "1 column in 'b', the first sentence has 2"),
        ("a\tO\n\nb\tO\tO\n", 3, "3 columns"),
        ("a\tO\nb\t\n", 2, "an empty column"),
        ("plain text\n\nno\n", 3, "1 column in 'no'"),
        ("words\nalone\n", 1, "1 column in 'words', expected a word and its tag"),
    ],
)
def test_an_invalid_line_is_named(tmp_path: Path, content: str, line: int, message: str) -> None:
    invalid = [(where, str(row)) for where, row in rows(tmp_path / "a.conll", content) if isinstance(row, ValueError)]
    assert invalid[0][0] == f"{tmp_path / 'a.conll'} line {line}" and message in invalid[0][1]
    with pytest.raises(UsageError, match=f"a.conll line {line}: .*correct them"):
        load_part(tmp_path / "a.conll", TokenClassification(), DataConfig())


def test_compressed_conllu_with_predicates(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "dev.conllu.gz", "wt", encoding="utf-8") as file:
        file.write(CONLLU)
    sentences = [row for _, row in sources.find(tmp_path / "dev.conllu.gz", "train")[0].rows()]
    assert [row["tokens"] for row in sentences][1:] == [["***"], ["vamos", "nos"]]
    assert sentences[0]["upos"][:2] == ["PROPN", "VERB"] and sentences[0]["heads"][:2] == [1, -1]
    assert [len(row["head_frames"]) for row in sentences] == [2, 0, 0]
    assert sentences[0]["head_frames"][1] == {"predicate": 5, "tags": ["O", "O", "O", "ARG0", "O", "V", "ARG1"]}
    first, second = (frame["tags"] for frame in sentences[0]["frames"])
    assert first == ["B-ARG0", "V", "B-ARG1", "I-ARG1", "B-ARG2", "I-ARG2", "I-ARG2"]
    assert second == ["O", "O", "B-ARG0", "I-ARG0", "O", "V", "B-ARG1"]


def test_each_predicate_is_a_row_and_a_sentence_stays_in_one_part(tmp_path: Path) -> None:
    (tmp_path / "a.conllu").write_text(CONLLU, encoding="utf-8")
    task = SemanticRoles()
    phrases = load_part(tmp_path / "a.conllu", task, DataConfig())
    assert phrases["predicate"][:] == [1, 5] and phrases["tags"][0][1] == "O"
    heads = load_part(tmp_path / "a.conllu", task, DataConfig(columns={"frames": "head_frames"}))
    assert heads["tags"][0] == ["B-ARG0", "O", "O", "B-ARG1", "O", "B-ARG2", "O"]
    assert task.split_group == "tokens"


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("1\tBush\n", 1, "2 columns, but CoNLL-U has at least 10"),
        ("# text\nx\t" + "_\t" * 9 + "_\n", 2, "'x' is not the id of a word"),
        (CONLLU.replace("\treplace.01\t", "\t_\t"), 3, "1 predicate, but 2 columns of roles"),
        (CONLLU.replace("\t2\tnsubj", "\t9\tnsubj"), 3, "word 9 is a head, in a sentence of 7 words"),
    ],
)
def test_an_invalid_line_of_conllu_is_named(tmp_path: Path, content: str, line: int, message: str) -> None:
    where, row = rows(tmp_path / "a.conllu", content)[0]
    assert where == f"{tmp_path / 'a.conllu'} line {line}" and message in str(row)


def test_tags_of_a_dataset_are_read_by_name(tmp_path: Path) -> None:
    """Datasets of the hub hold `ner_tags` as numbers, and their names in the features."""
    tags = datasets.List(datasets.ClassLabel(names=["O", "B-PER"]))
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "ner_tags": tags})
    dataset = datasets.Dataset.from_dict({"tokens": [["Mia", "ran"]], "ner_tags": [[1, 0]]}, features=features)
    assert load_part(dataset, TokenClassification(), DataConfig())[0]["tags"] == ["B-PER", "O"]
    dataset.save_to_disk(str(tmp_path / "saved"))
    assert load_part(str(tmp_path / "saved"), TokenClassification(), DataConfig())[0]["tags"] == ["B-PER", "O"]
