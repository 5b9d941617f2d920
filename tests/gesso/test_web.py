"""The guards before a page's routes, and how its server begins and ends."""

import http.client
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gesso import web
from gesso.errors import UserError
from tests.serving import answering

LIMIT = 1000


def look(_: Request) -> Response:
    return web.send(b"a page", "text/html; charset=utf-8", "no-cache")


def fail(request: Request) -> Response:
    raise {"user": UserError("the folder is gone: make it again"), "bug": ValueError("negative")}[
        request.path_params["how"]
    ]


class Kept(web.Server):
    """Keeps what is written."""

    def __init__(self, port: int = 0) -> None:
        self.written: list[Any] = []
        routes = [Route("/", look), Route("/fail/{how}", fail), Route("/keep", self.keep, methods=["POST"])]
        super().__init__(port, routes, LIMIT)

    def keep(self, request: Request) -> Response:
        self.written.append(web.written(request))
        return web.respond({"kept": len(self.written), "word": "père"})


@pytest.fixture
def served() -> Iterator[Kept]:
    with Kept() as server, answering(server):
        yield server


def ask(server: web.Server, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, Any]:
    """Status, body and headers of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    read = answer.read()
    connection.close()
    is_json = method != "HEAD" and "json" in answer.headers["Content-Type"]
    return answer.status, json.loads(read) if is_json else read, answer.headers


class TestReads:
    def test_a_page(self, served: Kept) -> None:
        status, body, headers = ask(served, "GET", "/")
        assert (status, body, headers["Content-Type"]) == (200, b"a page", "text/html; charset=utf-8")
        assert headers["Cache-Control"] == "no-cache"
        assert headers["Server"] == "gesso"
        assert {name: headers[name] for name in web.POLICY} == web.POLICY

    @pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example", ""])
    def test_of_another_host(self, served: Kept, host: str) -> None:
        status, body, headers = ask(served, "GET", "/", Host=host)
        assert (status, body) == (421, {"error": f"this is {served.url}, but the request is for another host"})
        assert {name: headers[name] for name in web.POLICY} == web.POLICY

    @pytest.mark.parametrize("name", ["localhost", "LOCALHOST", "127.0.0.1"])
    def test_of_this_host(self, served: Kept, name: str) -> None:
        assert ask(served, "GET", "/", Host=f"{name}:{served.port}")[0] == 200

    @pytest.mark.parametrize(("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200)])
    def test_of_a_page(self, served: Kept, site: str, status: int) -> None:
        assert ask(served, "GET", "/", Sec_Fetch_Site=site)[0] == status

    def test_what_is_not_there(self, served: Kept) -> None:
        assert ask(served, "GET", "/x")[:2] == (404, {"error": "GET /x is not known here"})
        assert ask(served, "GET", "/keep")[0] == 404

    @pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
    def test_other_methods(self, served: Kept, method: str) -> None:
        assert ask(served, method, "/")[0] == 501

    def test_faults_are_told_in_a_line(self, served: Kept) -> None:
        assert ask(served, "GET", "/fail/user")[:2] == (500, {"error": "the folder is gone: make it again"})
        status, body, headers = ask(served, "GET", "/fail/bug")
        assert (status, body) == (500, {"error": "a bug: ValueError: negative"})
        assert {name: headers[name] for name in web.POLICY} == web.POLICY


class TestWrites:
    def test_with_the_token(self, served: Kept) -> None:
        status, body, headers = ask(served, "POST", "/keep", b'{"a": 1}', X_Gesso_Token=served.token)
        assert (status, body) == (200, {"kept": 1, "word": "père"})
        assert (headers["Content-Type"], headers["Cache-Control"]) == ("application/json; charset=utf-8", "no-store")
        assert served.written == [{"a": 1}]

    @pytest.mark.parametrize(
        "headers", [{}, {"X_Gesso_Token": ""}, {"X_Gesso_Token": "é"}, {"X_Gesso_Token": "x" * 43}]
    )
    def test_without(self, served: Kept, headers: dict[str, str]) -> None:
        status, body, _ = ask(served, "POST", "/keep", b"{}", **headers)
        assert (status, body) == (403, {"error": "not written by this page: reload it"})
        assert served.written == []

    @pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1"])
    def test_of_another_origin(self, served: Kept, origin: str) -> None:
        assert ask(served, "POST", "/keep", b"{}", X_Gesso_Token=served.token, Origin=origin)[0] == 403
        assert served.written == []

    def test_of_this_origin(self, served: Kept) -> None:
        origin = served.url.rstrip("/")
        assert ask(served, "POST", "/keep", b"{}", X_Gesso_Token=served.token, Origin=origin)[0] == 200

    def test_of_another_host(self, served: Kept) -> None:
        assert ask(served, "POST", "/keep", b"{}", X_Gesso_Token=served.token, Host="evil.example")[0] == 421
        assert served.written == []

    @pytest.mark.parametrize(
        ("body", "status"),
        [(b"[1]", 400), (b"{", 400), (b"\xff", 400), (b"[" * LIMIT, 400), (b"[" * (LIMIT + 1), 413)],
    )
    def test_of_what_is_no_object(self, served: Kept, body: bytes, status: int) -> None:
        assert ask(served, "POST", "/keep", body, X_Gesso_Token=served.token)[0] == status
        assert served.written == []

    def test_of_an_unknown_length(self, served: Kept) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
        connection.request("POST", "/keep", iter([b"{}"]), {"X-Gesso-Token": served.token}, encode_chunked=True)
        assert connection.getresponse().status == 413
        connection.close()

    def test_a_writer_that_goes_away(self, served: Kept) -> None:
        with socket.create_connection(("127.0.0.1", served.port)) as writer:
            writer.sendall(b"POST /keep HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert ask(served, "GET", "/")[0] == 200
        assert served.written == []


class TestServer:
    def test_listens_on_loopback_alone(self, served: Kept) -> None:
        assert served.url == f"http://127.0.0.1:{served.port}/"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", served.port))

    def test_small_answers_are_not_held_back(self, served: Kept) -> None:
        """Nagle's algorithm would cost 40 ms each; asyncio turns it off where the socket names its protocol."""
        assert served._socket.proto == socket.IPPROTO_TCP

    def test_a_port_that_is_taken(self, served: Kept) -> None:
        with pytest.raises(UserError, match=f"port {served.port} is not available .*: give another --port, or 0"):
            Kept(served.port)

    def test_no_port(self) -> None:
        with pytest.raises(UserError, match="port 70000 is not available"):
            Kept(70_000)

    def test_an_interrupt_ends_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        with Kept() as server:
            asking = threading.Thread(target=lambda: (ask(server, "GET", "/"), os.kill(os.getpid(), signal.SIGINT)))
            asking.start()
            server.serve("Ctrl-C ends")
            asking.join()
            assert capsys.readouterr().out == f"{server.url}  (Ctrl-C ends)\n\n"
            assert server.is_ending
