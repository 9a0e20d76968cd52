"""What W&B's server answers to its public API client, from files that wandb itself wrote offline.

The shapes of questions and answers are those of ``wandb/apis/public`` of the installed version; the
server is a stand-in and no recording of the live service.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ffalora_cli.records.trackers.wandb_file import entries

VIEWER = {"id": "1", "entity": "me", "username": "me", "name": "me", "flags": "{}", "admin": False}


def node(files) -> dict:
    """One run as GraphQL has it, put together from its offline files in order."""
    run, config, summary, history = None, {}, {}, []
    for file in files:
        for entry in entries(file):
            if entry.HasField("run"):
                run = entry.run
                config |= {i.key: {"value": json.loads(i.value_json)} for i in run.config.update}
            rows = {_key(item): json.loads(item.value_json) for item in entry.history.item}
            history += [rows] if rows else []
            summary |= {_key(i): json.loads(i.value_json) for i in entry.summary.update}
    return {
        "id": "UnVu",
        "name": run.run_id,
        "displayName": run.display_name,
        "tags": list(run.tags),
        "group": run.run_group,
        "state": "finished",
        "config": json.dumps(config),
        "summaryMetrics": json.dumps(summary),
        "historyLineCount": len(history),
        "history": [json.dumps(row) for row in history],
        "user": {"name": "me", "username": "me"},
        "createdAt": "2026-11-24T00:00:00",
        "projectId": "7",
    }


def _key(item) -> str:
    return item.key or "/".join(item.nested_key)


class Server(ThreadingHTTPServer):
    """Answers for one project; keeps what it was asked.

    Args:
        runs: nodes, two a page.
    """

    def __init__(self, runs):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs, self.asked = runs, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, query: str, variables: dict) -> dict:
        self.asked.append((query, variables))
        if "query Runs(" in query:
            return {"project": self._page(int(variables.get("cursor") or 0))}
        if "query RunFullHistory(" in query:
            (run,) = [r for r in self.runs if r["name"] == variables["name"]]
            return {"project": {"run": {"history": run["history"][: variables["samples"]]}}}
        if "query ProjectInternalId(" in query:
            return {"project": {"id": "UHJv", "internalId": "7"}}
        if "query GetProjects(" in query:
            project = {"id": "UHJv", "name": "demo", "entityName": "me", "user": None}
            project |= {"createdAt": "2026-11-24T00:00:00", "isBenchmark": False}
            info = {"endCursor": None, "hasNextPage": False}
            return {"models": {"edges": [{"node": project, "cursor": "1"}], "pageInfo": info}}
        if "mutation upsertView(" in query:
            return {"upsertView": {"view": self._view(variables), "inserted": True}}
        return {"viewer": VIEWER}

    def _view(self, variables: dict) -> dict:
        kept = ("name", "displayName", "description", "type", "spec")
        project = {"id": "UHJv", "name": variables["projectName"], "entityName": "me"}
        shown = {key: variables[key] for key in kept}
        return {"id": "Vmlldzo3", **shown, "project": project, "updatedAt": "2026-11-24T00:00:00"}

    def _page(self, at: int) -> dict:
        hidden = ("history",)
        shown = [{k: v for k, v in run.items() if k not in hidden} for run in self.runs]
        edges = [
            {"node": run, "cursor": str(number)}
            for number, run in enumerate(shown[at : at + 2], start=at + 1)
        ]
        info = {"endCursor": str(at + 2), "hasNextPage": at + 2 < len(shown)}
        return {"runCount": len(shown), "runs": {"edges": edges, "pageInfo": info}}


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        found = self.path.endswith("/graphql")
        answer = b"{}"
        if found:
            question = json.loads(body)
            data = self.server.answer(question["query"], question.get("variables") or {})
            answer = json.dumps({"data": data}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass
