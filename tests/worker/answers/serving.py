"""A real server of chat completions, which answers as a test wants it to: late, broken, elsewhere, or not at all."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Said:
    """What the server does with one call. `hang`: seconds of silence; `drip`: seconds between single bytes; `cut`: it hangs up."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    hang: float = 0.0
    drip: float = 0.0
    cut: bool = False


@dataclass
class Call:
    """One call as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float


def completion(text: str, finish: str = "stop", usage: dict[str, int] | None = None, **more: Any) -> bytes:
    told = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3} if usage is None else usage,
    }
    return json.dumps(told | more).encode()


class Server:
    """`calls`: all that came, in order; `together`: how many were at once at most."""

    def __init__(self, answer: Callable[[int, Call], Said]) -> None:
        self.calls: list[Call] = []
        self.together = self._now = 0
        self._lock = threading.Lock()
        self._answer = answer
        serving = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                serving._handle(self)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.port = int(self._http.server_address[1])
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/v1"

    def asked(self) -> list[tuple[str, int]]:
        """(last message, seed) of each call."""
        return [(call.body["messages"][-1]["content"], call.body["seed"]) for call in self.calls]

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        sent = handler.rfile.read(int(handler.headers["content-length"]))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        call = Call(handler.path, headers, json.loads(sent), time.monotonic())
        with self._lock:
            number = len(self.calls)
            self.calls.append(call)
            self._now += 1
            self.together = max(self.together, self._now)
        try:
            self._say(handler, self._answer(number, call))
        except OSError:  # the caller has gone
            handler.close_connection = True
        finally:
            with self._lock:
                self._now -= 1

    def _say(self, handler: BaseHTTPRequestHandler, said: Said) -> None:
        time.sleep(said.hang)
        if said.cut:
            handler.close_connection = True
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhalf an ans")
            return
        handler.send_response(said.status)
        for name, value in said.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(said.body)))
        handler.end_headers()
        if not said.drip:
            handler.wfile.write(said.body)
            return
        for byte in said.body:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(said.drip)


@contextmanager
def serving(answer: Callable[[int, Call], Said]) -> Iterator[Server]:
    server = Server(answer)
    try:
        yield server
    finally:
        server.close()
