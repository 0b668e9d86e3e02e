"""Who may see the page: the Host check on loopback, the token, the login's cookie, and the headers of every answer.

Off loopback nothing but the login form is served without the token. The cookie is signed with a key that comes from the token, so it
holds over restarts and ends when the token changes. It must never log a token, nor compare one with `==`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import html
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from inference_dashboard.settings import Settings

COOKIE = "inference_dashboard"
SESSION_SECONDS = 30 * 86_400
WRONG_TOKEN_SECONDS = 0.5
"""Pause before a wrong token is refused; with 16 characters or more, guessing is hopeless long before it matters."""
MAX_FORM_BYTES = 4096
STATIC = Path(__file__).parent / "static"

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-store",
    "Server": "inference-dashboard",
}
_OPEN = frozenset({"/login", "/login.css"})
_WORDS = {
    "en": ("Sign in", "Access token", "Show the line", "This token is not right."),
    "ko": ("로그인", "접근 토큰", "라인 보기", "토큰이 올바르지 않습니다."),
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

logger = logging.getLogger(__name__)


class Access:
    """The gate in front of every handler.

    Args:
        settings: Say who may come in.
        clock: Seconds since 1970.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._token = settings.token.encode()
        self._key = hashlib.sha256(b"inference-dashboard cookie\0" + self._token).digest()
        self._form = (STATIC / "login.html").read_text(encoding="utf-8")
        self._style = (STATIC / "login.css").read_text(encoding="utf-8")

    def install(self, application: web.Application) -> None:
        """Add the routes of the login; the application must have `middleware`."""
        application.on_response_prepare.append(self._on_prepare)
        application.router.add_get("/login", self._show_form)
        application.router.add_get("/login.css", self._show_style)
        application.router.add_post("/login", self._log_in)
        application.router.add_post("/logout", self._log_out)

    @property
    def middleware(self) -> Middleware:
        """Checks each request before its handler sees it."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            if not self._host_is_ours(request):
                return web.Response(status=421, text="this page answers to localhost only\n")
            if request.method not in ("GET", "HEAD") and not self._origin_is_ours(request):
                return web.Response(status=403, text="a request from another page\n")
            if self._token and request.path not in _OPEN and not self._is_known(request):
                wants_page = "text/html" in request.headers.get(hdrs.ACCEPT, "")
                if wants_page and request.method == "GET":
                    return web.Response(status=303, headers={"Location": "/login"})
                return web.Response(
                    status=401,
                    headers={"WWW-Authenticate": 'Bearer realm="dashboard"'},
                    text="the token is missing or wrong\n",
                )
            return await handler(request)

        return check

    async def _on_prepare(self, _request: web.Request, response: web.StreamResponse) -> None:
        for name, value in HEADERS.items():
            if name == "Server" or name not in response.headers:
                response.headers[name] = value
        if self._settings.tls:
            response.headers["Strict-Transport-Security"] = "max-age=31536000"

    def _host_is_ours(self, request: web.Request) -> bool:
        """Whether the request means this machine: a page elsewhere may have its own name point to 127.0.0.1."""
        if not self._settings.loopback or self._settings.behind_proxy:
            return True
        try:
            host = urlsplit(f"//{request.host}").hostname or ""
        except ValueError:
            return False
        return host in ("localhost", "127.0.0.1", "::1", self._settings.listen_address)

    def _origin_is_ours(self, request: web.Request) -> bool:
        origin = request.headers.get("Origin")
        try:
            return origin is None or urlsplit(origin).netloc == request.host
        except ValueError:
            return False

    def _is_known(self, request: web.Request) -> bool:
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(_bytes(given.strip()), self._token):
            return True
        expires, _, signature = request.cookies.get(COOKIE, "").partition(".")
        if not expires.isascii() or not expires.isdigit() or len(expires) > 12:  # noqa: PLR2004 - seconds since 1970
            return False
        return hmac.compare_digest(_bytes(signature), self._sign(expires)) and int(expires) > self._clock()

    def _sign(self, expires: str) -> bytes:
        return hmac.new(self._key, expires.encode(), hashlib.sha256).hexdigest().encode()

    async def _show_form(self, request: web.Request) -> web.Response:
        return self._page(request, wrong=False)

    async def _show_style(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._style, content_type="text/css")

    async def _log_in(self, request: web.Request) -> web.Response:
        form = await request.post()
        given = form.get("token", "")
        if not self._token:
            return web.Response(status=303, headers={"Location": "/"})
        if not isinstance(given, str) or not hmac.compare_digest(_bytes(given.strip()), self._token):
            logger.warning("a login with a wrong token from %s", request.remote)
            await asyncio.sleep(WRONG_TOKEN_SECONDS)
            return self._page(request, wrong=True)
        expires = str(int(self._clock()) + SESSION_SECONDS)
        response = web.Response(status=303, headers={"Location": "/"})
        response.set_cookie(
            COOKIE,
            f"{expires}.{self._sign(expires).decode()}",
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="Strict",
            secure=self._settings.tls or self._settings.behind_proxy,
            path="/",
        )
        return response

    async def _log_out(self, _request: web.Request) -> web.Response:
        response = web.Response(status=303, headers={"Location": "/login" if self._token else "/"})
        response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict")
        return response

    def _page(self, request: web.Request, *, wrong: bool) -> web.Response:
        language = "ko" if request.headers.get(hdrs.ACCEPT_LANGUAGE, "").lower().startswith("ko") else "en"
        title, label, button, complaint = (html.escape(word) for word in _WORDS[language])
        text = self._form
        for name, value in {
            "{{language}}": language,
            "{{title}}": title,
            "{{label}}": label,
            "{{button}}": button,
            "{{complaint}}": f'<p class="wrong" role="alert" id="wrong">{complaint}</p>' if wrong else "",
            "{{invalid}}": 'aria-invalid="true" aria-describedby="wrong"' if wrong else "",
        }.items():
            text = text.replace(name, value)
        return web.Response(status=403 if wrong else 200, text=text, content_type="text/html")


def _bytes(text: str) -> bytes:
    # aiohttp hands out bytes of a header that are not UTF-8 as surrogates.
    return text.encode("utf-8", "surrogateescape")
