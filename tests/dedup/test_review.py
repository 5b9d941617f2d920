"""`gesso review`: the folder that it writes, the server that keeps the decision, its flags."""

import base64
import hashlib
import http.client
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gesso import cli, images, storage
from gesso.dataset.schemas import MATCH_FIELDS
from gesso.dedup import decision, overlap, views
from gesso.dedup.decision import Override
from gesso.dedup.review import folder, listing, main, server, thumbnails
from gesso.errors import UserError
from tests.reviews import HOSTILE, REAL, similarity, write_tiny
from tests.serving import answering

PAGE = ("index.html", "review.css", "review.js")


def result(path: Path) -> Any:
    """What a data script hands to the page."""
    match = re.fullmatch(r'gesso\("\w+",(.*)\);\n', path.read_text(), re.DOTALL)
    assert match, path
    return json.loads(match[1])


def contents(target: Path) -> dict[str, str]:
    """Each file below a folder with its checksum."""
    found = sorted(path for path in target.rglob("*") if path.is_file())
    return {str(path.relative_to(target)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def unpacked(text: str, kind: str) -> list[Any]:
    return list(np.frombuffer(base64.b64decode(text), kind).tolist())


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return Path(write_tiny(tmp_path))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(write_tiny(tmp_path_factory.mktemp("prepared")))
    folder.prepare(overlap.read(str(path)), None)
    return path


class TestListing:
    def table(self, *rows: tuple[str, int, str, float, int | None]) -> pa.Table:
        names = ("reference_key", "rank", "uid", "similarity", "phash_distance")
        some = [{**dict(zip(names, row, strict=True)), "shard": 7, "reference_view": len(row[0])} for row in rows]
        return pa.Table.from_pylist(some, pa.schema(MATCH_FIELDS))

    def test_references_by_their_nearest_and_pairs_by_rank(self) -> None:
        made = listing.sort_matches(
            self.table(
                ("a", 1, "s2", 0.5, 9),
                ("a", 2, "s1", 0.25, 1),
                ("b", 1, "s3", 0.75, None),
                ("cc", 1, "s1", 0.5, 0),
                ("cc", 2, "s3", 0.5, 2),
            )
        )
        assert made.references.to_pylist() == ["b", "a", "cc"]
        assert made.counts.tolist() == [1, 2, 2]
        assert made.starts.tolist() == [0, 1, 3]
        assert made.similarity.tolist() == [0.75, 0.5, 0.25, 0.5, 0.5]
        assert made.hashes.tolist() == [listing.NO_HASH, 9, 1, 0, 2]
        assert made.views.tolist() == [1, 1, 1, 2, 2]
        assert made.keys.to_pylist() == ["s3", "s2", "s1"]
        assert made.samples.tolist() == [0, 1, 2, 2, 0]
        assert made.shards.to_pylist() == [7, 7, 7]

    def test_of_no_match(self) -> None:
        made = listing.sort_matches(self.table())
        assert (len(made.references), len(made.samples), len(made.samples), len(made.shards)) == (0, 0, 0, 0)


class TestFolder:
    def test_holds_all_that_the_page_needs(self, prepared: Path) -> None:
        target = prepared / "review"
        thumbs = {f"thumbs/{series}/000/{n:06d}.jpg" for series in ("references", "samples") for n in range(12)}
        data = {"data/pairs.js", "data/texts.js", "data/uids.js", "data/details/00000.js"}
        assert set(contents(target)) == {*PAGE, *data, *thumbs, "session.js", "plan.json", "manifest.json"}
        assert storage.read_json(str(target / "manifest.json"))["shown"] == {"references": 12, "samples": 12}
        assert folder.not_shown(str(target)) == {"references": {}, "samples": {}}

    def test_the_page_names_files_that_are_there(self, prepared: Path) -> None:
        target = prepared / "review"
        named = re.findall(r'(?:src|href)="([\w.]+)"', (target / "index.html").read_text())
        assert sorted(named) == ["review.css", "review.js"]

    def test_numbers_and_texts(self, prepared: Path) -> None:
        found, data = overlap.read(str(prepared)), prepared / "review/data"
        pairs, texts, keys = (result(data / f"{name}.js") for name in ("pairs", "texts", "uids"))
        assert texts["keys"] == [f"r{number:04d}" for number in range(12)]
        assert texts["captions"][:3] == [HOSTILE, None, "reference number 2"]
        assert texts["nearest"][11] == "a sample called 11"
        assert keys["uids"] == [f"{number:032x}" for number in range(12)]
        assert unpacked(pairs["counts"], "<i4") == [4] * 12
        assert unpacked(pairs["samples"], "<i4")[4:8] == [1, 2, 3, 4]
        expected = [similarity(place, rank, 12) for place in range(12) for rank in range(4)]
        assert unpacked(pairs["similarity"], "<f4") == expected
        assert unpacked(pairs["hashes"], "<i4")[4:12] == [1, 4, 7, 10, -1, -1, -1, -1]
        assert (pairs["samples_searched"], pairs["distinct"], pairs["matches_sha256"]) == (12, 12, found.sha256)

    def test_views_of_the_references(self, tmp_path: Path) -> None:
        target = Path(folder.prepare(overlap.read(write_tiny(tmp_path, views=6)), None))
        pairs = result(target / "data/pairs.js")
        assert pairs["views"][1] == {"name": "top left 70%", "left": 0, "top": 0, "right": 0.7, "bottom": 0.7}
        assert [view["name"] for view in pairs["views"]] == [views.name(view) for view in range(6)]
        assert unpacked(pairs["matched"], "<i4")[:12] == [0, 1, 2, 3, 1, 2, 3, 4, 2, 3, 4, 5]
        assert result(target / "data/details/00000.js")["references"]["caption"][2:4] == [
            "reference number 2",
            "reference number 3",
        ]

    def test_details_are_aligned_with_the_pairs(self, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(folder, "CHUNK", 5)
        data = Path(folder.prepare(overlap.read(str(tiny)), None)) / "data/details"
        assert sorted(path.name for path in data.iterdir()) == ["00000.js", "00001.js", "00002.js"]
        last = result(data / "00002.js")
        assert (last["chunk"], last["references"]["caption"]) == (2, ["reference number 10", "reference number 11"])
        assert last["pairs"]["url"][:2] == ["https://pictures.example/10.jpg", "https://pictures.example/11.jpg"]
        assert last["pairs"]["url"][4:6] == ["https://pictures.example/11.jpg", "javascript:alert(1)"]
        header = images.read_header(REAL[10].read_bytes())
        assert (last["pairs"]["width"][0], last["pairs"]["original_width"][0]) == (header.width, 2 * header.width)

    def test_no_script_can_be_ended_by_a_caption(self, prepared: Path) -> None:
        target = prepared / "review"
        assert [path.name for path in (target / "data").rglob("*.js") if "</" in path.read_text()] == []

    def test_thumbnails_are_the_pictures_small(self, prepared: Path) -> None:
        target = prepared / "review"
        for series in ("references", "samples"):
            for number, path in enumerate(REAL[:3]):
                small = (target / "thumbs" / series / thumbnails.thumbnail_name(number)).read_bytes()
                body = path.read_bytes()
                assert small == images.thumbnail(body, images.read_header(body), folder.NEAREST_SIDE)

    def test_further_neighbours_are_smaller(self, tmp_path: Path) -> None:
        found = overlap.read(write_tiny(tmp_path, references=3, top_k=2))
        kept = found.matches.filter(pa.array([key != "r0002" for key in found.matches["reference_key"].to_pylist()]))
        target = Path(folder.prepare(found._replace(matches=kept), None)) / "thumbs/samples"
        widths = [max(images.read_header(path.read_bytes())[2:4]) for path in sorted(target.rglob("*.jpg"))]
        assert widths == [folder.NEAREST_SIDE, folder.NEAREST_SIDE, folder.FURTHER_SIDE]

    def test_of_no_match(self, tmp_path: Path) -> None:
        found = overlap.read(write_tiny(tmp_path, references=2, top_k=1))
        target = Path(folder.prepare(found._replace(matches=found.matches.slice(0, 0)), None))
        assert result(target / "data/texts.js") == {"keys": [], "captions": [], "nearest": []}
        assert storage.read_json(str(target / "manifest.json"))["shown"] == {"references": 0, "samples": 0}


class TestRestart:
    def test_killed_and_started_again_it_has_the_same_bytes(self, tiny: Path) -> None:
        found = overlap.read(str(tiny))
        target = Path(folder.prepare(found, None))
        whole = contents(target)
        for name in ("manifest.json", "data/texts.js", "thumbs/samples/000/000003.jpg", "index.html"):
            (target / name).unlink()
        folder.prepare(found, None)
        assert contents(target) == whole

    def test_thumbnails_are_made_once(self, tiny: Path) -> None:
        found = overlap.read(str(tiny))
        target = Path(folder.prepare(found, None))
        made = {path: path.stat().st_mtime_ns for path in target.rglob("*.jpg")}
        (target / "manifest.json").unlink()
        folder.prepare(found, None)
        assert {path: path.stat().st_mtime_ns for path in target.rglob("*.jpg")} == made

    def test_a_finished_folder_needs_no_source(self, tiny: Path) -> None:
        found = overlap.read(str(tiny))
        whole = contents(Path(folder.prepare(found, None)))
        (tiny.parent / "raw").rename(tiny.parent / "away")
        (tiny.parent / "embeddings").rename(tiny.parent / "gone")
        assert contents(Path(folder.prepare(found, None))) == whole

    def test_of_other_matches_it_begins_anew(self, tiny: Path) -> None:
        found = overlap.read(str(tiny))
        target = Path(folder.prepare(found, None))
        (target / "thumbs/samples/000/000000.jpg").write_bytes(b"of other matches")
        plan = {"format": 1, "kind": "review", "matches_sha256": "00" * 32}
        storage.write_json(str(target / "plan.json"), plan)
        folder.prepare(found, None)
        assert (target / "thumbs/samples/000/000000.jpg").read_bytes()[:2] == b"\xff\xd8"

    def test_a_folder_of_someone_elses_stays(self, tiny: Path) -> None:
        (tiny / "review").mkdir()
        (tiny / "review/thesis.txt").write_text("mine")
        with pytest.raises(UserError, match="review holds files that `gesso review` did not write: move them away"):
            main([str(tiny), "--no-serve"])
        assert (tiny / "review/thesis.txt").read_text() == "mine"


class TestLostPictures:
    def test_are_counted_and_named(self, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tiny.parent / "coco/r0004.jpg").unlink()
        (tiny.parent / "coco/r0005.jpg").write_bytes(b"no picture")
        (tiny.parent / "raw/00001.tar").unlink()
        assert main([str(tiny), "--no-serve"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[:2] == [
            "references: pictures that could not be shown: 1 not_an_image, 1 unreadable; the page has placeholders",
            "samples: pictures that could not be shown: 2 unreadable; the page has placeholders",
        ]
        lost = result(tiny / "review/data/pairs.js")["lost"]
        assert lost == {
            "references": {"4": "unreadable", "5": "not_an_image"},
            "samples": {"10": "unreadable", "11": "unreadable"},
        }

    def test_come_when_their_source_is_back(self, tiny: Path) -> None:
        (tiny.parent / "raw").rename(tiny.parent / "away")
        assert main([str(tiny), "--no-serve"]) == 0
        assert folder.not_shown(str(tiny / "review")) == {"references": {}, "samples": {"unreadable": 12}}
        (tiny.parent / "away").rename(tiny.parent / "raw")
        assert main([str(tiny), "--no-serve"]) == 0
        assert folder.not_shown(str(tiny / "review")) == {"references": {}, "samples": {}}
        assert result(tiny / "review/data/pairs.js")["lost"] == {"references": {}, "samples": {}}

    def test_behind_a_damage_of_their_tar(self, tiny: Path) -> None:
        tar = tiny.parent / "raw/00000.tar"
        body = tar.read_bytes()
        tar.write_bytes(body[: body.index(b"%032x.jpg" % 6)])
        folder.prepare(overlap.read(str(tiny)), None)
        assert result(tiny / "review/data/pairs.js")["lost"]["samples"] == dict.fromkeys("6789", "absent")

    def test_of_embeddings_that_do_not_know_them(self, tiny: Path) -> None:
        found = overlap.read(str(tiny))
        other = pa.array(["unknown", *found.matches["uid"].to_pylist()[1:]])
        found = found._replace(matches=found.matches.set_column(2, MATCH_FIELDS[2], other))
        target = folder.prepare(found, None)
        assert folder.not_shown(target) == {"references": {}, "samples": {"absent": 1}}

    def test_embeddings_that_are_gone(self, tiny: Path) -> None:
        (tiny.parent / "embeddings").rename(tiny.parent / "gone")
        with pytest.raises(UserError, match="embeddings holds no embeddings: give the --output of a `gesso embed`"):
            main([str(tiny), "--no-serve"])


@pytest.fixture
def served(prepared: Path) -> Iterator[server.Server]:
    """Before anything is decided."""
    for name in ("decision.json", "decision.draft.json"):
        (prepared / name).unlink(missing_ok=True)
    found = overlap.read(str(prepared))
    target = folder.prepare(found, None)
    with server.Server(0, target, server.DecisionStore(found, target, "Ada")) as listening, answering(listening):
        yield listening


def ask(served: server.Server, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, None if body is None else json.dumps(body), named)
    answer = connection.getresponse()
    read = answer.read()
    connection.close()
    return answer.status, read, answer.headers


def look(served: server.Server) -> dict[str, Any]:
    return dict(json.loads(ask(served, "GET", "/decision")[1]))


def keep(served: server.Server, **change: Any) -> tuple[int, dict[str, Any]]:
    seen = look(served)
    whole = {"threshold": 0.8, "overrides": [], "who": "Ada", "revision": seen["revision"], **change}
    status, body, _ = ask(served, "POST", "/decision", whole, X_Gesso_Token=seen["token"])
    return status, json.loads(body)


def verdict(place: int, sample: int, word: str) -> dict[str, str]:
    return {"reference_key": f"r{place:04d}", "uid": f"{sample:032x}", "verdict": word}


class TestServer:
    def test_on_loopback_alone(self, served: server.Server) -> None:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", served.port))
        assert served.url == f"http://127.0.0.1:{served.port}/"

    @pytest.mark.parametrize(
        ("path", "kind"),
        [
            ("/", "text/html; charset=utf-8"),
            ("/review.js", "text/javascript; charset=utf-8"),
            ("/review.css?x", "text/css; charset=utf-8"),
            ("/data/pairs.js", "text/javascript; charset=utf-8"),
            ("/thumbs/samples/000/000003.jpg?abc", "image/jpeg"),
        ],
    )
    def test_gives_the_folder(self, served: server.Server, path: str, kind: str) -> None:
        status, body, headers = ask(served, "GET", path)
        name = path.split("?")[0].lstrip("/") or "index.html"
        assert (status, headers["Content-Type"]) == (200, kind)
        assert body == Path(served.target, name).read_bytes()
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "script-src 'self';" in headers["Content-Security-Policy"]

    @pytest.mark.parametrize(
        "path",
        [
            "/../decision.json",
            "/../manifest.json",
            "/%2e%2e/manifest.json",
            "/plan.json",
            "//etc/passwd",
            "/thumbs",
            "/x.js",
            "/%00.js",
        ],
    )
    def test_gives_nothing_else(self, served: server.Server, path: str) -> None:
        assert ask(served, "GET", path)[0] == 404

    def test_a_link_out_of_the_folder_leads_nowhere(self, served: server.Server) -> None:
        link = Path(served.target, "out.js")
        link.symlink_to(Path(served.target, "../manifest.json").resolve())
        assert ask(served, "GET", "/out.js")[0] == 404
        link.unlink()

    @pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:8600"])
    def test_other_hosts_are_refused(self, served: server.Server, host: str) -> None:
        for path in ("/", "/decision", "/data/texts.js"):
            assert ask(served, "GET", path, Host=host)[0] == 421
        assert ask(served, "POST", "/decision", {}, Host=host)[0] == 421

    def test_localhost_is_ours(self, served: server.Server) -> None:
        assert ask(served, "GET", "/", Host=f"localhost:{served.port}")[0] == 200

    @pytest.mark.parametrize("site", ["cross-site", "same-site"])
    def test_pages_of_other_origins_read_nothing(self, served: server.Server, site: str) -> None:
        for path in ("/decision", "/data/texts.js", "/thumbs/samples/000/000000.jpg"):
            assert ask(served, "GET", path, Sec_Fetch_Site=site)[0] == 403

    def test_other_methods_are_refused(self, served: server.Server) -> None:
        assert ask(served, "DELETE", "/decision")[0] == 501

    def test_a_port_that_is_taken(self, served: server.Server, prepared: Path) -> None:
        with pytest.raises(UserError, match=f"port {served.port} is not available .*: give another --port, or 0"):
            main([str(prepared), "--port", str(served.port)])

    def test_no_port(self, prepared: Path) -> None:
        with pytest.raises(UserError, match="port 70000 is not available"):
            main([str(prepared), "--port", "70000"])


class TestKeeping:
    def test_nothing_at_first(self, served: server.Server, prepared: Path) -> None:
        seen = look(served)
        assert (seen["decision"], seen["revision"], seen["who"]) == (None, "", "Ada")
        assert not (prepared / "decision.json").exists()

    def test_a_change_is_on_disk(self, served: server.Server, prepared: Path) -> None:
        verdicts = [verdict(3, 4, "different"), verdict(1, 1, "duplicate")]
        status, answer = keep(served, threshold=0.75, overrides=verdicts, who="Bob")
        assert status == 200
        found = overlap.read(str(prepared))
        kept = decision.read(str(prepared / "decision.json"), found)
        assert (kept.threshold, kept.who, kept.when) == (0.75, "Bob", answer["when"])
        assert kept.overrides == (
            Override("r0001", f"{1:032x}", "duplicate"),
            Override("r0003", f"{4:032x}", "different"),
        )
        assert result(prepared / "review/session.js")["decision"] == decision.to_json(kept)
        assert look(served)["decision"] == decision.to_json(kept)
        assert [path.name for path in prepared.iterdir() if ".tmp-" in path.name] == []

    def test_one_change_after_the_other(self, served: server.Server) -> None:
        assert keep(served, threshold=0.7)[0] == 200
        assert keep(served, threshold=0.6)[0] == 200
        assert look(served)["decision"]["threshold"] == 0.6

    def test_of_a_tab_that_has_not_seen_the_last(self, served: server.Server) -> None:
        keep(served, threshold=0.7)
        status, answer = keep(served, threshold=0.6, revision="")
        assert (status, answer["error"][:35]) == (409, "the decision was changed elsewhere,")
        assert look(served)["decision"]["threshold"] == 0.7

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"threshold": 2}, "the page: the threshold is 2.0: give a cosine similarity from -1 to 1"),
            ({"who": 3}, "the page: who is 3: give a decision.json that `gesso review` wrote"),
            (
                {"overrides": [verdict(0, 9, "duplicate")]},
                f"the page judges the pair 'r0000' and '{9:032x}', which is not",
            ),
            ({"overrides": [verdict(0, 0, "same")]}, "the page: a verdict is 'same': give one of duplicate, different"),
        ],
    )
    def test_what_is_no_decision(self, served: server.Server, prepared: Path, change: Any, error: str) -> None:
        status, answer = keep(served, **change)
        assert (status, answer["error"][: len(error)]) == (400, error)
        assert not (prepared / "decision.json").exists()

    def test_model_and_matches_are_the_servers(self, served: server.Server, prepared: Path) -> None:
        assert keep(served, model={"name": "other"}, matches_sha256="00")[0] == 200
        assert decision.read(str(prepared / "decision.json"), overlap.read(str(prepared))).model["name"] == "detector"

    @pytest.mark.parametrize("token", ["", "guessed", "é"])
    def test_without_the_token(self, served: server.Server, prepared: Path, token: str) -> None:
        change = {"threshold": 0.8, "overrides": [], "who": "Eve", "revision": ""}
        assert ask(served, "POST", "/decision", change, X_Gesso_Token=token)[0] == 403
        assert not (prepared / "decision.json").exists()

    def test_of_another_origin(self, served: server.Server) -> None:
        change = {"threshold": 0.8, "overrides": [], "who": "Eve", "revision": ""}
        headers = {"X_Gesso_Token": look(served)["token"], "Origin": "http://evil.example"}
        assert ask(served, "POST", "/decision", change, **headers)[0] == 403
        headers["Origin"] = served.url.rstrip("/")
        assert ask(served, "POST", "/decision", change, **headers)[0] == 200

    @pytest.mark.parametrize(("body", "status"), [([1], 400), (None, 413)])
    def test_no_object(self, served: server.Server, body: Any, status: int) -> None:
        length = {} if body is not None else {"Content_Length": str(1 << 40)}
        assert ask(served, "POST", "/decision", body, X_Gesso_Token="", **length)[0] == status

    def test_no_json(self, served: server.Server) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
        connection.request("POST", "/decision", b"{")
        assert connection.getresponse().status == 400
        connection.close()

    def test_elsewhere(self, served: server.Server) -> None:
        assert ask(served, "POST", "/session.js", {}, X_Gesso_Token=look(served)["token"])[0] == 404

    def test_a_decision_that_a_command_has_spoilt(self, served: server.Server, prepared: Path) -> None:
        (prepared / "decision.json").write_text("{}")
        status, body, _ = ask(served, "GET", "/decision")
        assert status == 500
        assert "decision.json is not a decision" in json.loads(body)["error"]


class TestDraft:
    """Verdicts without a name are kept beside the decision, and end in it."""

    MARKED = (verdict(3, 4, "different"), verdict(1, 1, "duplicate"))

    def test_is_on_disk_and_decides_nothing(self, served: server.Server, prepared: Path) -> None:
        assert keep(served, who=" ", threshold=0.75, overrides=self.MARKED)[0] == 200
        assert not (prepared / "decision.json").exists()
        draft = storage.read_json(str(prepared / "decision.draft.json"))
        assert (draft["kind"], draft["threshold"], len(draft["overrides"])) == ("decision_draft", 0.75, 2)
        assert look(served)["decision"] == draft
        assert result(prepared / "review/session.js")["decision"] == draft

    def test_is_shown_again_by_the_next_server(self, served: server.Server, prepared: Path) -> None:
        keep(served, who="", overrides=self.MARKED)
        again = server.DecisionStore(overlap.read(str(prepared)), served.target, "")
        assert again.get() == {name: value for name, value in look(served).items() if name != "token"} | {"who": ""}

    def test_a_name_makes_it_the_decision(self, served: server.Server, prepared: Path) -> None:
        keep(served, who="", overrides=self.MARKED)
        assert keep(served, who="Ada", overrides=self.MARKED)[0] == 200
        assert len(decision.read(str(prepared / "decision.json"), overlap.read(str(prepared))).overrides) == 2
        assert not (prepared / "decision.draft.json").exists()

    def test_leaves_an_earlier_decision_as_it_is(self, served: server.Server, prepared: Path) -> None:
        keep(served, threshold=0.7)
        before = (prepared / "decision.json").read_bytes()
        keep(served, who="", threshold=0.6)
        assert (prepared / "decision.json").read_bytes() == before
        assert look(served)["decision"]["threshold"] == 0.6

    def test_of_a_tab_that_has_not_seen_the_last(self, served: server.Server) -> None:
        keep(served, who="", threshold=0.7)
        assert keep(served, who="", threshold=0.6, revision="")[0] == 409
        assert look(served)["decision"]["threshold"] == 0.7

    def test_a_command_with_a_name_takes_its_verdicts(self, served: server.Server, prepared: Path) -> None:
        keep(served, who="", overrides=self.MARKED)
        assert main([str(prepared), "--threshold", "0.65", "--who", "Bob"]) == 0
        made = decision.read(str(prepared / "decision.json"), overlap.read(str(prepared)))
        assert (made.threshold, made.who, len(made.overrides)) == (0.65, "Bob", 2)
        assert not (prepared / "decision.draft.json").exists()

    def test_the_command_tells_of_it(
        self, served: server.Server, prepared: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        keep(served, who="", threshold=0.75, overrides=self.MARKED)
        assert main([str(prepared), "--no-serve"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "suggested threshold: none. 12 references are too few to see where they part.",
            f"{prepared}/decision.draft.json: 2 verdicts, threshold 0.75, no name yet",
            f"{prepared}/review/index.html",
        ]

    def test_is_no_decision(self, served: server.Server, prepared: Path) -> None:
        keep(served, who="")
        with pytest.raises(UserError, match="is not a decision of format 1"):
            decision.read(str(prepared / "decision.draft.json"), overlap.read(str(prepared)))


class TestFlags:
    def test_threshold(self, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(tiny), "--threshold", "0.83", "--who", "Ada"]) == 0
        assert capsys.readouterr().out == f"{tiny}/decision.json\n"
        found = overlap.read(str(tiny))
        made = decision.read(str(tiny / "decision.json"), found)
        assert (made.threshold, made.overrides, made.who) == (0.83, (), "Ada")
        assert not (tiny / "review").exists()

    def test_threshold_keeps_the_verdicts_and_the_same_again_changes_nothing(self, tiny: Path) -> None:
        found = overlap.read(str(tiny))
        judged = (Override("r0001", f"{1:032x}", "duplicate"),)
        old = replace(
            decision.with_threshold(found, None, 0.5, "Ada"), overrides=judged, when="2026-01-01T00:00:00+00:00"
        )
        decision.write(str(tiny / "decision.json"), old)
        assert main([str(tiny), "--threshold", "0.5", "--who", "Ada"]) == 0
        assert decision.read(str(tiny / "decision.json"), found) == old
        assert main([str(tiny), "--threshold", "0.6", "--who", "Ada"]) == 0
        assert decision.read(str(tiny / "decision.json"), found).overrides == judged

    def test_threshold_with_the_page(self, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(tiny), "--threshold", "0.83", "--who", "Ada", "--no-serve"]) == 0
        assert capsys.readouterr().out == f"{tiny}/decision.json\n{tiny}/review/index.html\n"
        assert result(tiny / "review/session.js")["decision"]["threshold"] == 0.83

    def test_who_is_the_user(self, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("USER", "Grace")
        main([str(tiny), "--threshold", "0.83"])
        assert decision.read(str(tiny / "decision.json"), overlap.read(str(tiny))).who == "Grace"

    def test_nobody(self, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("USER", raising=False)
        monkeypatch.delenv("LOGNAME", raising=False)
        with pytest.raises(UserError, match="the name of who decided is missing: give one"):
            main([str(tiny), "--threshold", "0.83"])
        assert not (tiny / "decision.json").exists()

    @pytest.mark.parametrize("value", ["1.5", "nan", "-2"])
    def test_no_similarity(self, tiny: Path, value: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["review", str(tiny), "--threshold", value, "--who", "Ada"]) == 2
        assert capsys.readouterr().err.startswith("gesso: the threshold is")
        assert not (tiny / "decision.json").exists()

    def test_import(self, tiny: Path, tmp_path: Path) -> None:
        found = overlap.read(str(tiny))
        given = replace(
            decision.with_threshold(found, None, 0.7, "Bob"), overrides=(Override("r0001", f"{2:032x}", "different"),)
        )
        decision.write(str(tmp_path / "exported.json"), given)
        assert main([str(tiny), "--import", str(tmp_path / "exported.json")]) == 0
        assert decision.read(str(tiny / "decision.json"), found) == given

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"model": {"name": "other"}}, "was made for the model"),
            ({"matches_sha256": "0" * 64}, "on other matches"),
        ],
    )
    def test_import_of_another_decision(
        self, tiny: Path, tmp_path: Path, change: Any, said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        made = decision.to_json(decision.with_threshold(overlap.read(str(tiny)), None, 0.7, "Bob"))
        storage.write_json(str(tmp_path / "exported.json"), {**made, **change})
        assert cli.main(["review", str(tiny), "--import", str(tmp_path / "exported.json")]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
        assert not (tiny / "decision.json").exists()

    def test_a_decision_on_other_matches_is_an_error_before_anything_is_written(self, tiny: Path) -> None:
        made = decision.to_json(decision.with_threshold(overlap.read(str(tiny)), None, 0.7, "Bob"))
        storage.write_json(str(tiny / "decision.json"), {**made, "matches_sha256": "0" * 64})
        with pytest.raises(UserError, match="made on other matches"):
            main([str(tiny)])
        assert not (tiny / "review").exists()

    def test_no_overlap(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["review", str(tmp_path)]) == 2
        assert "holds no finished matches" in capsys.readouterr().err

    def test_elsewhere(self) -> None:
        with pytest.raises(UserError, match="gs://b/overlap is not on this machine: copy it here"):
            main(["gs://b/overlap"])
