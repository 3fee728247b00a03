"""Finds the folder of a model by name: a folder on disk, a bundled model, the Hugging Face cache, or the hub.

Where no hub can be reached, this shows within seconds; the libraries' own retries take 24 to 47.
"""

import functools
from pathlib import Path

from huggingface_hub import constants, errors, get_session, snapshot_download
from huggingface_hub import is_offline_mode as offline

from llmkit.errors import UsageError, suggest

BUNDLED = Path(__file__).parent / "bundled"
MODELS = ("tiny-gpt2", "tiny-bert")
"""Names of the bundled models."""
TIMEOUT = 3.0
"""Seconds to wait for an answer of the hub."""
DOWNLOADED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
NOT_DOWNLOADED = ["*/*", "*.msgpack", "rust_model*", "tf_model*"]
"""Subfolders hold other formats, such as ONNX, and training checkpoints."""
MODEL_FILES = ("config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
"""Files of which the folder of a model or tokenizer holds at least one."""


@functools.cache
def reachable() -> bool:
    """Whether the hub, or the mirror in HF_ENDPOINT, answers within seconds, through a proxy if one is set for it."""
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
    except Exception:  # the HTTP library's own errors, or huggingface_hub's in offline mode
        return False
    return True


def require_reachable(problem: str) -> None:
    """Raise UsageError that starts with `problem` if the hub cannot be reached."""
    if not reachable():
        reason = "offline mode is set" if offline() else f"no answer from {constants.ENDPOINT}"
        raise UsageError(f"{problem}, and no hub can be reached ({reason}); give a path, or a mirror in HF_ENDPOINT")


def model_folder(name: str) -> Path | None:
    """Return the folder of a bundled model, or None for any other name."""
    return BUNDLED / name if name in MODELS else None


def find_model(name: str, weights: bool = True) -> Path:
    """Return the folder (or .gguf file) of a model or tokenizer, downloaded if necessary.

    `weights=False` downloads the config and the tokenizer only. Raises UsageError that names the alternatives.
    """
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return path
    if path.is_dir():
        if not any((path / file).exists() for file in MODEL_FILES):
            fix = "if it is the folder of an unfinished run, resume the run with --resume"
            raise UsageError(f"model {name!r}: the folder has no config.json, so it is not a model; {fix}")
        return path
    if folder := model_folder(name):
        return folder
    looks_like_path = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_like_path or ("/" in name and path.parent.is_dir()):
        siblings = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = suggest(name, siblings) if siblings else f"{str(path.parent)!r} does not exist either"
        raise UsageError(f"model {name!r}: no such folder; {hint}")
    return _download(name, weights)


def load_args(path: Path) -> dict[str, str]:
    """Return the arguments of `from_pretrained` for a folder or a .gguf file."""
    if path.suffix == ".gguf":
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    return {"pretrained_model_name_or_path": str(path)}


def _download(name: str, weights: bool) -> Path:
    fix = f"give a folder, set HF_ENDPOINT to a mirror, or use a bundled model ({', '.join(MODELS)})"
    patterns = DOWNLOADED if weights else [p for p in DOWNLOADED if p != "*.safetensors"]
    fetch = functools.partial(snapshot_download, name, local_files_only=not reachable())
    try:
        folder = Path(fetch(allow_patterns=patterns, ignore_patterns=NOT_DOWNLOADED))
        if (folder / "modules.json").exists():  # an embedding model keeps its pooling in a subfolder
            fetch(allow_patterns=["*_Pooling/config.json"])
    except errors.HFValidationError:
        reason = "not a folder, and not a valid name on the hub"
    except errors.RepositoryNotFoundError:
        reason = "not found on the hub (or it needs a token)"
    except errors.LocalEntryNotFoundError:
        reason, hint = "not in the cache, and no hub can be reached", suggest(name, MODELS)
        fix = f"{hint} {fix}" if hint.startswith("did") else fix
    except (errors.HfHubHTTPError, OSError) as e:
        reason = f"cannot be downloaded from the hub ({str(e).splitlines()[0]})"
    else:
        if weights and not list(folder.glob("*.safetensors")):
            reason = "has no safetensors weights, the only format that llmkit loads; convert it first"
            raise UsageError(f"model {name!r}: {reason}")
        return folder
    raise UsageError(f"model {name!r}: {reason}; {fix}")
