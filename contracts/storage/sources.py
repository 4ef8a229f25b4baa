"""URIs of external folders (`hf://repo@commit`, `file:///folder`), and the files to copy from them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal

Scheme = Literal["hf", "file"]
"""Schemes of external folders."""

HUB: Final = "https://huggingface.co"
"""Default model hub of `slipway up`; `SLIPWAY_HF_ENDPOINT` overrides it, empty for none."""
SUFFIXES = frozenset({".safetensors", ".json", ".jinja", ".txt", ".model"})
"""Suffixes of copied files: safe weights, configuration, chat template, tokenizer."""
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*", re.ASCII)
_REPO_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_REPO_PART}(?:/{_REPO_PART})?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*", re.ASCII)
_REPO_CHARS = 96
_REVISION_CHARS = 200


@dataclass(frozen=True)
class HubFolder:
    """The top folder of a hub repository at a revision (commit, branch or tag)."""

    repo: str
    revision: str

    @property
    def pinned(self) -> bool:
        """Return whether the revision is a commit."""
        return _COMMIT.fullmatch(self.revision) is not None

    @property
    def uri(self) -> str:
        """Return the URI of this folder, the inverse of `parse_hub_uri`."""
        return f"hf://{self.repo}@{self.revision}"


def scheme_of(uri: str) -> Scheme | None:
    """Return the scheme of an external folder's URI; None for other URIs."""
    if uri.startswith("hf:"):
        return "hf"
    return "file" if uri.startswith("file:") else None


def parse_hub_uri(uri: str) -> HubFolder:
    """Parse `hf://name@revision` or `hf://organisation/name@revision`.

    Raises:
        ValueError: The URI is malformed; the message includes the form.
    """
    repo, separator, revision = uri.removeprefix("hf://").partition("@")
    if not uri.startswith("hf://") or not separator:
        raise ValueError("write hf://organisation/name@commit")
    if not _REPO.fullmatch(repo) or len(repo) > _REPO_CHARS or ".." in repo or "--" in repo:
        raise ValueError(f"{repo[:100]!r} is not a repository; write hf://organisation/name@commit")
    if not _REVISION.fullmatch(revision) or len(revision) > _REVISION_CHARS or ".." in revision:
        raise ValueError(
            f"{revision[:100]!r} is not a revision; write a branch, a tag or the 40 hexadecimal digits of a commit"
        )
    return HubFolder(repo, revision)


def parse_file_uri(uri: str) -> PurePosixPath:
    """Parse `file:///folder`.

    Raises:
        ValueError: The URI is malformed; the message includes the form.
    """
    if not uri.startswith("file:///"):
        raise ValueError("write file:///absolute/folder; a file URI must not name a host")
    if not uri.isascii() or not uri.isprintable() or set(uri) & set(" ?#%\\"):
        raise ValueError("the URI must be plain ASCII: no space, query, fragment, percent sign or backslash")
    path = uri.removeprefix("file://")
    if ".." in path.split("/"):
        raise ValueError("the path must not contain dot-dot parts")
    return PurePosixPath("/" + path.strip("/"))


def check_pattern(pattern: str) -> str:
    """Return a valid pattern of a policy's `sources`: `hf://organisation/name`, `file:///folder`, or all below (`/*`).

    Raises:
        ValueError: The pattern is malformed; the message includes the form.
    """
    folder = pattern.removesuffix("/*")
    if scheme_of(folder) == "hf":
        if "@" in folder or (pattern != folder and "/" in folder.removeprefix("hf://")):
            raise ValueError(f"{pattern[:100]!r} is not a pattern; write hf://organisation/* or hf://organisation/name")
        parse_hub_uri(f"{folder}@main")
    elif scheme_of(folder) == "file" and "*" not in folder:
        if parse_file_uri(folder).as_posix() != folder.removeprefix("file://"):
            raise ValueError(f"{pattern[:100]!r} is not a plain path; write file:///folder or file:///folder/*")
    else:
        raise ValueError(f"{pattern[:100]!r} is not a pattern; write hf://organisation/* or file:///folder/*")
    return pattern


def travels(name: str) -> bool:
    """Return whether a file in the top level of a model's folder is copied, and part of the folder's digest."""
    return _PLAIN_NAME.fullmatch(name) is not None and PurePosixPath(name).suffix in SUFFIXES


def is_weights(name: str) -> bool:
    """Return whether a copied file holds weights."""
    return name.endswith(".safetensors")


def pickles_in(names: list[str]) -> list[str]:
    """Return the sorted names of files that may run code when loaded."""
    return sorted(name for name in names if PurePosixPath(name).suffix.lower() in PICKLE_SUFFIXES)
