"""A stand-in for the Hugging Face hub: its HTTP interface, as far as making, filling and reading repositories goes."""

import base64
import json
import threading
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_of_the_tests"
COMMIT = "0" * 39 + "1"


class Hub(ThreadingHTTPServer):
    """Repositories in memory.

    Attributes:
        repositories: name -> path -> content.
        private: the names of those that were made so.
        commits: (repository, message) in turn.
        refuses: an HTTP status to answer everything with; 0 for none.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories, self.private, self.commits, self.refuses = {}, set(), [], 0
        self.objects = {}

    @property
    def address(self):
        return f"http://localhost:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    """POST to api: make, prepare and commit. PUT: a large file. GET: a file."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.refuses or self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.send(self.server.refuses or 401, {"error": "Invalid username or password."})
        if self.path == "/api/validate-yaml":
            return self.send(200, {"errors": [], "warnings": []})
        if self.path == "/api/repos/create":
            return self.create(json.loads(body))
        if self.path.endswith("/info/lfs/objects/batch"):
            return self.send(
                200, {"transfer": "basic", "objects": [self.place(each) for each in json.loads(body)["objects"]]}
            )
        repository = "/".join(self.path.split("/")[3:5])
        if "/preupload/" in self.path:
            files = [self.how_to_upload(each) for each in json.loads(body)["files"]]
            return self.send(200, {"files": files})
        if "/commit/" in self.path:
            return self.commit(repository, [json.loads(line) for line in body.splitlines()])
        return self.send(404, {"error": f"the stand-in has no {self.path}"})

    def create(self, asked):
        name = f"{asked['organization']}/{asked['name']}"
        self.server.repositories.setdefault(name, {})
        if asked.get("visibility") == "private" or asked.get("private"):
            self.server.private.add(name)
        self.send(200, {"url": f"{self.server.address}/{name}", "name": name})

    def how_to_upload(self, file):
        mode = "lfs" if file["path"].endswith(".safetensors") else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}

    def place(self, wanted):
        upload = {"href": f"{self.server.address}/objects/{wanted['oid']}", "header": {}}
        return {"oid": wanted["oid"], "size": wanted["size"], "actions": {"upload": upload}}

    def commit(self, repository, lines):
        files = self.server.repositories[repository]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.server.commits.append((repository, value["summary"]))
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        address = f"{self.server.address}/{repository}/commit/{COMMIT}"
        self.send(200, {"success": True, "commitOid": COMMIT, "commitUrl": address, "hookOutput": ""})

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.objects[sha256(content).hexdigest()] = content
        self.send(200, {})

    def do_GET(self):
        owner, name, *rest = self.path.strip("/").split("/")
        files = self.server.repositories.get(f"{owner}/{name}", {})
        path = "/".join(rest[2:])
        if rest[:1] != ["resolve"] or path not in files:
            return self.send(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"})
        digest = sha256(files[path]).hexdigest()
        return self.send(200, files[path], {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def send(self, status, body, headers=None):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@contextmanager
def running():
    """A hub, while the block lasts."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()
