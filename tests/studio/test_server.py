"""The studio's server: what the page reads and asks for, over loopback."""

import base64
import http.client
import io
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gesso.errors import UserError
from gesso.generation.output import png
from gesso.studio.folders import Folder
from gesso.studio.runs import Stopped
from gesso.studio.server import Server
from tests.serving import answering
from tests.studios import GRID, SIDE, Fake, Gate, codes_of, runs_of, write_evaluation, write_generated

ASKED = {"caption": "a red apple", "n": 2, "temperature": 1, "top_k": 0, "top_p": 1, "seed": 5, "start": None}


class Client:
    """Asks a server as its page does."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def ask(self, method: str, path: str, value: Any = None, **headers: str) -> tuple[int, Any, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        connection.request(method, path, None if value is None else json.dumps(value), named)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, json.loads(body) if "json" in answer.headers["Content-Type"] else body, answer.headers

    def get(self, path: str) -> Any:
        status, body, _ = self.ask("GET", path)
        assert status == 200, body
        return body

    def post(self, path: str, value: Any) -> tuple[int, Any]:
        return self.ask("POST", path, value, X_Gesso_Token=self.server.token)[:2]

    def draw(self, **change: Any) -> str:
        status, body = self.post("/draw", {**ASKED, **change})
        assert status == 200, body
        return str(body["id"])

    def drawn(self, **change: Any) -> str:
        """A run, once it has ended."""
        name = self.draw(**change)
        run = self.server.runs.get(name)
        assert run
        assert run.future
        run.future.result(20)
        return name


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("folders")
    captions = ["a red apple", *(f"pear {number}" for number in range(30))]
    first = write_generated(root / "out", captions, 2)
    write_evaluation(first / "evaluation")
    return [first, write_generated(root / "more"), write_evaluation(root / "figures")]


@pytest.fixture(scope="module")
def client(folders: list[Path]) -> Iterator[Client]:
    opened = [Folder(str(each)) for each in folders]
    with closing(runs_of(Fake())) as made, Server(0, made, opened) as server, answering(server):
        yield Client(server)


@pytest.fixture
def held(gate: Gate) -> Iterator[Client]:
    """A server whose generator waits at the gate."""
    with closing(runs_of(Fake(gate=gate))) as made, Server(0, made) as server, answering(server):
        yield Client(server)
        gate.open()


def pixels(body: bytes) -> Any:
    with Image.open(io.BytesIO(body)) as image:
        return np.asarray(image)


class TestPage:
    @pytest.mark.parametrize(
        ("path", "kind"),
        [("/", "text/html"), ("/studio.css", "text/css"), ("/studio.js", "text/javascript"), ("/?x", "text/html")],
    )
    def test_its_files(self, client: Client, path: str, kind: str) -> None:
        status, _, headers = client.ask("GET", path)
        assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        assert "script-src 'self';" in headers["Content-Security-Policy"]

    def test_it_has_no_script_and_no_style_inline(self, client: Client) -> None:
        page = client.get("/").decode()
        assert "<style" not in page
        assert " style=" not in page
        assert page.count("<script") == page.count('<script src="studio.js" defer></script>') == 1

    @pytest.mark.parametrize(
        "path",
        ["/server.py", "/../pyproject.toml", "/%2e%2e/pyproject.toml", "//etc/passwd", "/folders", "/runs/x/0.png"],
    )
    def test_nothing_else(self, client: Client, path: str) -> None:
        assert client.ask("GET", path)[0] == 404

    def test_about(self, client: Client) -> None:
        about = client.get("/about")
        assert about["token"] == client.server.token
        assert about["model"] == {"grid": GRID, "side": SIDE, "ranker": "fake ranker", "sampling": {}}
        assert [each["name"] for each in about["folders"]] == ["out", "more", "figures"]
        assert [each["captions"] for each in about["folders"]] == [31, 2, 0]
        assert [each["evaluation"] for each in about["folders"]] == [True, False, True]


class TestDrawing:
    def test_a_picture_tells_how_it_was_made(self, client: Client) -> None:
        run = client.drawn()
        body = client.get(f"/runs/{run}/1.png")
        with Image.open(io.BytesIO(body)) as image:
            told = json.loads(image.text["gesso"])  # type: ignore[attr-defined]
        score = client.server.runs.get(run).candidates[1].score  # type: ignore[union-attr]
        assert told == {
            "caption": "a red apple",
            "seed": 6,
            "score": score,
            "start": None,
            "sampling": {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
            "models": {"prior": {"path": "fake", "sha256": "00" * 32}},
        }
        assert (pixels(body) == Fake().decode(codes_of("a red apple", 6)[None])[0]).all()

    def test_the_rows_that_are_drawn(self, held: Client, gate: Gate) -> None:
        run = held.draw()
        gate.reached()
        assert held.ask("GET", f"/runs/{run}/0.png")[0] == 404
        gate.step(3)
        status, body, headers = held.ask("GET", f"/runs/{run}/0.png?rows=3")
        assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, "image/png", "no-cache")
        whole = Fake().decode(codes_of("a red apple", 5)[None])[0]
        assert (pixels(body) == whole[: 3 * SIDE // GRID]).all()

    def test_of_no_such_candidate(self, client: Client) -> None:
        run = client.drawn()
        assert client.ask("GET", f"/runs/{run}/2.png")[0] == 404

    def test_events(self, held: Client, gate: Gate) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", held.server.port, timeout=20)
        connection.request("GET", "/events")
        answer = connection.getresponse()
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"

        def event() -> Any:
            line = answer.readline()
            assert answer.readline() == b"\n"
            return json.loads(line.removeprefix(b"data: "))

        assert event() == {"version": 0, "order": [], "runs": []}
        run = held.draw()
        gate.reached()
        gate.step(2)
        while (told := event())["runs"][0]["rows"] != [2, 2]:
            assert told["order"] == [run]
        gate.open()
        while (told := event())["runs"][0]["state"] != "done":
            assert told["order"] == [run]
        assert told["runs"][0]["rows"] == [GRID, GRID]
        connection.close()

    def test_a_server_ends_though_somebody_listens(self) -> None:
        with closing(runs_of(Fake())) as made, Server(0, made) as server:
            with answering(server):
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
                connection.request("GET", "/events")
                answer = connection.getresponse()
                assert answer.readline().startswith(b'data: {"version": 0')
            assert answer.read() == b"\n"
            connection.close()

    def test_stopped(self, held: Client, gate: Gate) -> None:
        run = held.draw()
        gate.reached()
        gate.step(2)
        assert held.post("/stop", {"run": run}) == (200, {})
        gate.open()
        future = held.server.runs.get(run).future  # type: ignore[union-attr]
        assert future
        assert isinstance(future.exception(20), Stopped)
        assert held.post("/stop", {"run": "unknown"}) == (404, {"error": "there is no such run any more"})

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"caption": " "}, "the caption is empty: write what the picture shows"),
            ({"n": 65}, "n is 65: give an integer from 1 to 64"),
            ({"caption": "a " * 21}, "the caption has more than the 20 tokens that the model reads: shorten it"),
        ],
    )
    def test_a_mistake(self, client: Client, change: Any, error: str) -> None:
        assert client.post("/draw", {**ASKED, **change}) == (400, {"error": error})

    def test_not_without_the_token(self, client: Client) -> None:
        drawn = len(client.server.runs.generator.drawn)  # type: ignore[attr-defined]
        assert client.ask("POST", "/draw", ASKED)[0] == 403
        assert client.ask("POST", "/stop", {"run": "x"})[0] == 403
        assert len(client.server.runs.generator.drawn) == drawn  # type: ignore[attr-defined]


class TestContinuing:
    def test_a_candidate(self, client: Client) -> None:
        first = client.drawn()
        second = client.drawn(caption="two pears", seed=9, start={"run": first, "index": 1, "rows": 3})
        run = client.server.runs.get(second)
        assert run
        expected = [*codes_of("a red apple", 6)[: 3 * GRID], *codes_of("two pears", 9)[3 * GRID :]]
        assert np.asarray(run.candidates[0].codes).tolist() == expected
        assert run.to_json()["start"] == {"rows": 3, "text": "seed 6"}
        with Image.open(io.BytesIO(client.get(f"/runs/{second}/0.png"))) as image:
            told = json.loads(image.text["gesso"])  # type: ignore[attr-defined]
        assert told["start"] == {"rows": 3, "codes": expected[: 3 * GRID]}

    def test_a_picture_of_ones_own(self, client: Client) -> None:
        codes = codes_of("mine", 1)
        body = png(Fake().decode(codes[None])[0], {})
        start = {"picture": base64.b64encode(body).decode(), "rows": 2}
        run = client.server.runs.get(client.drawn(start=start))
        assert run
        assert np.asarray(run.candidates[0].codes)[: 2 * GRID].tolist() == codes[: 2 * GRID].tolist()
        assert run.to_json()["start"] == {"rows": 2, "text": "a picture"}

    @pytest.mark.parametrize(
        ("picture", "error"),
        [
            ("é", "the picture is no base64 (string argument should contain only ASCII characters): "),
            ("aGVsbG8=", "the picture cannot be read (begins with b'hello'): give a JPEG, PNG, WebP or GIF"),
            (
                base64.b64encode(png(np.zeros((4, 4, 3), np.uint8), {})).decode(),
                "the picture is small: give one with 8",
            ),
        ],
    )
    def test_what_is_no_picture(self, client: Client, picture: str, error: str) -> None:
        status, body = client.post("/draw", {**ASKED, "start": {"picture": picture, "rows": 2}})
        assert (status, body["error"][: len(error)]) == (400, error)

    def test_a_picture_of_too_many_pixels(self, client: Client) -> None:
        stream = io.BytesIO()
        Image.new("1", (8000, 8000)).save(stream, "PNG")
        start = {"picture": base64.b64encode(stream.getvalue()).decode(), "rows": 2}
        error = "the picture has 8,000×8,000 pixels: give one of 50,000,000 at most"
        assert client.post("/draw", {**ASKED, "start": start}) == (400, {"error": error})

    def test_one_that_is_not_drawn_yet(self, held: Client, gate: Gate) -> None:
        run = held.draw()
        gate.reached()
        gate.step(4)
        status, body = held.post("/draw", {**ASKED, "start": {"run": run, "index": 0, "rows": 2}})
        assert (status, body) == (400, {"error": "the picture to continue is not drawn yet: wait for its last row"})

    def test_one_that_is_forgotten(self, client: Client) -> None:
        assert client.post("/draw", {**ASKED, "start": {"run": "x", "index": 0, "rows": 2}})[0] == 404


class TestBrowsing:
    def test_captions_with_their_pictures(self, client: Client) -> None:
        found = client.get("/folders/1")
        assert found["total"] == 2
        assert [each["caption"] for each in found["captions"]] == ["a red apple", "two pears"]
        assert found["captions"][1]["pictures"][:2] == [
            {"file": "00001/00.png", "rank": 0, "seed": "100", "score": 0.5},
            {"file": "00001/01.png", "rank": 1, "seed": "99", "score": 0.4},
        ]

    def test_in_parts(self, client: Client) -> None:
        first, second = client.get("/folders/0"), client.get("/folders/0?from=24")
        assert (first["total"], len(first["captions"]), len(second["captions"])) == (31, 24, 7)
        assert second["captions"][0]["caption"] == "pear 23"

    def test_by_words(self, client: Client) -> None:
        assert [each["caption"] for each in client.get("/folders/0?words=2%20PEAR")["captions"]][:2] == [
            "pear 2",
            "pear 12",
        ]
        assert client.get("/folders/0?words=plum") == {"total": 0, "captions": []}

    @pytest.mark.parametrize(
        "path", ["/folders/3", "/folders/x", "/folders/-1", "/folders/1/evaluation", "/folders/1/evaluation.png"]
    )
    def test_what_is_not_there(self, client: Client, path: str) -> None:
        assert client.ask("GET", path)[0] == 404

    def test_from_where(self, client: Client) -> None:
        assert client.ask("GET", "/folders/0?from=-1")[:2] == (400, {"error": "from is '-1': give a number"})

    def test_a_picture(self, client: Client, folders: list[Path]) -> None:
        status, body, headers = client.ask("GET", "/folders/1/pictures/00001/02.png")
        assert (status, headers["Content-Type"]) == (200, "image/png")
        assert body == (folders[1] / "00001/02.png").read_bytes()

    @pytest.mark.parametrize(
        "name", ["generated.json", "../out/00000/00.png", "%2e%2e/out/00000/00.png", "00000/09.png", "/etc/passwd"]
    )
    def test_no_other_file(self, client: Client, name: str) -> None:
        assert client.ask("GET", f"/folders/1/pictures/{name}")[0] == 404

    def test_an_evaluation(self, client: Client, folders: list[Path]) -> None:
        for folder, path in ((0, folders[0] / "evaluation"), (2, folders[2])):
            told = client.get(f"/folders/{folder}/evaluation")
            record = json.loads((path / "evaluation.json").read_text())
            shown = {name: record[name] for name in ("generated", "reference", "notes", "rows")}
            assert told == {**shown, "distance": "FID"}
            assert client.get(f"/folders/{folder}/evaluation.png") == (path / "evaluation.png").read_bytes()


class TestFolder:
    def test_of_neither(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"has no generated\.json and no evaluation\.json: give the --output of"):
            Folder(str(tmp_path))

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"pictures": 3}', '{"pictures": [{"file": "a.png"}]}'])
    def test_damaged(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "generated.json").write_text(text)
        with pytest.raises(UserError, match=r"generated\.json is damaged .*: write it again"):
            Folder(str(tmp_path))

    @pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../secret.png", "gs://bucket/x.png"])
    def test_a_listing_that_leads_out(self, tmp_path: Path, name: str) -> None:
        folder = write_generated(tmp_path / "out")
        (tmp_path / "secret.png").write_bytes(b"secret")
        listing = json.loads((folder / "generated.json").read_text())
        listing["pictures"][0]["file"] = name
        (folder / "generated.json").write_text(json.dumps(listing))
        assert Folder(str(folder)).read_picture(name) is None

    def test_a_picture_that_is_gone(self, tmp_path: Path) -> None:
        folder = write_generated(tmp_path / "out")
        (folder / "00000/00.png").unlink()
        assert Folder(str(folder)).read_picture("00000/00.png") is None
