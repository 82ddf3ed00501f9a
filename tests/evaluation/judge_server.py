"""A chat endpoint on this machine, in a thread, that answers as it is told."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[int, dict[str, Any]], tuple[int, dict[str, str], bytes]]


BUSY = 503, {"Retry-After-Ms": "1"}, b"busy"  # else a repeat waits for half a second and more


def chat(content: object) -> tuple[int, dict[str, str], bytes]:
    """A chat completion."""
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()


@dataclass
class Server:
    """What was sent, and where to."""

    address: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    open: int = 0
    max_open: int = 0


@contextmanager
def serving(answer: Answer, delay_s: float = 0.0) -> Iterator[Server]:
    """Serves; `answer` gets the number of requests before this one and the body, and gives status, headers and text."""
    server, lock = Server(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(server.bodies)
                server.bodies.append(body)
                server.headers.append({name.title(): value for name, value in self.headers.items()})
                server.paths.append(self.path)
                server.open += 1
                server.max_open = max(server.max_open, server.open)
            time.sleep(delay_s)
            status, headers, text = answer(number, body)
            with lock:
                server.open -= 1
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(text))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.address = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
