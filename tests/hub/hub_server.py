"""As much of the Hub as a release needs, on this machine: repositories, branches, LFS, commits, downloads.

The protocol is what huggingface_hub speaks (`hf_api.py`, `lfs.py`, `_commit_api.py`), and git-lfs' batch API below it.
It has no Xet. It can be told to refuse or to break.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

WRITER, READER = "hf_" + "w" * 34, "hf_" + "r" * 34
REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"


@dataclass
class Repository:
    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    lfs_paths: set[str] = field(default_factory=set)
    commits: list[str] = field(default_factory=list)


@dataclass
class HubState:
    """What is stored, what was asked, and what goes wrong next.

    Attributes:
        failures: (method, pattern of the path, what): each is used once. `what` is a status, or "cut": the connection
            is closed after half of the request's body.
        part_bytes: Files of the store that are larger come in parts of this size.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    store: dict[str, bytes] = field(default_factory=dict)
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    failures: list[tuple[str, str, int | str]] = field(default_factory=list)
    part_bytes: int = 2**30
    lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, method: str, pattern: str) -> list[str]:
        return [path for verb, path in self.requests if verb == method and re.search(pattern, path)]

    def files(self, repo: str, branch: str = "main") -> dict[str, bytes]:
        return self.repositories[repo].branches[branch]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    routes = (
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("GET", rf"/api/models/{REPO}(/revision/(?P<rev>[^/]+))?", "info"),
        ("GET", rf"/api/models/{REPO}/tree/(?P<rev>[^/]+)", "tree"),
        ("POST", rf"/api/models/{REPO}/branch/(?P<rev>[^/]+)", "branch"),
        ("POST", rf"/api/models/{REPO}/preupload/(?P<rev>[^/]+)", "preupload"),
        ("POST", rf"/api/models/{REPO}/commit/(?P<rev>[^/]+)", "commit"),
        ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/store/(?P<oid>\w{64})", "put"),
        ("PUT", r"/store/(?P<oid>\w{64})/(?P<part>\d+)", "put_part"),
        ("POST", r"/complete/(?P<oid>\w{64})", "complete"),
        ("POST", r"/verify/(?P<oid>\w{64})", "verify"),
        ("HEAD", rf"/{REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve"),
        ("GET", rf"/{REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "resolve"),
    )

    def log_message(self, *args):
        pass

    def handle(self):
        with suppress(BrokenPipeError, ConnectionResetError):
            super().handle()

    def do_GET(self):
        state: HubState = self.server.state
        path = unquote(urlsplit(self.path).path)
        with state.lock:
            state.requests.append((self.command, path))
        failure = self.next_failure(path)
        if failure == "cut":
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            self.close_connection = True
            self.connection.close()
            return
        self.body = self.read_body()
        if failure is not None:
            self.answer({"error": "as told"}, failure)
            return
        # Revisions are quoted in paths: the pattern sees them as they came, the handler as they are meant.
        raw = urlsplit(self.path).path
        for method, pattern, name in self.routes:
            if method == self.command and (match := re.fullmatch(pattern, raw)):
                values = {key: unquote(value) if value else value for key, value in match.groupdict().items()}
                if self.is_allowed(name):
                    getattr(self, name)(**values)
                return
        self.answer({"error": "not here"}, 404)

    do_POST = do_PUT = do_HEAD = do_GET

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().strip(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def next_failure(self, path: str) -> int | str | None:
        state: HubState = self.server.state
        with state.lock:
            for index, (method, pattern, what) in enumerate(state.failures):
                if method == self.command and re.search(pattern, path):
                    del state.failures[index]
                    return what
        return None

    def is_allowed(self, name: str) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if name in ("put", "put_part", "complete", "validate"):  # the store's addresses carry their own permission
            return True
        if token not in (WRITER, READER):
            self.answer({"error": "Invalid username or password."}, 401)
            return False
        if token == READER and name in ("create", "branch", "preupload", "commit", "batch"):
            self.answer({"error": "Forbidden: no write access"}, 403)
            return False
        return True

    def answer(self, content, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def found(self, repo: str) -> Repository | None:
        repository = self.server.state.repositories.get(repo)
        if repository is None:
            self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        return repository

    # --- repositories ---

    def create(self):
        asked = json.loads(self.body)
        repo = f"{asked['organization']}/{asked['name']}"
        private = asked.get("private") or asked.get("visibility") == "private"
        if repo in self.server.state.repositories:
            self.answer({"error": "You already created this model repo", "url": f"{self.server.state.url}/{repo}"}, 409)
            return
        self.server.state.repositories[repo] = Repository(bool(private))
        self.answer({"url": f"{self.server.state.url}/{repo}", "name": repo})

    def validate(self):
        match = re.match(r"---\n(.*?)\n---", json.loads(self.body)["content"], re.DOTALL)
        try:
            entries = yaml.safe_load(match[1]) if match else None
        except yaml.YAMLError as error:
            self.answer({"errors": [{"message": str(error)}], "warnings": []}, 400)
            return
        wrong = [name for name in ("license", "pipeline_tag") if not isinstance((entries or {}).get(name), str)]
        errors = [{"message": f'"{name}" must be a string'} for name in wrong]
        self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def info(self, repo, rev=None):
        if (repository := self.found(repo)) is not None:
            names = repository.branches[self.branch_of(repository, rev or "main")]
            siblings = [{"rfilename": name} for name in sorted(names)]
            sha = self.sha(repository, rev or "main")
            self.answer({"id": repo, "private": repository.private, "sha": sha, "siblings": siblings})

    def branch(self, repo, rev):
        if (repository := self.found(repo)) is not None:
            if rev in repository.branches:
                self.answer({"error": "Reference already exists"}, 409)
                return
            repository.branches[rev] = dict(repository.branches["main"])
            self.answer({})

    def tree(self, repo, rev):
        if (repository := self.found(repo)) is None:
            return
        assert parse_qs(urlsplit(self.path).query).get("recursive") == ["true"], self.path
        entries = []
        for name, content in repository.branches[self.branch_of(repository, rev)].items():
            entry = {"type": "file", "path": name, "size": len(content), "oid": git_oid(content)}
            if name in repository.lfs_paths:
                sha = hashlib.sha256(content).hexdigest()
                entry |= {"oid": "0" * 40, "lfs": {"oid": sha, "size": len(content), "pointerSize": 134}}
            entries.append(entry)
        self.answer(entries)

    def branch_of(self, repository: Repository, revision: str) -> str:
        shas = {self.sha(repository, name): name for name in repository.branches}
        return shas.get(revision, revision)

    def sha(self, repository: Repository, branch: str) -> str:
        content = json.dumps({name: git_oid(body) for name, body in repository.branches[branch].items()})
        return hashlib.sha1(f"{branch}{content}".encode()).hexdigest()

    # --- uploads ---

    def preupload(self, repo, rev):
        if (repository := self.found(repo)) is None:
            return
        files = []
        for asked in json.loads(self.body)["files"]:
            is_large = asked["path"].endswith((".safetensors", ".model"))
            there = repository.branches[rev].get(asked["path"])
            oid = None if there is None else hashlib.sha256(there).hexdigest() if is_large else git_oid(there)
            mode = "lfs" if is_large else "regular"
            files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer({"files": files})

    def batch(self, repo):
        state: HubState = self.server.state
        asked = json.loads(self.body)
        assert asked["operation"] == "upload" and asked["hash_algo"] == "sha256"
        objects = []
        for each in asked["objects"]:
            entry = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in state.store:
                entry["actions"] = {"upload": self.way(each), "verify": {"href": f"{state.url}/verify/{each['oid']}"}}
            objects.append(entry)
        self.answer({"transfer": "basic", "objects": objects})

    def way(self, asked: dict) -> dict:
        state: HubState = self.server.state
        oid, size = asked["oid"], asked["size"]
        if size <= state.part_bytes:
            return {"href": f"{state.url}/store/{oid}"}
        parts = range(1, -(-size // state.part_bytes) + 1)
        header = {f"{part}": f"{state.url}/store/{oid}/{part}" for part in parts}
        return {"href": f"{state.url}/complete/{oid}", "header": {"chunk_size": str(state.part_bytes), **header}}

    def put(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            self.answer({"error": "another content"}, 400)
            return
        self.server.state.store[oid] = self.body
        self.answer(b"")

    def put_part(self, oid, part):
        self.server.state.parts[oid, int(part)] = self.body
        self.answer(b"", headers={"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})

    def complete(self, oid):
        state: HubState = self.server.state
        asked = json.loads(self.body)
        body = b"".join(state.parts[oid, part["partNumber"]] for part in asked["parts"])
        assert [part["partNumber"] for part in asked["parts"]] == list(range(1, len(asked["parts"]) + 1))
        if hashlib.sha256(body).hexdigest() != oid:
            self.answer({"error": "another content"}, 400)
            return
        state.store[oid] = body
        self.answer({})

    def verify(self, oid):
        size = json.loads(self.body)["size"]
        self.answer({}, 200 if len(self.server.state.store.get(oid, b"")) == size else 404)

    def commit(self, repo, rev):
        if (repository := self.found(repo)) is None:
            return
        state, files = self.server.state, {}
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                repository.commits.append(value["summary"])
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "deletedFile":
                del repository.branches[rev][value["path"]]
            else:
                assert entry["key"] == "lfsFile", entry["key"]
                files[value["path"]] = state.store[value["oid"]]
                repository.lfs_paths.add(value["path"])
        repository.branches[rev] |= files
        sha = self.sha(repository, rev)
        self.answer({"commitUrl": f"{state.url}/{repo}/commit/{sha}", "commitOid": sha})

    # --- downloads ---

    def resolve(self, repo, rev, path):
        if (repository := self.found(repo)) is None:
            return
        branch = self.branch_of(repository, rev)
        content = repository.branches.get(branch, {}).get(path)
        if content is None:
            self.answer({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": self.sha(repository, branch)}
        self.answer(content, headers=headers)


def git_oid(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@contextmanager
def serving():
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.daemon_threads = True
    http.state = HubState(f"http://127.0.0.1:{http.server_port}")
    threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield http.state
    finally:
        http.shutdown()
        http.server_close()
