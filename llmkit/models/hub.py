"""From a model's name to a folder: run folder, bundled model, cache, hub; a quick answer where there is no hub."""

import functools
from pathlib import Path
from typing import Any

from huggingface_hub import constants, errors, get_session, snapshot_download
from huggingface_hub import is_offline_mode as offline

from llmkit.errors import RecipeError, suggest
from llmkit.models import bundled

TIMEOUT = 3.0  # seconds; the libraries' own retries take 24 to 47
FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
UNWANTED = ["*/*", "*.msgpack", "rust_model*", "tf_model*"]  # no subfolders: ONNX and training states
MARKS = ("config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
"""Files of which a model's or a tokenizer's folder holds one."""


@functools.cache
def reachable() -> bool:
    """Whether the hub (or the mirror in HF_ENDPOINT) answers within seconds, by the proxy where one is set for it."""
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
    except Exception:  # of the session's own library, or that it is offline by setting
        return False
    return True


def require_reachable(what: str) -> None:
    """Raise RecipeError that begins with `what` where no hub can be reached."""
    if not reachable():
        why = "offline by setting" if offline() else f"no answer from {constants.ENDPOINT}"
        fix = "give a folder or file, or set HF_ENDPOINT to a mirror"
        raise RecipeError(f"{what}, and no hub can be reached ({why}): {fix}")


def find_model(name: str, weights: bool = True) -> Path:
    """The folder (or .gguf file) of a model or tokenizer. Raises RecipeError with the choices."""
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return path
    if path.is_dir():
        if not any((path / mark).exists() for mark in MARKS):
            why = "holds no config.json; it is no model (a run that was stopped? then --resume it)"
            raise RecipeError(f"model {name!r}: the folder {why}")
        return path
    if folder := bundled.model_folder(name):
        return folder
    looks_like_path = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_like_path or ("/" in name and path.parent.is_dir()):
        around = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = suggest(name, around) if around else f"{str(path.parent)!r} does not exist either"
        raise RecipeError(f"model {name!r}: no such folder; {hint}")
    return _download(name, weights)


def _download(name: str, weights: bool) -> Path:
    choices = f"give a folder, set HF_ENDPOINT to a mirror, or use a bundled model ({', '.join(bundled.MODELS)})"
    patterns = FILES if weights else [p for p in FILES if p != "*.safetensors"]
    fetch = functools.partial(snapshot_download, name, local_files_only=not reachable())
    try:
        folder = Path(fetch(allow_patterns=patterns, ignore_patterns=UNWANTED))
        if (folder / "modules.json").exists():  # an embedding model: how its tokens are pooled lies one folder down
            fetch(allow_patterns=["*_Pooling/config.json"])
    except errors.HFValidationError:
        why = "neither a folder nor a name that a hub can have"
    except errors.RepositoryNotFoundError:
        why = "the hub has no such model (or it needs a token)"
    except errors.LocalEntryNotFoundError:
        why, near = "not on this machine, and no hub can be reached", suggest(name, bundled.MODELS)
        choices = f"{near} {choices}" if near.startswith("did") else choices
    except (errors.HfHubHTTPError, OSError) as e:
        why = f"the hub does not give it ({str(e).splitlines()[0]})"
    else:
        if weights and not list(folder.glob("*.safetensors")):
            why = "has no safetensors weights, the only format that is read; convert it first"
            raise RecipeError(f"model {name!r}: {why}")
        return folder
    raise RecipeError(f"model {name!r}: {why}; {choices}")


def place(path: Path) -> dict[str, Any]:
    """How `from_pretrained` is told of a folder, or of a .gguf file."""
    if path.suffix == ".gguf":
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    return {"pretrained_model_name_or_path": str(path)}
