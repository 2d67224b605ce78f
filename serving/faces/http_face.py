"""HTTP: the core as a small JSON API with documentation at `/openapi.json` and `/docs`, and optionally MCP at `/mcp`.

    POST /episodes {"split", "index", "id", "seed"}        -> messages and tools
    POST /episodes/{episode}/calls {"name", "arguments", "turn"} -> the tool's result
    POST /episodes/{episode}/turns {"text"}                -> tool messages, for a complete turn as the model wrote it
    POST /episodes/{episode}/finish {"text"}               -> the reward with its parts

The response to a rejected request is {"error": {"code", "message"}}, with a code of `serving/episodes/errors.py` or
`unauthorized`. No path runs code outside the sandbox: a request only names an environment of the server's file and
passes arguments and text.
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from env_construction.environment.jsonl import json_text
from serving.episodes.errors import EpisodeError, ErrorCode
from serving.episodes.outcomes import Outcome
from serving.episodes.server import EpisodeServer

STATUS: dict[ErrorCode, int] = {
    "unknown_split": 404,
    "unknown_environment": 404,
    "unknown_episode": 404,
    "ended": 409,
    "expired": 409,
    "busy": 409,
    "closed_turn": 409,
    "call_limit": 429,
    "byte_limit": 413,
    "bad_request": 422,
    "full": 503,
    "sandbox_fault": 503,
}
LOCAL = ("127.0.0.1", "localhost", "::1")


def _whole(value: Any) -> Any:
    """1.0 is an integer in JSON Schema."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# integers that every JSON parser reads exactly
_Whole = Annotated[int, Field(strict=True, ge=-(2**53), le=2**53), BeforeValidator(_whole)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Reset(_Body):
    split: str | None = None
    index: _Whole | None = None
    id: str | None = None
    seed: _Whole = 0


class Call(_Body):
    name: Annotated[str, Field(min_length=1)]
    arguments: dict[str, Any] = Field(default_factory=dict)
    turn: _Whole | None = None


class Text(_Body):
    text: str


class Ending(_Body):
    text: str | None = None


class Started(BaseModel):
    episode: str
    environment: str
    split: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]


class Result(BaseModel):
    status: str
    output: str
    seconds: float


class TurnAnswer(BaseModel):
    messages: list[dict[str, Any]]
    outcome: Outcome | None


class ErrorBody(BaseModel):
    code: str
    message: str


class Refused(BaseModel):
    error: ErrorBody


class Splits(BaseModel):
    splits: dict[str, int]
    live: int


class _Json(JSONResponse):
    def render(self, content: Any) -> bytes:
        return json_text(content).encode()


_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refused, "description": "rejected; nothing was changed"}
    for status in sorted({400, 401, *STATUS.values()})
}


def http_app(
    episodes: EpisodeServer, *, token: str = "", hosts: tuple[str, ...] = LOCAL, mcp: Server[Any] | None = None
) -> ASGIApp:
    """The application. `token`: required in every request. `hosts`: accepted values of the Host header."""
    manager = StreamableHTTPSessionManager(app=mcp, json_response=True) if mcp is not None else None

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with manager.run() if manager else contextlib.nullcontext():
            yield

    app = FastAPI(title="FTRL environments", version="1", lifespan=lifespan, responses=_REFUSALS)
    _add_errors(app)
    _add_routes(app, episodes)
    if manager is not None:
        app.router.routes.append(Route("/mcp", endpoint=StreamableHTTPASGIApp(manager)))
    checked: ASGIApp = _Checked(app, token, 2 * episodes.limits.request_bytes)
    return TrustedHostMiddleware(checked, allowed_hosts=[*hosts, "[::1]"]) if "*" not in hosts else checked


def _add_routes(app: FastAPI, episodes: EpisodeServer) -> None:
    def says(model: Any) -> dict[str, Any]:
        return {"response_class": _Json, "response_model": None, "responses": {200: {"model": model}}}

    @app.get("/splits", **says(Splits))
    async def splits() -> Response:
        """The splits of the file, how many environments each has, and how many episodes are live."""
        return _Json({"splits": {name: len(some) for name, some in episodes.splits.items()}, "live": episodes.live()})

    @app.post("/episodes", **says(Started))
    async def reset(body: Reset) -> Response:
        """Start an episode: by `id`, by `index` in a `split`, or at random by `seed`."""
        return _Json(asdict(episodes.reset(body.split, body.index, body.id, body.seed)))

    @app.post("/episodes/{episode}/calls", **says(Result))
    async def call(episode: str, body: Call) -> Response:
        """Run one tool call. Calls with the same `turn` belong to one turn of the model."""
        result = await episodes.call_async(episode, body.name, body.arguments, body.turn)
        return _Json({"status": result.status, "output": result.output, "seconds": result.seconds})

    @app.post("/episodes/{episode}/turns", **says(TurnAnswer))
    async def turn(episode: str, body: Text) -> Response:
        """Accept a complete turn as the model wrote it. A turn without a call ends the episode."""
        return _Json(asdict(await episodes.turn_async(episode, body.text)))

    @app.post("/episodes/{episode}/finish", **says(Outcome))
    async def finish(episode: str, body: Ending) -> Response:
        """End the episode, optionally with its final text. Returns the reward with its parts."""
        return _Json(asdict(await episodes.finish_async(episode, body.text)))


def _add_errors(app: FastAPI) -> None:
    async def refused(_: Request, error: Any) -> Response:
        return _Json(_error(error.code, str(error)), status_code=STATUS[error.code])

    async def invalid(_: Request, error: Any) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return _Json(_error("bad_request", f"{place}: {first['msg']}"), status_code=422)

    async def http(_: Request, error: Any) -> Response:
        code = "byte_limit" if error.status_code == 413 else "bad_request"
        return _Json(_error(code, str(error.detail)), status_code=error.status_code, headers=error.headers)

    app.add_exception_handler(EpisodeError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


class _Checked:
    """Checks the token and the size of the body before the request is parsed."""

    def __init__(self, app: ASGIApp, token: str, most: int) -> None:
        self._app, self._most = app, most
        self._wanted = f"Bearer {token}".encode() if token else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self._wanted and not hmac.compare_digest(headers.get(b"authorization", b""), self._wanted):
            answer = _Json(_error("unauthorized", "expected the header 'Authorization: Bearer TOKEN'"), 401)
            await answer(scope, receive, send)
            return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most:
            await _Json(_error("byte_limit", f"the limit is {self._most} bytes per request"), 413)(scope, receive, send)
            return
        await self._app(scope, _counted(receive, self._most), send)


def _counted(receive: Receive, most: int) -> Callable[[], Any]:
    """`receive` that rejects a body without a declared length once it is too long."""
    left = most

    async def counted() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(413, f"the limit is {most} bytes per request")
        return message

    return counted
