"""Sign-in of the page: the browser keeps the API key in a cookie, which becomes the Authorization header."""

from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import Message, Receive, Scope, Send

from service.http.middleware import HttpMiddleware

COOKIE = "winnow_key"


class SignInMiddleware(HttpMiddleware):
    """Turns the cookie into an Authorization header, and redirects a page's 401 to the sign-in form.

    It is outside of the authentication, which still refuses writes from pages of another origin.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on; the answer of a page that needs a key becomes a redirect."""
        request = Request(scope)
        key = request.cookies.get(COOKIE)
        if key and "authorization" not in request.headers:
            # Changed in place: middleware further out reads the matched route from the same scope.
            scope["headers"] = [*scope["headers"], (b"authorization", f"Bearer {key}".encode("latin-1"))]
        if request.url.path.startswith("/v1/") or "text/html" not in request.headers.get("accept", ""):
            await self.app(scope, receive, send)
            return
        redirected = False

        async def redirecting_send(message: Message) -> None:
            nonlocal redirected
            if message["type"] == "http.response.start" and message["status"] == 401:
                redirected = True
                query = f"?{request.url.query}" if request.url.query else ""
                back = request.url.path + query if request.method == "GET" else "/"
                await RedirectResponse(f"/signin?next={quote(back)}", 303)(scope, receive, send)
            elif not redirected:
                await send(message)

        await self.app(scope, receive, redirecting_send)


def local_address(text: str) -> str:
    """The address if it is a path of this service, else `/`: a redirect never leads to another site."""
    try:
        parts = urlsplit(text)
    except ValueError:  # such as http://[
        return "/"
    local = not parts.scheme and not parts.netloc and text.startswith("/") and "\\" not in text
    return text if local and not text.startswith("//") else "/"
