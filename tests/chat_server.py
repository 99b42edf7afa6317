"""A loopback server that speaks OpenAI's chat protocol and gives what a test tells it to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Failure:
    """What a server does instead of answering: a status, raw bytes, silence, or a closed connection."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b'{"error": "no"}'
    seconds: float = 0.0
    closes: bool = False


Answer = str | Failure


class ChatServer:
    """Gives what stands in `script`, one after the other, and then what `say` makes of the request."""

    def __init__(self, say: Callable[[dict[str, Any]], Answer]) -> None:
        self.say, self.script = say, list[Answer]()
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.busy = self.most_busy = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer._answer(self)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A client that hung up is none of the test's concern."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.asked.append(request)
            self.keys.append(handler.headers.get("Authorization"))
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
            said = self.script.pop(0) if self.script else self.say(request)
        given = said if isinstance(said, Failure) else Failure(body=json.dumps(completion(request, said)).encode())
        time.sleep(given.seconds)
        with self._lock:
            self.busy -= 1
        if given.closes:
            handler.close_connection = True
            return
        handler.send_response(given.status)
        for name, value in given.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(given.body)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def completion(request: Mapping[str, Any], text: str) -> dict[str, Any]:
    """A chat completion; its tokens are words."""
    prompt = sum(len(message["content"].split()) for message in request["messages"])
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": len(text.split())},
    }
