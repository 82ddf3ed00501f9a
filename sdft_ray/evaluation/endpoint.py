"""The chat endpoint of a judge, through the `openai` client: the text of a reply or a named failure."""

import json
from collections.abc import Mapping
from typing import Any

import openai

from sdft_ray.errors import EndpointError

REPEATED_STATUSES = frozenset({408, 429})  # and all from 500 on: the client has repeated the request in vain
REFUSING_STATUSES = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405})  # would meet every other request, too


class ChatEndpoint:
    """Sends chat requests to any OpenAI-compatible endpoint.

    The client repeats what may succeed later, after the wait that the endpoint asks for (Retry-After, up to 2 minutes)
    or else after 0.5 s, doubled with each repeat up to 8 s.
    """

    def __init__(self, address: str, api_key: str, *, timeout_s: float, max_retries: int):
        """`address` is that of the API, such as http://HOST:8000/v1; no key is sent where `api_key` is ""."""
        self.url = address.rstrip("/") + "/chat/completions"
        self.num_requests = 0  # repeats included
        # Left out: the stand-in for a key, and the account that the environment names for an endpoint of its own.
        unsent = ("OpenAI-Organization", "OpenAI-Project", *(() if api_key else ("Authorization",)))
        self._headers = dict.fromkeys(unsent, openai.omit)
        self._client = openai.AsyncOpenAI(
            base_url=address,
            api_key=api_key or "none",  # the client insists on one
            timeout=timeout_s,
            max_retries=max_retries,
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False,  # the key would go to whoever the endpoint names
                event_hooks={"request": [self._count]},
            ),
        )

    async def ask(self, body: Mapping[str, Any]) -> str:
        """The content of the reply's first choice, "" where it has none.

        Raises:
            EndpointError: the endpoint could not be reached, refused, or sent something else than a chat completion.
        """
        try:
            # As bytes, since the client's own JSON cannot spell half a surrogate pair, and a completion may hold one.
            content = json.dumps(body).encode()
            text = await self._client.post(
                "/chat/completions", cast_to=str, content=content, options={"headers": self._headers}
            )
        except openai.APIStatusError as error:
            status, said = error.status_code, " ".join(error.response.text.split())[:500]
            is_general = status in REPEATED_STATUSES | REFUSING_STATUSES or status >= 500
            raise EndpointError(f"{self.url} answered {status}: {said}", is_general=is_general) from error
        except openai.APIConnectionError as error:
            reason = str(error.__cause__) or str(error)  # a timeout's cause says nothing
            raise EndpointError(f"{self.url} cannot be reached: {reason}", is_general=True) from error
        try:
            reply = json.loads(text)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise EndpointError(f"{self.url} sent no chat completion: {text[:200]}", is_general=False) from error
        # Half a surrogate pair, which JSON can spell, would end whoever writes the reply to a file.
        return reply.encode(errors="replace").decode() if isinstance(reply, str) else ""

    async def _count(self, request: object) -> None:
        self.num_requests += 1
