"""What sentence-transformers (from 2 on) keeps beside a model: how tokens become one vector, and how many are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmkit.errors import RecipeError

KNOWN = ("mean", "cls")
MODULES = ("Transformer", "Pooling", "Normalize")  # a vector of length one is what both give then


def read(folder: Path) -> tuple[str | None, int | None, list[str]]:
    """`(mean or cls, tokens of a text that are read, what else is done to a vector)` as the folder says; None where it
    says nothing. Raises RecipeError for a file that cannot be read."""
    if not (folder / "modules.json").exists():
        return None, None, []
    modules = _json(folder / "modules.json")
    try:
        kinds = {str(m["type"]).rpartition(".")[2]: Path(m["path"]).name for m in modules}  # never outside the folder
    except (TypeError, KeyError):
        raise RecipeError(f"{folder / 'modules.json'}: no list of modules, each with type and path") from None
    pooling = _json(folder / kinds["Pooling"] / "config.json") if "Pooling" in kinds else {}
    mode = pooling.get("pooling_mode") or [
        key.removeprefix("pooling_mode_").removesuffix("s").removesuffix("_token")
        for key, on in pooling.items()
        if on is True and key.startswith("pooling_mode_")
    ]
    modes = [mode] if isinstance(mode, str) else list(mode)
    more = [kind for kind in kinds if kind not in MODULES]
    if len(modes) > 1 or set(modes) - set(KNOWN):
        more.append(f"pooling by {' and '.join(modes)}")
    sizes = _json(folder / "sentence_bert_config.json") if (folder / "sentence_bert_config.json").exists() else {}
    return (modes[0] if modes and not more else None), sizes.get("max_seq_length"), more


def write(folder: Path, pooling: str, longest: int | None, width: int) -> None:
    """The files by which sentence-transformers knows the folder, and gives the vectors that llmkit gives."""
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(MODULES)
    ]
    modes = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for name, content in {
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": width, **modes},
        "sentence_bert_config.json": {"max_seq_length": longest, "do_lower_case": False},
        "config_sentence_transformers.json": {"similarity_fn_name": "cosine"},
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise RecipeError(f"{path}: cannot be read ({str(e).splitlines()[0]})") from None
