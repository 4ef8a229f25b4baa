"""A hub on loopback that takes commits, as huggingface_hub sends them: large files first, by their digest."""

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.kit.hub import LARGE, Mirror, git_id


@dataclass
class WritableHub(Mirror):
    """Repositories that are created, committed to, branched and tagged.

    Attributes:
        private: Repositories, and whether each is private.
        tags: Commits by repository and tag.
        large: Bytes of large files by digest.
        on_request: Called at each request; what it returns is the answer.
        uploads: Digests of the large files that were uploaded, each time that they were.
    """

    private: dict[str, bool] = field(default_factory=dict)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)
    on_request: Callable[[], Response | None] = lambda: None

    def writing(self) -> list[Route]:
        models = "/api/models/{repo:path}"
        return [
            Route("/api/repos/create", self.create, methods=["POST"]),
            Route("/api/validate-yaml", self.validate, methods=["POST"]),
            Route(f"{models}/refs", self.refs),
            Route(f"{models}/tree/{{revision}}", self.tree),
            Route(f"{models}/branch/{{branch}}", self.branch, methods=["POST"]),
            Route(f"{models}/tag/{{tag}}", self.tag, methods=["POST", "DELETE"]),
            Route(f"{models}/preupload/{{revision}}", self.preupload, methods=["POST"]),
            Route(f"{models}/commit/{{revision}}", self.commit, methods=["POST"]),
            Route("/{repo:path}.git/info/lfs/objects/batch", self.batch, methods=["POST"]),
            Route("/lfs/{digest}", self.upload, methods=["PUT"]),
            Route(f"{models}/revision/{{revision:path}}", self.model_info),
            Route(models, self.main_info),
        ]

    def refuse(self, request: Request) -> Response | None:
        return super().refuse(request) or self.on_request()

    def is_private(self, repo: str) -> bool:
        return self.private.get(repo, False)

    def find(self, repo, revision):
        return super().find(repo, self.tags.get((repo, revision), revision))

    async def main_info(self, request: Request) -> Response:
        request.path_params["revision"] = "main"
        return await self.model_info(request)

    async def create(self, request: Request) -> Response:
        if (refused := self.refuse(request)) is not None:
            return refused
        asked = await request.json()
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in self.private:
            return Response("exists", 409)
        self.private[repo] = asked.get("visibility") == "private"
        self.push(repo, {".gitattributes": b"*.safetensors filter=lfs\n"})
        return JSONResponse({"url": f"{self.url}/{repo}"})

    async def validate(self, _request: Request) -> Response:
        return JSONResponse({"errors": [], "warnings": []})

    async def refs(self, request: Request) -> Response:
        if (refused := self.refuse(request)) is not None:
            return refused
        repo = request.path_params["repo"]

        def listed(refs, kind):
            return [
                {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit}
                for (owner, name), commit in refs.items()
                if owner == repo
            ]

        return JSONResponse(
            {"branches": listed(self.branches, "heads"), "converts": [], "tags": listed(self.tags, "tags")}
        )

    async def tree(self, request: Request) -> Response:
        found_or_error = self.find(request.path_params["repo"], request.path_params["revision"])
        if isinstance(found_or_error, Response):
            return found_or_error
        files = found_or_error[1]
        return JSONResponse(
            [{"type": "file", "path": name, "size": len(data), "oid": git_id(data)} for name, data in files.items()]
        )

    async def branch(self, request: Request) -> Response:
        repo, name = request.path_params["repo"], request.path_params["branch"]
        if (repo, name) in self.branches:
            return Response("exists", 409)
        start = (await request.json())["startingPoint"]
        self.branches[repo, name] = self.branches.get((repo, start), start)
        return Response(None, 200)

    async def tag(self, request: Request) -> Response:
        if (refused := self.refuse(request)) is not None:
            return refused
        repo, named = request.path_params["repo"], request.path_params["tag"]
        if request.method == "DELETE":
            return Response(None, 200 if self.tags.pop((repo, named), None) else 404)
        tag = (await request.json())["tag"]
        if (repo, tag) in self.tags:
            return Response("exists", 409)
        self.tags[repo, tag] = self.branches.get((repo, named), named)
        return Response(None, 200)

    async def preupload(self, request: Request) -> Response:
        files = (await request.json())["files"]
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in files
        ]
        return JSONResponse({"files": modes})

    async def batch(self, request: Request) -> Response:
        asked = (await request.json())["objects"]
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.url}/lfs/{each['oid']}"}}}
            if each["oid"] not in self.large
            else each
            for each in asked
        ]
        return JSONResponse(
            {"transfer": "basic", "objects": objects}, headers={"content-type": "application/vnd.git-lfs+json"}
        )

    async def upload(self, request: Request) -> Response:
        digest, data = request.path_params["digest"], await request.body()
        if "authorization" in request.headers or hashlib.sha256(data).hexdigest() != digest:
            return Response("no", 400)
        self.large[digest] = data
        self.uploads.append(digest)
        return Response(None, 200)

    async def commit(self, request: Request) -> Response:
        if (refused := self.refuse(request)) is not None:
            return refused
        repo, revision = request.path_params["repo"], request.path_params["revision"]
        parent = self.branches[repo, revision]
        files = dict(self.commits[repo, parent])
        message = ""
        for line in (await request.body()).decode().splitlines():
            part = json.loads(line)
            value = part["value"]
            match part["key"]:
                case "header":
                    message = value["summary"]
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.large[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        text = repr([parent, message, len(self.commits)]).encode()
        commit = hashlib.sha1(text, usedforsecurity=False).hexdigest()
        self.commits[repo, commit] = files
        self.branches[repo, revision] = commit
        return JSONResponse({"commitUrl": f"{self.url}/{repo}/commit/{commit}", "commitOid": commit})
