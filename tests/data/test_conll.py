"""CoNLL files as they come: separators, `#` words, comments, predicates, and the line of every fault."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from llmkit.data import load_part, sources
from llmkit.errors import RecipeError
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


def test_a_tab_parts_columns_and_a_hash_may_be_a_word(tmp_path: Path) -> None:
    """As in WNUT 2017: sentences parted by a line of one tab, `#` and words with blanks in them."""
    content = "# \tO\n#tag\tO\nNew York\tB-location\n\t\n北京\tB-location\r\n\r\n\n#\tO\n"
    found = rows(tmp_path / "a.conll", content)
    assert [row["tokens"] for _, row in found] == [["# ", "#tag", "New York"], ["北京"], ["#"]]
    assert found[1][1]["tags"] == ["B-location"]
    assert found[1][0] == f"{tmp_path / 'a.conll'} line 5"


def test_spaces_part_columns_too_and_the_last_is_the_tag(tmp_path: Path) -> None:
    content = "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n"
    ((_, row),) = rows(tmp_path / "eng.train.iob", content)
    assert row["tokens"] == ["EU", "rejects"] and row["tags"] == ["B-ORG", "O"]
    assert row["column 3"] == ["B-NP", "B-VP"]


def test_a_comment_before_a_sentence_is_none_of_its_words(tmp_path: Path) -> None:
    content = "# id 7\tdomain=en\nBerlin _ _ B-LOC\n\n# id 8\tdomain=en\n# _ _ O\n"
    assert [row["tokens"] for _, row in rows(tmp_path / "a.conll", content)] == [["Berlin"], ["#"]]


@pytest.mark.parametrize(
    ("content", "line", "why"),
    [
        ("a\tO\nb\nc\tO\n", 2, "1 column in 'b', the first sentence has 2"),
        ("a\tO\n\nb\tO\tO\n", 3, "3 columns"),
        ("a\tO\nb\t\n", 2, "an empty column"),
        ("plain text\n\nno\n", 3, "1 column in 'no'"),
        ("words\nalone\n", 1, "1 column in 'words', a word and its tag are two"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: str, line: int, why: str) -> None:
    bad = [(where, str(row)) for where, row in rows(tmp_path / "a.conll", content) if isinstance(row, ValueError)]
    assert bad[0][0] == f"{tmp_path / 'a.conll'} line {line}" and why in bad[0][1]
    with pytest.raises(RecipeError, match=f"a.conll line {line}: .*mend them"):
        load_part(tmp_path / "a.conll", TokenClassification(), DataConfig())


def test_conllu_with_predicates_packed(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "dev.conllu.gz", "wt", encoding="utf-8") as file:
        file.write(CONLLU)
    found = [row for _, row in sources.find(tmp_path / "dev.conllu.gz", "train")[0].rows()]
    assert [row["tokens"] for row in found][1:] == [["***"], ["vamos", "nos"]]
    assert found[0]["upos"][:2] == ["PROPN", "VERB"] and found[0]["heads"][:2] == [1, -1]
    assert [len(row["head_frames"]) for row in found] == [2, 0, 0]
    assert found[0]["head_frames"][1] == {"predicate": 5, "tags": ["O", "O", "O", "ARG0", "O", "V", "ARG1"]}
    first, second = (frame["tags"] for frame in found[0]["frames"])
    assert first == ["B-ARG0", "V", "B-ARG1", "I-ARG1", "B-ARG2", "I-ARG2", "I-ARG2"]
    assert second == ["O", "O", "B-ARG0", "I-ARG0", "O", "V", "B-ARG1"]


def test_each_predicate_is_a_row_and_a_sentence_stays_on_one_side(tmp_path: Path) -> None:
    (tmp_path / "a.conllu").write_text(CONLLU, encoding="utf-8")
    task = SemanticRoles()
    kept = load_part(tmp_path / "a.conllu", task, DataConfig())
    assert kept["predicate"][:] == [1, 5] and kept["tags"][0][1] == "O"
    heads = load_part(tmp_path / "a.conllu", task, DataConfig(columns={"frames": "head_frames"}))
    assert heads["tags"][0] == ["B-ARG0", "O", "O", "B-ARG1", "O", "B-ARG2", "O"]
    assert task.document == "tokens"


@pytest.mark.parametrize(
    ("content", "line", "why"),
    [
        ("1\tBush\n", 1, "2 columns, CoNLL-U has 10 and more"),
        ("# text\nx\t" + "_\t" * 9 + "_\n", 2, "no word has the id 'x'"),
        (CONLLU.replace("\treplace.01\t", "\t_\t"), 3, "1 predicates and 2 columns of roles"),
        (
            CONLLU.replace("\t6\tnsubj", "\t9\tnsubj").replace("\t2\tnsubj", "\t9\tnsubj"),
            3,
            "word 9 is a head, in a sentence of 7 words",
        ),
    ],
)
def test_a_bad_line_of_conllu_is_named(tmp_path: Path, content: str, line: int, why: str) -> None:
    where, row = rows(tmp_path / "a.conllu", content)[0]
    assert where == f"{tmp_path / 'a.conllu'} line {line}" and why in str(row)


def test_names_of_tags_are_found_on_a_dataset(tmp_path: Path) -> None:
    """`ner_tags` of the hub are numbers, whose names the features hold."""
    import datasets

    kind = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER"])),
        }
    )
    dataset = datasets.Dataset.from_dict({"tokens": [["Mia", "ran"]], "ner_tags": [[1, 0]]}, features=kind)
    assert load_part(dataset, TokenClassification(), DataConfig())[0]["tags"] == ["B-PER", "O"]
    dataset.save_to_disk(str(tmp_path / "saved"))
    assert load_part(str(tmp_path / "saved"), TokenClassification(), DataConfig())[0]["tags"] == ["B-PER", "O"]
