"""Models on the Hugging Face Hub, fetched through huggingface_hub (the extra ``hub``) into its cache.

``hf://ORG/NAME`` or ``hf://ORG/NAME@REVISION``. A `pathlib.Path` makes one slash of two, so one is enough. What the cache has is not
fetched again; tokens, mirrors and offline mode are settings of huggingface_hub. Only what `PATTERNS` names comes over the
wire: no pickle does.
"""

import functools
import re
from pathlib import Path

from graftwork.errors import StoreError
from graftwork.stores.files import brief

PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.model", "*.spm", "*.jinja", "README.md")
"""Weights, configurations, tokenizers, chat templates, and the card, which says the licence."""

LEFT = ("*/*.safetensors", "consolidated*.safetensors", "*/README.md")
"""Weights beside the model's own (another program's layout, parts of a pipeline), and cards that are not its card."""

_SPELLING = re.compile(r"hf:/{1,2}([^/@+]+/[^/@+]+)(?:@([^+]+))?")


def repository(source: str) -> tuple[str, str | None] | None:
    """Return ``("ORG/NAME", REVISION or None)`` for a source that is spelled as a model on the Hub, None for any other."""
    found = _SPELLING.fullmatch(source)
    return (found[1], found[2]) if found else None


@functools.cache
def fetch(name: str, revision: str | None) -> Path:
    """Return the directory with a model of the Hub, fetched if it is not there; the same one all through a process.

    Args:
        name: ``ORG/NAME``.
        revision: A branch, tag or commit; the main branch if None.

    Raises:
        StoreError: If huggingface_hub is not installed, or there is no such model, or none that may be fetched.
    """
    what = f"hf://{name}" + (f"@{revision}" if revision else "")
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise StoreError(
            f"{what} lies on the Hugging Face Hub, which needs huggingface_hub: pip install 'graftwork[hub]'"
        ) from error
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=list(PATTERNS), ignore_patterns=list(LEFT)
            )
        )
    except errors.GatedRepoError as error:
        raise StoreError(
            f"{what} is gated: accept its terms on its page at the Hub, then log in (`hf auth login`, or set HF_TOKEN)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise StoreError(
            f"the Hugging Face Hub has no model {what}, or a private one; check the name, or log in (`hf auth login`)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise StoreError(f"{name} on the Hugging Face Hub has no branch, tag or commit {revision!r}") from error
    except errors.LocalEntryNotFoundError as error:
        raise StoreError(
            f"{what} is not in the cache, and the Hugging Face Hub cannot be reached; check the connection, or give a path"
        ) from error
    except errors.HFValidationError as error:
        raise StoreError(f"{what} is no name of a model on the Hugging Face Hub: {brief(error)}") from error
    except (
        Exception
    ) as error:  # of whichever library carries the bytes: its errors are not part of huggingface_hub's promises
        raise StoreError(f"{what} cannot be fetched: {brief(error)}") from error


def origin(folder: Path) -> tuple[str, str]:
    """Return ``ORG/NAME`` and the commit where a directory is a snapshot in the cache of huggingface_hub, else empty texts.

    ::

        models--ORG--NAME/snapshots/COMMIT
    """
    snapshots = folder.absolute().parent
    kind, *parts = snapshots.parent.name.split("--", 2)
    return ("/".join(parts), folder.name) if snapshots.name == "snapshots" and kind == "models" else ("", "")
