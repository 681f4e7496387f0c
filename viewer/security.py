"""The gate before the page and its sockets: who may connect, from which page, under which name.

A viewer listens on loopback, yet every web page that a browser on this machine visits can reach loopback too. So
each request must carry the token of this run (in the link that the command line prints; afterwards in a cookie),
must name this server as its Host (a foreign name means DNS rebinding), and, when it comes from a page, that page
must be ours (Origin). `Gate.refuse` judges one request; `guarded` puts the gate before a viser server, which has no
such checks of its own. Refusals: 401 without a token, 403 for a foreign Host or Origin.
"""

from __future__ import annotations

import hmac
import http
import ipaddress
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

# Applied to every answer. The page decodes its own bundle (eval, blob workers, data: fonts), but may neither load from
# nor talk to any other server, and may not be framed.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
MOST_MESSAGE = 8_000_000  # bytes of one message from a browser; uploads come in parts
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Refusal:
    """Why a request is turned away, with its HTTP status."""

    status: http.HTTPStatus
    reason: str


@dataclass(frozen=True)
class Gate:
    """Judges requests. `hosts` are further names under which the server may be reached (without port)."""

    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    hosts: tuple[str, ...] = ()

    def refuse(self, headers: Any, path: str, port: int, address: str = "127.0.0.1") -> Refusal | None:
        """None when the request may pass. `headers` maps names to values, `address`:`port` is where it arrived."""
        host = headers.get("Host") or ""
        if not self._names_us(host, port, address):
            return Refusal(http.HTTPStatus.FORBIDDEN, "This address is not one of the viewer's own names.")
        origin = headers.get("Origin")
        if origin is not None and not self._is_ours(origin, host):
            return Refusal(http.HTTPStatus.FORBIDDEN, "Another web page may not use the viewer.")
        if not (self._is_token(self.token_in_link(path)) or self._is_token(self._token_in_cookie(headers, port))):
            return Refusal(http.HTTPStatus.UNAUTHORIZED, "Open the complete link that the command line printed.")
        return None

    def cookie(self, port: int) -> str:
        """The Set-Cookie header that lets this browser in. Cookies ignore ports, so the port is in the name."""
        return f"avatars_{port}={self.token}; HttpOnly; SameSite=Lax; Path=/"

    @staticmethod
    def token_in_link(path: str) -> str | None:
        """The token of `/?token=…`."""
        return parse_qs(urlsplit(path).query).get("token", [None])[0]

    def _token_in_cookie(self, headers: Any, port: int) -> str | None:
        try:
            morsel = SimpleCookie(headers.get("Cookie") or "").get(f"avatars_{port}")
        except CookieError:
            return None
        return morsel.value if morsel else None

    def _is_token(self, candidate: str | None) -> bool:
        return candidate is not None and hmac.compare_digest(candidate.encode("utf-8", "replace"), self.token.encode())

    @staticmethod
    def _is_ours(origin: str, host: str) -> bool:
        try:
            return urlsplit(origin).netloc.lower() == host.lower()
        except ValueError:  # such as "http://["
            return False

    def _names_us(self, host: str, port: int, address: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, given = (parts.hostname or "").lower(), parts.port
        except ValueError:
            return False
        if (given or 80) != port:
            return False
        if name in ("localhost", "127.0.0.1", "::1") or name in (h.lower() for h in self.hosts):
            return True
        try:  # an address (not a name) cannot be rebound
            return ipaddress.ip_address(name) == ipaddress.ip_address(address)
        except ValueError:
            return False


Page = Callable[["Request", int], "Response | None"]
Socket = Callable[["ServerConnection"], Awaitable[bool]]


@contextmanager
def guarded(gate: Gate, page: Page | None = None, socket: Socket | None = None) -> Iterator[None]:
    """While this context lasts, a viser server that is constructed listens behind `gate`.

    viser opens its port by calling `websockets.asyncio.server.serve`; that function is wrapped. `page` may answer a
    permitted plain request (None: viser does), `socket` may take over a permitted socket (False: viser does).
    """
    import websockets.asyncio.server as server

    original = server.serve

    def serve(handler: Any, *args: Any, **options: Any) -> Any:
        inner = options.pop("process_request")

        def process(connection: ServerConnection, request: Request) -> Response | None:
            address, port = connection.local_address[:2]
            refusal = gate.refuse(request.headers, request.path, port, address)
            if refusal is not None:
                return respond(refusal.status, _refusal_page(refusal), "text/html; charset=utf-8")
            if (request.headers.get("Upgrade") or "").lower() == "websocket":
                return None
            if gate.token_in_link(request.path) is not None:  # keep the token out of the address bar and the history
                return respond(http.HTTPStatus.SEE_OTHER, b"", "text/plain", {"Location": "/", "Set-Cookie": gate.cookie(port)})
            answer = page(request, port) if page is not None else None
            if answer is None:
                try:
                    answer = inner(connection, request)
                except (OSError, ValueError):  # a path that no file can have
                    answer = respond(http.HTTPStatus.NOT_FOUND, b"there is no such page", "text/plain")
            for name, value in HEADERS.items():
                if name not in answer.headers:
                    answer.headers[name] = value
            return answer

        async def route(connection: ServerConnection) -> None:
            if socket is None or not await socket(connection):
                await handler(connection)

        options["max_size"] = MOST_MESSAGE
        return original(route, *args, process_request=process, **options)

    with _LOCK:
        server.serve = serve  # type: ignore[assignment]
        try:
            yield
        finally:
            server.serve = original


def respond(status: http.HTTPStatus, body: bytes, kind: str, headers: dict[str, str] | None = None) -> Response:
    """A complete HTTP answer with the protective headers."""
    from websockets.datastructures import Headers
    from websockets.http11 import Response

    fields = {"Content-Type": kind, "Content-Length": str(len(body)), **HEADERS, **(headers or {})}
    return Response(status.value, status.phrase, Headers(fields), body)


def _refusal_page(refusal: Refusal) -> bytes:
    return f"""<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Avatar viewer</title><body style="margin:0;height:100vh;display:grid;place-items:center;background:#15171a;
color:#c9ced6;font:15px/1.6 system-ui,sans-serif"><main style="max-width:26em;padding:2em">
<h1 style="font-size:1.2em;color:#fff;margin:0 0 .4em">This viewer is private</h1><p>{refusal.reason}</p></main>""".encode()
