"""From a model's name to a folder: run folder, bundled model, cache, hub; and one quick answer where there is no hub."""

from __future__ import annotations

import functools
import os
import socket
import urllib.parse
import urllib.request
from pathlib import Path

from llmkit.errors import RecipeError, suggest
from llmkit.models import bundled

TIMEOUT = 3.0  # seconds; the libraries' own retries take 24 to 47
FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
UNWANTED = ["*/*", "*.msgpack", "rust_model*", "tf_model*"]  # no subfolders: ONNX and training states


def offline() -> bool:
    return any(
        os.environ.get(v, "").upper() in ("1", "ON", "YES", "TRUE") for v in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


@functools.cache
def reachable() -> bool:
    """Whether the hub (or the mirror in HF_ENDPOINT) answers within seconds."""
    if offline():
        return False
    url = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy and not urllib.request.proxy_bypass(url.hostname or ""):
        url = urllib.parse.urlsplit(proxy)
    try:
        socket.create_connection(
            (url.hostname, url.port or (443 if url.scheme == "https" else 80)), timeout=TIMEOUT
        ).close()
    except OSError:
        return False
    return True


def require_reachable(what: str) -> None:
    """Raise RecipeError that begins with `what` where no hub can be reached."""
    if not reachable():
        raise RecipeError(
            f"{what}, and no hub can be reached ({'offline by setting' if offline() else 'no network'}): give a folder or file, or set HF_ENDPOINT to a mirror"
        )


def find_model(name: str, weights: bool = True) -> Path:
    """The folder (or .gguf file) of a model or tokenizer. Raises RecipeError with the choices."""
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return path
    if path.is_dir():
        if not any(
            (path / f).exists()
            for f in ("config.json", "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
        ):
            raise RecipeError(
                f"model {name!r}: the folder holds no config.json; it is no model (a run that was stopped? then --resume it)"
            )
        return path
    if folder := bundled.model_folder(name):
        return folder
    if (
        path.is_absolute()
        or name.startswith((".", "~"))
        or name.count("/") > 1
        or (path.parent.is_dir() and "/" in name)
    ):
        around = [str(path.parent / p.name) for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise RecipeError(
            f"model {name!r}: no such folder; "
            + (suggest(name, around) if around else f"{str(path.parent)!r} does not exist either")
        )
    return _download(name, weights)


def _download(name: str, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    choices = f"give a folder, set HF_ENDPOINT to a mirror, or use a bundled model ({', '.join(bundled.MODELS)})"
    patterns = FILES if weights else [p for p in FILES if p != "*.safetensors"]
    try:
        folder = Path(
            snapshot_download(name, allow_patterns=patterns, ignore_patterns=UNWANTED, local_files_only=not reachable())
        )
        if (folder / "modules.json").exists():  # an embedding model: how its tokens are pooled lies one folder down
            snapshot_download(name, allow_patterns=["*_Pooling/config.json"], local_files_only=not reachable())
    except HFValidationError:
        raise RecipeError(f"model {name!r}: neither a folder nor a name that a hub can have; {choices}") from None
    except RepositoryNotFoundError:
        raise RecipeError(f"model {name!r}: the hub has no such model (or it needs a token); {choices}") from None
    except LocalEntryNotFoundError:
        near = suggest(name, bundled.MODELS)
        near = f" {near}" if near.startswith("did") else ""
        raise RecipeError(f"model {name!r}: not on this machine, and no hub can be reached;{near} {choices}") from None
    except (HfHubHTTPError, OSError) as e:
        raise RecipeError(f"model {name!r}: the hub does not give it ({str(e).splitlines()[0]}); {choices}") from None
    if weights and not list(folder.glob("*.safetensors")):
        raise RecipeError(f"model {name!r}: has no safetensors weights, the only format that is read; convert it first")
    return folder
