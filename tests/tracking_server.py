"""A tracking server of the tests, on 127.0.0.1: what W&B's client asks for, and what can go wrong.

`answers` records runs, `knows-the-run` has 40 steps of each before, `hangs` answers after a minute,
`refuses-the-key` answers 401, and `dies` goes away for good after the first metrics.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Fault = Literal["answers", "knows-the-run", "hangs", "refuses-the-key", "dies"]

PROJECT = {"id": "1", "name": "tests", "entity": {"id": "2", "name": "tester"}}
RUN = {"id": "3", "name": "run", "displayName": "run", "config": "{}", "project": PROJECT}
ANSWER = {
    "viewer": {"id": "4", "entity": "tester", "username": "tester", "flags": "{}"},
    "serverInfo": {"features": []},
    "model": {"bucket": None, **PROJECT},
    "upsertBucket": {"inserted": True, "bucket": {**RUN, "historyLineCount": 0}},
    "createRunFiles": {"runID": "3", "uploadHeaders": [], "files": []},
    "project": {"allViews": {"edges": [{"node": {"spec": json.dumps({"version": 7})}}]}},
}

KNOWN_RUN = {
    "model": {
        **PROJECT,
        "bucket": {
            **RUN,
            "logLineCount": 0,
            "historyLineCount": 40,
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps({"_step": 39, "_runtime": 3.0})]),
            "eventsTail": "[]",
            "summaryMetrics": "{}",
            "wandbConfig": '{"t": 1}',
            "tags": [],
        },
    }
}


class TrackingServer(ThreadingHTTPServer):
    """Records the body of every request in `received`."""

    daemon_threads = True

    def __init__(self, fault: Fault) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fault = fault
        self.received: list[bytes] = []

    @property
    def url(self) -> str:
        """The value of WANDB_BASE_URL."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def answer(self) -> None:
        server = self.server
        server.received.append(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        if server.fault == "hangs":
            time.sleep(60)
        if server.fault == "dies" and self.path.endswith("/file_stream"):
            threading.Thread(target=server.shutdown).start()
            server.server_close()
            return
        is_refused = server.fault == "refuses-the-key"
        data = ANSWER | (KNOWN_RUN if server.fault == "knows-the-run" else {})
        self.send_response(401 if is_refused else 200)
        self.end_headers()
        answer = {"errors": [{"message": "invalid key"}]} if is_refused else {"data": data}
        self.wfile.write(json.dumps(answer).encode())

    do_GET = do_POST = do_PUT = answer

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def tracking_server(fault: Fault) -> Iterator[TrackingServer]:
    """A server that runs within the block."""
    with TrackingServer(fault) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
