"""Signing in on the page: a browser keeps the key in a cookie, and it goes on to the API as any client's would."""

from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "winnow_key"


class SignIn:
    """ASGI middleware around what asks for keys: the cookie's key becomes an Authorization header.

    A visitor who is refused for want of a key is led to the form that takes one. The cookie is for this site alone, and
    what other sites would have a browser post is refused as it is without a key.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        key = request.cookies.get(COOKIE)
        if key and "authorization" not in request.headers:
            # In the scope itself, as what is outside of this reads there which route was found.
            scope["headers"] = [*scope["headers"], (b"authorization", f"Bearer {key}".encode("latin-1"))]
        if request.url.path.startswith("/v1/") or "text/html" not in request.headers.get("accept", ""):
            await self._app(scope, receive, send)
            return
        led = False

        async def lead(message: Message) -> None:
            nonlocal led
            if message["type"] == "http.response.start" and message["status"] == 401:
                led = True
                there = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                if request.method != "GET":  # what a form is sent to is no page to come back to
                    there = "/"
                await RedirectResponse(f"/signin?next={quote(there)}", 303)(scope, receive, send)
            elif not led:
                await send(message)

        await self._app(scope, receive, lead)


def own_address(text: str) -> str:
    """An address of this service to go on to; its first page for any other."""
    try:
        parts = urlsplit(text)
    except ValueError:  # no address at all, such as http://[
        return "/"
    own = not parts.scheme and not parts.netloc and text.startswith("/") and "\\" not in text
    return text if own and not text.startswith("//") else "/"
