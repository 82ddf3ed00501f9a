"""One request to a real server on this machine."""

import asyncio
import socket
import subprocess
import sys
import time
from typing import Any

import pytest

from sdft_ray.errors import EndpointError
from sdft_ray.evaluation.endpoint import ChatEndpoint
from tests.evaluation.judge_server import Answer, chat, serving

BODY = {"model": "m", "messages": []}


def ask(answer: Answer, **settings: Any) -> str:
    with serving(answer) as server:
        return ask_at(server.address, **settings)


def ask_at(address: str, *, api_key: str = "", timeout_s: float = 5.0, max_retries: int = 0) -> str:
    return asyncio.run(ChatEndpoint(address, api_key, timeout_s=timeout_s, max_retries=max_retries).ask(BODY))


def failure(answer: Answer, **settings: Any) -> EndpointError:
    with pytest.raises(EndpointError) as caught:
        ask(answer, **settings)
    return caught.value


def test_the_first_choice_is_the_reply_and_the_key_goes_into_the_header() -> None:
    with serving(lambda number, body: chat("Grüße")) as server:
        assert ask_at(server.address + "/", api_key="secret") == "Grüße"
        assert ask_at(server.address) == "Grüße"
    assert server.paths == ["/v1/chat/completions"] * 2
    assert server.bodies == [BODY, BODY]
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert "Authorization" not in server.headers[1]


def test_an_account_in_the_environment_is_not_told_to_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", "mine")
    with serving(lambda number, body: chat("")) as server:
        ask_at(server.address)
    assert not [value for value in server.headers[0].values() if "mine" in value]


def test_half_a_character_in_a_reply_becomes_one_that_can_be_written() -> None:
    assert ask(lambda number, body: chat("a\ud800b")) == "a?b"


def test_a_reply_without_text_is_empty() -> None:
    assert ask(lambda number, body: chat(None)) == ""


@pytest.mark.parametrize(
    ("status", "is_repeated", "is_general"),
    [(400, False, False), (422, False, False), (401, False, True), (404, False, True), (408, True, True),
     (429, True, True), (503, True, True), (529, True, True)],
)  # fmt: skip
def test_a_status_says_whether_the_same_or_any_request_may_succeed(
    status: int, is_repeated: bool, is_general: bool
) -> None:
    with serving(lambda number, body: (status, {"Retry-After-Ms": "1"}, b"too\nlong")) as server:
        with pytest.raises(EndpointError, match=f"answered {status}: too long") as caught:
            ask_at(server.address, max_retries=1)
        assert (len(server.bodies) == 2, caught.value.is_general) == (is_repeated, is_general)


def test_an_endpoint_may_ask_for_a_wait() -> None:
    started = time.monotonic()
    asked_s = 0.8  # the client's own first wait is at most 0.5 s
    replies = [(429, {"Retry-After": str(asked_s)}, b""), chat("now")]
    assert ask(lambda number, body: replies[number], max_retries=1) == "now"
    assert time.monotonic() - started >= asked_s


def test_a_redirect_is_not_followed_since_the_key_would_go_along() -> None:
    with serving(lambda number, body: chat("stolen")) as elsewhere:
        target = elsewhere.address + "/chat/completions"
        error = failure(lambda number, body: (302, {"Location": target}, b""), api_key="secret", max_retries=1)
        assert error.is_general
        assert not elsewhere.bodies


@pytest.mark.parametrize(
    "text", [b"", b"<html>", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"message": null}]}', b"\xff"]
)
def test_what_is_no_chat_completion_is_a_failure_of_this_request_alone(text: bytes) -> None:
    error = failure(lambda number, body: (200, {}, text))
    assert "sent no chat completion" in str(error)
    assert not error.is_general


def test_nobody_there_a_slow_server_and_a_reply_that_breaks_off_are_out_of_reach() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(EndpointError) as refused:
        ask_at(nobody)
    with serving(lambda number, body: chat(""), delay_s=0.3) as server, pytest.raises(EndpointError) as slow:
        ask_at(server.address, timeout_s=0.05)
    broken = failure(lambda number, body: (200, {"Content-Length": "100"}, b"{"))
    reasons = {
        "connection attempts failed": refused.value,
        "timed out": slow.value,
        "closed connection without": broken,
    }
    for reason, error in reasons.items():
        assert "cannot be reached: " in str(error) and reason in str(error)
        assert error.is_general


def test_only_a_run_with_a_judge_imports_the_client() -> None:
    program = "import sys, sdft_ray.evaluation.evaluator; assert 'openai' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
