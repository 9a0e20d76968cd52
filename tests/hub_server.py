"""A stand-in for the Hugging Face hub on 127.0.0.1, and a process that talks to it.

It serves folders to unpatched transformers, datasets and huggingface_hub (``HF_ENDPOINT``), keeps
a list of what it was asked, and answers wrongly where a test says so. Those libraries read their
environment once, at import: a ``Client`` is a process of its own, kept for many commands.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".parquet")  # answered with a redirect, as large files are


@dataclass
class Fault:
    """What goes wrong with requests whose ``METHOD path`` a pattern is found in."""

    pattern: str
    status: int = 0  # answered instead
    times: int = 10**9
    headers: dict[str, str] = field(default_factory=dict)
    sleep: float = 0.0  # seconds before the answer
    cut: int | None = None  # bytes of the body after which the connection is closed


class Hub:
    """Repositories in memory; ``main`` and other revisions point to commits.

    Attributes:
        asked: ``METHOD path`` of every request, in order.
        faults: looked at in order; the first that fits and is not used up counts.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, dict[str, bytes]]] = {}  # repository -> commit -> files
        self.refs: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        self.faults: list[Fault] = []
        self.discussions: list[dict] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def commit(self, name: str, files: dict[str, bytes], ref: str = "main") -> str:
        """Put files under a revision of ``owner/name`` (``datasets/owner/name``); -> the commit."""
        digest = hashlib.sha1(name.encode())
        for path, content in sorted(files.items()):
            digest.update(f"{path} {len(content)}".encode() + content)
        commit = digest.hexdigest()
        self.files.setdefault(name, {})[commit] = dict(files)
        self.refs.setdefault(name, {})[ref] = commit
        return commit

    def fault(self, pattern: str, **what) -> Fault:
        self.faults.append(Fault(pattern, **what))
        return self.faults[-1]

    def fetched(self, name: str) -> list[str]:
        """Files of a repository whose bytes were asked for."""
        start = re.compile(rf"GET /(?:cdn/)?{name}/(?:resolve/)?[^/]+/(.*)")
        return [found[1] for line in self.asked if (found := start.fullmatch(line))]


def folder_files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@dataclass(frozen=True)
class Said:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line on standard error."""
        (only,) = self.err.splitlines()
        return only


class Client:
    """One process with libraries of its own, for many commands."""

    def __init__(self, hub: Hub, home: Path, **environment: str) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        dropped = ("HF_", "TRANSFORMERS_", "FFALORA_", "HUGGING", "WANDB_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        kept |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
        kept |= {"FFALORA_CACHE": str(home / "ffalora"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        kept |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hub_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=kept | environment,
            cwd=home,
        )

    def __call__(self, *words: str) -> Said:
        """One ``ffalora`` command."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(word) for word in words]) + "\n")
        self._process.stdin.flush()
        return Said(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.communicate()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # the other side lost patience
                super().handle()

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            posted = self.rfile.read(length) if length else b""
            path = unquote(urlsplit(self.path).path.replace("%2F", "|"))  # a slash in a revision
            line = f"{self.command} {path.replace('|', '%2F')}"
            hub.asked.append(line)
            fault = self._fault(line)
            if fault and fault.sleep:
                time.sleep(fault.sleep)
            if fault and fault.status:
                return self._send(b"{}", fault.status, fault.headers)
            parts = path.strip("/").split("/")
            if parts[0] == "cdn":
                return self._file("/".join(parts[1:]), fault)
            if parts[0] == "api":
                return self._api(parts[1:], posted)
            owner = parts[: parts.index("resolve")] if "resolve" in parts else []
            if not owner:
                return self._missing("RepoNotFound")
            return self._resolve("/".join(owner), parts[len(owner) + 1 :], fault)

        def _fault(self, line: str) -> Fault | None:
            for fault in hub.faults:
                if fault.times > 0 and re.search(fault.pattern, line):
                    fault.times -= 1
                    return fault
            return None

        def _send(self, body: bytes, status: int = 200, headers: dict | None = None) -> None:
            self.send_response(status)
            for key, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _missing(self, code: str, commit: str = "") -> None:
            headers = {"X-Error-Code": code, "X-Error-Message": code, "X-Repo-Commit": commit}
            self._send(b"{}", 404 if code != "RepoNotFound" else 401, headers)

        def _commit(self, name: str, revision: str) -> str | None:
            """The commit, or None after an answer that says what is missing."""
            revision = revision.replace("|", "/")
            if name not in hub.files:
                self._missing("RepoNotFound")
                return None
            commit = hub.refs[name].get(revision, revision)
            if commit not in hub.files[name]:
                self._missing("RevisionNotFound")
                return None
            return commit

        def _resolve(self, name: str, rest: list[str], fault: Fault | None) -> None:
            commit = self._commit(name, rest[0])
            if commit is None:
                return None
            path = "/".join(rest[1:])
            if path not in hub.files[name][commit]:
                return self._missing("EntryNotFound", commit)
            content = hub.files[name][commit][path]
            headers = {"X-Repo-Commit": commit, "X-Linked-Size": str(len(content))}
            headers |= {"X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            if path.endswith(LARGE):
                other = hub.url.replace("127.0.0.1", "localhost")  # another host, as a CDN is
                place = {"Location": f"{other}/cdn/{name}/{commit}/{path}"}
                return self._send(b"", 302, headers | place)
            return self._content(content, headers, fault)

        def _file(self, place: str, fault: Fault | None) -> None:
            start = 3 if place.startswith("datasets/") else 2
            parts = place.split("/")
            content = hub.files["/".join(parts[:start])][parts[start]]["/".join(parts[start + 1 :])]
            self._content(content, {}, fault)

        def _content(self, content: bytes, headers: dict, fault: Fault | None) -> None:
            headers |= {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            headers |= {"Accept-Ranges": "bytes"}
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if wanted:
                first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
                headers |= {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
                return self._send(content[first : last + 1], 206, headers)
            if fault is None or fault.cut is None or self.command == "HEAD":
                return self._send(content, 200, headers)
            self.send_response(200)
            for key, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content[: fault.cut])
            self.close_connection = True
            return None

        def _api(self, parts: list[str], posted: bytes) -> None:
            name = "/".join(parts[1:3] if parts[0] == "models" else ["datasets", *parts[1:3]])
            verb, rest = (parts[3], parts[4:]) if len(parts) > 3 else ("revision", [])
            if verb == "discussions":
                found = {"discussions": hub.discussions, "count": len(hub.discussions), "start": 0}
                return self._json(found | {"numClosedDiscussions": 0})
            commit = self._commit(name, rest[0] if rest else "main")
            if commit is None:
                return None
            files = hub.files[name][commit]
            if verb == "revision":
                siblings = [{"rfilename": p, "size": len(c)} for p, c in sorted(files.items())]
                found = {"id": "/".join(parts[1:3]), "sha": commit, "siblings": siblings}
                return self._json(found | {"private": False, "tags": [], "downloads": 1})
            if verb == "tree":
                inner = "/".join(rest[1:])
                deep = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0] != "false"
                return self._json(_tree(files, inner, deep))
            if verb == "paths-info":
                asked = parse_qs(posted.decode()).get("paths") or json.loads(posted)["paths"]
                return self._json([_entry(p, files[p]) for p in asked if p in files])
            if verb == "commits":
                return self._json([{"id": commit, "title": "t", "message": "", "authors": []}])
            return self._json([])

        def _json(self, value: object) -> None:
            self._send(json.dumps(value).encode(), 200, {"Content-Type": "application/json"})

    return Handler


def _entry(path: str, content: bytes) -> dict:
    found = {"type": "file", "path": path, "size": len(content)}
    found["oid"] = hashlib.sha1(content).hexdigest()
    if path.endswith(LARGE):
        oid = hashlib.sha256(content).hexdigest()
        found["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 134}
    return found


def _tree(files: dict[str, bytes], inner: str, deep: bool) -> list[dict]:
    start = f"{inner}/" if inner else ""
    found: dict[str, dict] = {}
    for path, content in sorted(files.items()):
        if path.startswith(start):
            first, _, below = path.removeprefix(start).partition("/")
            if below:
                folder = {"type": "directory", "path": start + first, "size": 0, "oid": "0" * 40}
                found.setdefault(start + first, folder)
            if deep or not below:
                found[path] = _entry(path, content)
    return list(found.values())


def _serve() -> None:
    """Commands from standard input, one JSON list a line; answers go where output went."""
    import tempfile

    from ffalora_cli.cli.main import main

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            code = main(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            said = [os.pread(f.fileno(), 1 << 20, 0).decode() for f in (out, err)]
        print(json.dumps({"code": code, "out": said[0], "err": said[1]}), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
