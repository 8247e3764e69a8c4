"""A chat endpoint of the tests, on 127.0.0.1, that answers like real ones: also badly.

A `script` says what happens: it gets the prompt and the number of times that it was asked before,
and returns the text of the answer or a fault. Faults are "hangs", "429", "400", "503",
"not-json", "no-choices", "empty", "cut", "redirect" and "drips" (a byte per 50 ms).
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

Script = Callable[[str, int], "str | Fault"]


class Fault(NamedTuple):
    """Something else than an answer."""

    name: str


class ChatServer(ThreadingHTTPServer):
    """Records the prompts and the headers of all requests."""

    daemon_threads = True

    def __init__(self, script: Script, models: tuple[str, ...]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.models = script, models
        self.prompts: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.times_asked: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        models = [{"id": name, "object": "model"} for name in self.server.models]
        self._send(200, json.dumps({"data": models}))

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        with server.lock:
            server.prompts.append(prompt)
            server.headers.append(dict(self.headers))
            times = server.times_asked[prompt]
            server.times_asked[prompt] += 1
        reply = server.script(prompt, times)
        if isinstance(reply, Fault):
            self._misbehave(reply.name)
        else:
            self._send(200, json.dumps(_record(reply)))

    def _misbehave(self, fault: str) -> None:
        good = json.dumps(_record("A question that nobody gets?"))
        match fault:
            case "hangs":
                self.server.closing.wait(20)
            case "drips":
                self.send_response(200)
                self.end_headers()
                for byte in good.encode():
                    if self.server.closing.wait(0.05):
                        return
                    self.wfile.write(bytes([byte]))
            case "429":
                self._send(429, '{"error": "slow down"}', **{"Retry-After": "0.01"})
            case "400":
                self._send(400, '{"error": "the content policy forbids it"}')
            case "401":
                self._send(401, '{"error": "invalid key"}')
            case "503":
                self._send(503, "<html>busy</html>", **{"Retry-After": "0.01"})
            case "not-json":
                self._send(200, "<html>It works!</html>")
            case "no-choices":
                self._send(200, '{"choices": []}')
            case "empty":
                self._send(200, json.dumps(_record("  ")))
            case "cut":
                self.send_response(200)
                self.send_header("Content-Length", str(len(good) + 9))
                self.end_headers()
                self.wfile.write(good.encode())
            case "redirect":
                self._send(307, "", Location=f"{self.server.url}/elsewhere")

    def _send(self, status: int, text: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(text.encode())), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


def _record(text: str) -> dict[str, object]:
    return {
        "choices": [{"message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3},
    }


@contextmanager
def chat_server(script: Script, models: tuple[str, ...] = ("toy-chat",)) -> Iterator[ChatServer]:
    """A server that runs within the block."""
    with ChatServer(script, models) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.closing.set()
        server.shutdown()
