"""Encodings: the one under which a text is plausible is proposed, and reads the file."""

from __future__ import annotations

from typing import Any

import pytest

from llmkit.data import encodings
from llmkit.errors import UsageError

FRENCH = "Le garçon a été très déçu par la fête à Noël. Où est passée la forêt ?"
ENGLISH = (
    "text,label\n" + "a fine film,positive\n" * 50 + "the café’s “naïve” owner,negative\nIran’s minister,negative\n"
)
CHINESE = "从前，有一只小猫，睡在温暖的面粉里。"
TEXTS = {
    "French": (FRENCH, "cp1252"),
    "German": ("Die schöne Müllerin aß süße Äpfel über der Straße.", "cp1252"),
    "English with few accents": (ENGLISH, "cp1252"),
    "one line, mostly ASCII": ('[{"text": "a film"}, ' * 200 + '{"text": "für Müller, naïve"}]', "cp1252"),
    "Chinese": (CHINESE, "gb18030"),
    "one Chinese character": ('{"text": "a"}\n' * 2000 + "从", "gb18030"),
    "Chinese and English": ("text,label\nThe film is good,positive\n太好看了，推荐,positive\n", "gb18030"),
    "traditional Chinese": ("從前，有一隻小貓，睡在溫暖的麵粉裡。", "big5"),
    "Japanese": ("昔々、あるところにおじいさんとおばあさんがいました。", "cp932"),
    "Korean": ("옛날 옛적에 작은 고양이가 따뜻한 밀가루 속에서 잠을 잤다.", "cp949"),
    "Russian": ("Жил-был кот, который спал в тёплой муке.", "cp1251"),
    "Polish": ("Zażółć gęślą jaźń, proszę pana. Miło mi, że chcesz przyjść w środę na łąkę.", "cp1250"),
    "UTF-16 with a mark": (ENGLISH, "utf-16"),
    "UTF-16 without a mark": (ENGLISH, "utf-16-le"),
    "big-endian UTF-16 without a mark": (ENGLISH, "utf-16-be"),
    "UTF-32": (ENGLISH, "utf-32"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_encoding_in_which_a_text_is_plausible_is_proposed(name: str) -> None:
    text, encoding = TEXTS[name]
    content = text.encode(encoding)
    assert content.decode(encodings.likeliest(content)).removeprefix("\ufeff") == text
    assert f"--data.encoding {encodings.likeliest(content)} reads it as '" in encodings.fault(content, "utf-8")


def test_the_fault_shows_the_byte_and_how_it_would_be_read() -> None:
    line = encodings.fault(b"a fine film\n" * 100 + "the café is nice".encode("cp1252"), "utf-8")
    assert line == "byte 1207 is not UTF-8 (0xe9); --data.encoding cp1252 reads it as 'ne film the café is nice'"


def test_a_wrong_encoding_is_named_and_another_one_proposed() -> None:
    line = encodings.fault(CHINESE.encode("gb18030"), "ascii")
    assert line.startswith("byte 0 is not ASCII (0xb4); --data.encoding gb18030")


@pytest.mark.parametrize(("content", "encoding"), [(bytes(range(256)) * 4, "utf-8"), (b"\xff\xfea\0b", "utf-16")])
def test_no_encoding_is_proposed_for_what_is_not_text(content: bytes, encoding: str) -> None:
    assert encodings.fault(content, encoding).endswith("and no usual encoding fits; is it a text file?")


@pytest.mark.parametrize("name", ["cp12522", "rot13", "base64", "", None])
def test_an_unknown_encoding_is_refused(name: Any) -> None:
    with pytest.raises(UsageError, match=r"data\.encoding: no encoding"):
        encodings.check(name)


@pytest.mark.parametrize("name", ["utf-8", "UTF8", "latin-1", "Windows-1252", *encodings.USUAL])
def test_known_encodings_are_accepted(name: str) -> None:
    encodings.check(name)
