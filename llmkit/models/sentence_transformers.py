"""The files of sentence-transformers (2.0 and later) beside a model: pooling and maximum length."""

import json
import re
from pathlib import Path
from typing import Any

from llmkit.errors import UsageError, as_usage_error

POOLING = ("mean", "cls")
MODULES = ("Transformer", "Pooling", "Normalize")
"""Modules that SentenceEmbedding computes as well. It always normalizes."""


def read(folder: Path) -> tuple[str | None, int | None, list[str]]:
    """Return what the files in a folder say: pooling (mean or cls), max_seq_length, and steps llmkit does not compute.

    Pooling and max_seq_length are None where the folder does not say. Raises UsageError for a file that is invalid.
    """
    file = folder / "modules.json"
    if not file.exists():
        return None, None, []
    try:
        # the last part of a path only, which is inside the folder
        paths = {str(m["type"]).rpartition(".")[2]: Path(m["path"]).name for m in _read_json(file)}
    except (TypeError, KeyError):
        raise UsageError(f"{file}: expected a list of modules, each with type and path") from None
    config = _read_json(folder / paths["Pooling"] / "config.json") if "Pooling" in paths else {}
    enabled = " ".join(key for key, value in config.items() if value is True)  # pooling_mode_mean_tokens, before 6.0
    modes = config.get("pooling_mode") or re.findall(r"\bpooling_mode_(\w+?)(?:_tokens?)?\b", enabled)
    modes = [modes] if isinstance(modes, str) else list(modes)
    unsupported = [kind for kind in paths if kind not in MODULES]
    if len(modes) > 1 or set(modes) - set(POOLING):
        unsupported.append(f"pooling by {' and '.join(modes)}")
    sizes = folder / "sentence_bert_config.json"
    longest = _read_json(sizes).get("max_seq_length") if sizes.exists() else None
    if longest is not None and not (isinstance(longest, int) and longest > 0):
        raise UsageError(f"{sizes}: max_seq_length {longest!r} is not a whole number above 0")
    return (modes[0] if modes and not unsupported else None), longest, unsupported


def write(folder: Path, pooling: str, longest: int | None, width: int) -> None:
    """Write the files from which sentence-transformers loads the folder and computes the same embeddings.

    `longest` is its max_seq_length in tokens, `width` the size of an embedding.
    """
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(MODULES)
    ]
    modes = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    for name, content in {
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": width, **modes},
        "sentence_bert_config.json": {"max_seq_length": longest, "do_lower_case": False},
        "config_sentence_transformers.json": {"similarity_fn_name": "cosine"},
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    with as_usage_error(f"{path}: cannot be read", OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
