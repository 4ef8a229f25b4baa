"""A mirror of a model hub on loopback: its HTTP protocol, as huggingface_hub speaks it, and on demand its lies."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from testbed.ports import free_port
from testbed.servers import wait_until

M = TypeVar("M", bound="Mirror")
LARGE = ".safetensors"
"""Files in large-file storage: their bytes come from another host, without the credential."""


def git_id(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


@dataclass
class Mirror:
    """Repositories at commits, and what is wrong with the answers.

    Attributes:
        changed: Bytes that are served in place of a file's own, by name; the list still names the old ones.
        shortened: Files that end after so many bytes, as if that were all.
        cut: Files whose connection breaks after so many bytes; once each.
        failing: Answer this status to everything.
        ranges: Whether a part of a file can be had; without, the answer is always all of it.
        asked: Every request: method, path, authorization, range.
    """

    port: int = field(default_factory=free_port)
    token: str | None = None
    changed: dict[str, bytes] = field(default_factory=dict)
    shortened: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    failing: int | None = None
    ranges: bool = True
    commits: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    branches: dict[tuple[str, str], str] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def push(self, repo: str, folder: Path | dict[str, bytes], branch: str = "main") -> str:
        """Store files at a new commit of a branch; return the commit."""
        if isinstance(folder, Path):
            folder = {
                path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
            }
        named = repr([repo, sorted((name, git_id(data)) for name, data in folder.items())])
        commit = hashlib.sha1(named.encode(), usedforsecurity=False).hexdigest()
        self.commits[repo, commit] = folder
        self.branches[repo, branch] = commit
        return commit

    def served(self, name: str, data: bytes) -> bytes:
        return self.changed.get(name, data)

    def downloads(self) -> list[str]:
        """List the files whose bytes were asked for, each time that they were."""
        small = [
            path for method, path, *_ in self.asked if method == "GET" and "/resolve/" in path and LARGE not in path
        ]
        return [path.rpartition("/")[2] for path in small + [path for _, path, *_ in self.asked if "/storage/" in path]]

    # -- the protocol -------------------------------------------------------------------------------------------------

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                *self.writing(),
                Route("/api/models/{repo:path}/revision/{revision:path}", self.model_info),
                Route("/storage/{repo:path}/{commit}/{file}", self.storage),
                Route("/{repo:path}/resolve/{revision}/{file:path}", self.resolve),
            ]
        )

    def writing(self) -> list[Route]:
        """Return the routes that change repositories; a mirror has none."""
        return []

    def is_private(self, _repo: str) -> bool:
        return False

    def refuse(self, request: Request) -> Response | None:
        headers = request.headers
        self.asked.append((request.method, request.url.path, headers.get("authorization"), headers.get("range")))
        if self.failing is not None:
            return Response("no", self.failing)
        if self.token is not None and headers.get("authorization") != f"Bearer {self.token}":
            return Response("Invalid username or password.", 401)
        return None

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | Response:
        if not any(known == repo for known, _ in self.commits):
            return Response("", 404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        commit = self.branches.get((repo, revision), revision)
        files = self.commits.get((repo, commit))
        if files is None:
            return Response("", 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        return commit, files

    async def model_info(self, request: Request) -> Response:
        refused = self.refuse(request)
        repo = request.path_params["repo"]
        commit_or_error = refused or self.find(repo, request.path_params["revision"])
        if isinstance(commit_or_error, Response):
            return commit_or_error
        commit, files = commit_or_error
        listed = [
            self.listed(name, data, blobs="blobs" in request.query_params) for name, data in sorted(files.items())
        ]
        return JSONResponse(
            {
                "_id": "1",
                "id": repo,
                "modelId": repo,
                "sha": commit,
                "private": self.is_private(repo),
                "siblings": listed,
            }
        )

    def listed(self, name: str, data: bytes, *, blobs: bool) -> dict:
        if not blobs:
            return {"rfilename": name}
        if not name.endswith(LARGE):
            return {"rfilename": name, "size": len(data), "blobId": git_id(data)}
        sha256 = hashlib.sha256(data).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
        large = {"sha256": sha256, "size": len(data), "pointerSize": len(pointer)}
        return {"rfilename": name, "size": len(data), "blobId": git_id(pointer), "lfs": large}

    async def resolve(self, request: Request) -> Response:
        refused = self.refuse(request)
        repo, name = request.path_params["repo"], request.path_params["file"]
        commit_or_error = refused or self.find(repo, request.path_params["revision"])
        if isinstance(commit_or_error, Response):
            return commit_or_error
        commit, files = commit_or_error
        if name not in files:
            return Response("", 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        data = self.served(name, files[name])
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_id(data)}"', "Accept-Ranges": "bytes"}
        if not name.endswith(LARGE):
            return self.body(request, name, data, headers)
        sha256 = hashlib.sha256(data).hexdigest()
        headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data)), "X-Xet-Hash": sha256}
        headers |= {"X-Xet-Refresh-Route": f"{self.url}/api/models/{repo}/xet-read-token/{commit}"}
        return RedirectResponse(f"http://localhost:{self.port}/storage/{repo}/{commit}/{name}", 302, headers)

    async def storage(self, request: Request) -> Response:
        headers = request.headers
        self.asked.append((request.method, request.url.path, headers.get("authorization"), headers.get("range")))
        if "authorization" in headers:
            return Response("signed addresses take no credential", 400)
        files = self.commits[request.path_params["repo"], request.path_params["commit"]]
        name = request.path_params["file"]
        return self.body(request, name, self.served(name, files[name]), {"Accept-Ranges": "bytes"})

    def body(self, request: Request, name: str, data: bytes, headers: dict[str, str]) -> Response:
        if request.method == "HEAD":
            return Response(None, 200, {**headers, "Content-Length": str(len(data))})
        asked = request.headers.get("range") if self.ranges else None
        start = int((asked or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if start:
            headers = {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        rest = data[start : self.shortened.get(name)]
        cut = self.cut.pop(name, None)
        if cut is None:
            return Response(rest, 206 if start else 200, headers)

        async def broken():
            yield rest[:cut]
            raise ConnectionResetError

        return StreamingResponse(broken(), 206 if start else 200, {**headers, "Content-Length": str(len(rest))})


@contextlib.contextmanager
def running_mirror(kind: type[M] = Mirror, **given) -> Iterator[M]:
    """Serve a mirror on loopback from a thread of this process."""
    mirror = kind(**given)
    server = uvicorn.Server(uvicorn.Config(mirror.app(), host="127.0.0.1", port=mirror.port, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, what="the mirror")
        yield mirror
    finally:
        server.should_exit = True
        thread.join(10)
