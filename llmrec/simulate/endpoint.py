"""A client of an OpenAI-compatible server. What the server sends is limited in size and time, and never executed."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import Any, Literal

from llmrec.errors import UserError, printable_line
from llmrec.files import cause_of

Api = Literal["chat", "completions"]
LIKELIEST = 20
"""Number of log-probabilities that are asked for; vLLM and others allow no more without a setting."""
ANSWER_TOKENS = 8
"""Length of an answer that is read by its text."""
LARGEST_BYTES = 1 << 20
LONGEST_REASON = 100
REFUSED = (400, 422)
"""Status of a request with a parameter that the server does not take."""
LOCAL = ("localhost", "127.0.0.1", "::1")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it would carry the key to an address that the user has not named."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Return None, so that the redirect is an error."""


@dataclass
class Endpoint:
    """A model behind `/v1/chat/completions` or `/v1/completions`.

    Attributes:
        url: address that ends in `/v1` (`checked_url`).
        model: the server's name of the model.
        api: which of the two.
        timeout: seconds until an answer must be there.
        key: key that is sent as `Authorization: Bearer`; None sends none.
        log_probs: whether log-probabilities of one token are asked for; False after the server has refused them.
    """

    url: str
    model: str
    api: Api = "chat"
    timeout: float = 60.0
    key: str | None = field(default=None, repr=False)
    log_probs: bool = True

    def complete(self, system: str, text: str) -> tuple[str, dict[str, float] | None]:
        """Ask for a short greedy answer.

        Args:
            system: instruction of the system message; without chat it stands before the text.
            text: the question.

        Returns:
            The text of the answer, and log-probabilities of the likeliest first tokens; None if there are none.

        Raises:
            UserError: the server cannot be reached, is too slow, or answers with an error or something else.
        """
        refused = False
        if self.log_probs:
            try:
                answer = self._read(self._post(self._body(system, text, True)))
                if answer[1] is not None:
                    return answer
            except _RefusedError:
                refused = True
        answer = self._read(self._post(self._body(system, text, False)))
        if refused:  # and the same request without them is not
            self.log_probs = False
        return answer

    def _body(self, system: str, text: str, log_probs: bool) -> dict[str, Any]:
        length = 1 if log_probs else ANSWER_TOKENS
        settings = {"model": self.model, "max_tokens": length, "temperature": 0}
        if self.api == "chat":
            messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
            wanted = {"logprobs": True, "top_logprobs": LIKELIEST} if log_probs else {}
            return settings | {"messages": messages} | wanted
        wanted = {"logprobs": LIKELIEST} if log_probs else {}
        return settings | {"prompt": f"{system}\n\n{text}\nAnswer:"} | wanted

    def _post(self, body: dict[str, Any]) -> Any:
        """Send a request, and return the JSON of its answer."""
        address = f"{self.url}/{'chat/completions' if self.api == 'chat' else 'completions'}"
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)  # noqa: S310
        opener = urllib.request.build_opener(_NoRedirects)
        end = time.monotonic() + self.timeout
        try:
            with opener.open(request, timeout=self.timeout) as response:
                content = _limited(response, end)
            return json.loads(content)
        except urllib.error.HTTPError as error:
            reason = self._reason(error, end)
            kind = _RefusedError if error.code in REFUSED else UserError
            raise kind(f"{address}: HTTP {error.code}{reason}") from None
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
                told = f"no answer within {self.timeout:g} s (--timeout)"
            else:
                told = cause_of(error) if isinstance(error, OSError) else "no HTTP answer"
            raise UserError(f"{address}: {told}") from None
        except OverflowError:
            raise UserError(f"{address}: the answer is larger than {LARGEST_BYTES >> 20} MiB") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{address}: the answer cannot be read: {cause_of(error)}") from None

    def _reason(self, error: urllib.error.HTTPError, end: float) -> str:
        """Return what the server says of an error, in a few printable characters without the key."""
        try:
            content = json.loads(_limited(error, end))
            told = content.get("error", content)
            told = told.get("message", "") if isinstance(told, dict) else told
        except (
            OSError,
            ValueError,
            AttributeError,
            ArithmeticError,
            RecursionError,
            http.client.HTTPException,
        ):
            return ""
        if not isinstance(told, str):
            return ""
        if self.key:
            told = told.replace(self.key, "…")
        told = printable_line(told[:1000])
        return f": {told[:LONGEST_REASON]}" if told else ""

    def _read(self, content: Any) -> tuple[str, dict[str, float] | None]:
        """Return text and log-probabilities of an answer.

        Raises:
            UserError: the answer is not that of the API.
        """
        try:
            choice = content["choices"][0]
            text = choice["message"]["content"] if self.api == "chat" else choice["text"]
            return str(text or ""), self._first_token(choice.get("logprobs"))
        except (LookupError, TypeError, AttributeError, ValueError):
            other = "completions" if self.api == "chat" else "chat"
            raise UserError(
                f"{self.url}: the answer is not that of the {self.api} API; is `--api {other}` meant?"
            ) from None

    def _first_token(self, log_probs: Any) -> dict[str, float] | None:
        """Return the log-probabilities of the likeliest first tokens; None if the server has returned none."""
        if not log_probs:
            return None
        if self.api == "chat":
            entries = (log_probs.get("content") or [{}])[0].get("top_logprobs") or []
            return {str(entry["token"]): float(entry["logprob"]) for entry in entries} or None
        top = (log_probs.get("top_logprobs") or [None])[0] or {}
        return {str(token): float(value) for token, value in top.items()} or None


class _RefusedError(UserError):
    """The server does not take a parameter of the request."""


def checked_url(text: str) -> str:
    """Return the address of a server's API, which ends in `/v1`.

    Raises:
        UserError: it is no http address, or it holds a user name, a password or parameters.
    """
    try:
        parts = urllib.parse.urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or not text.isprintable() or " " in text:
        raise UserError(f"--endpoint: expected http://HOST:PORT or https://…, found {text[:60]!r}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError("--endpoint: no user, password or parameters in the address; a key is LLMREC_API_KEY")
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path if path.endswith('/v1') else path + '/v1'}"


def is_open(url: str) -> bool:
    """Whether what is sent to an address can be read on the way: it is not https, and not on this machine."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in LOCAL


def _limited(response: Any, end: float) -> bytes:
    """Read an answer of at most `LARGEST_BYTES` until a time of the monotonic clock.

    Raises:
        OverflowError: the answer is larger.
        TimeoutError: it has not ended in time.
    """
    content = bytearray()
    while piece := response.read1(1 << 16):
        content += piece
        if len(content) > LARGEST_BYTES:
            raise OverflowError
        if time.monotonic() > end:
            raise TimeoutError
    return bytes(content)
