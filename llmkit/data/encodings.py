"""Character encodings of text files: what is wrong with one, and the encoding under which the text is plausible."""

import codecs
import re

import charset_normalizer

from llmkit.errors import UsageError, suggest

USUAL = (
    "gb18030", "cp1252", "big5", "cp932", "cp949", "cp1251", "cp1250", "cp1254", "cp1253", "cp1255", "cp1256", "euc_jp",
    "koi8_r",
)  # fmt: skip
"""Encodings that are proposed; the first of several that are about as plausible."""
MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""Byte-order marks; that of UTF-32 begins with one of UTF-16."""
NEAR = (0.04, 0.2)
"""Differences in charset-normalizer's mess and coherence that say nothing on short texts."""


def check(name: str) -> None:
    """Raise UsageError unless `name` is an encoding of text that Python knows."""
    try:
        "".encode(name)
    except (LookupError, UnicodeError, TypeError):
        known = [*USUAL, "utf-8", "utf-16", "latin-1"]
        raise UsageError(f"data.encoding: no encoding {name!r}; {suggest(name, known)}") from None


def by_zeros(head: bytes) -> str:
    """Return the form of UTF-16 without a mark that `head` is in; empty if it is not. Western text is half zeros."""
    zeros = {"utf-16-be": head[::2].count(0), "utf-16-le": head[1::2].count(0)}
    name = max(zeros, key=zeros.__getitem__)
    return name if zeros[name] > len(head) / 4 else ""


def fault(content: bytes, encoding: str) -> str:
    """Say which byte of a file is not in `encoding`, and how the most plausible other encoding reads it."""
    try:
        content.decode(encoding)
        at, reason = content.find(b"\0"), "is zero"
    except UnicodeDecodeError as e:
        at, reason = e.start, f"is not {encoding.upper()} (0x{content[e.start]:02x})"
    if (name := likeliest(content)) in ("", encoding):
        return f"byte {at} {reason}, and no usual encoding fits; is it a text file?"
    text, position = content.decode(name, "replace"), len(content[:at].decode(name, "ignore"))
    shown = " ".join(text[max(position - 15, 0) : position + 15].split())
    return f"byte {at} {reason}; --data.encoding {name} reads it as {shown!r}"


def likeliest(content: bytes) -> str:
    """Return the encoding in which `content` is the most plausible text; empty if there is none.

    charset-normalizer's own choice, among a hundred encodings, garbles a fifth of short texts. Among the usual ones, in
    their order where it sees little difference, few are garbled. Long passages in ASCII tell nothing and are left out.
    """
    if name := next((n for mark, n in MARKS.items() if content.startswith(mark)), by_zeros(content[:10_000])):
        return name
    passages = b"\n".join(re.findall(rb"[\0-\x7f]{0,16}(?:[\x80-\xff]+[\0-\x7f]{0,16})+", content))
    matches = charset_normalizer.from_bytes(passages, cp_isolation=[*USUAL], threshold=0.6)
    found = [(m.chaos, -m.coherence, name) for m in matches for name in m.could_be_from_charset if name in USUAL]
    for i, near in enumerate(NEAR):
        best = min((match[i] for match in found), default=0)
        found = [match for match in found if match[i] <= best + near]
    return min((name for _, _, name in found), key=USUAL.index, default="")
