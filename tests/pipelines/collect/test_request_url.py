"""Links as they are requested: not one character of an ASCII link changes."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gesso.pipelines.collect.request_url import redirect_link, request_url

LAION = Path(__file__).parents[4] / "shared/data/links/laion_10000.parquet"
ASCII = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"))


@given(ASCII, st.sampled_from(["", "?", "?a=%2F", "#top"]))
def test_an_ascii_link_without_blanks_stays_as_it_is(path: str, end: str) -> None:
    assert request_url(f"http://h.example/{path}{end}").raw_path_qs == f"/{path}{end.partition('#')[0]}"


@pytest.mark.parametrize(
    ("link", "origin", "target"),
    [
        ("http://h.example/100%.jpg", "http://h.example", "/100%.jpg"),
        ("http://h.example/a\\b|{c}.jpg", "http://h.example", "/a\\b|{c}.jpg"),
        ("http://h.example/x/../a.jpg", "http://h.example", "/x/../a.jpg"),
        ("HTTP://H.Example:80/A.jpg", "http://h.example", "/A.jpg"),
        ("https://h.example:8443", "https://h.example:8443", "/"),
        ("http://h.example?id=1", "http://h.example", "/?id=1"),
        ("http://bücher.example/ü.jpg", "http://xn--bcher-kva.example", "/%C3%BC.jpg"),
        (" http://h.example/a b\t\n.jpg\r\n", "http://h.example", "/a%20b.jpg"),
        ("http://h.example/\x01\x7f\xa0a", "http://h.example", "/%01%7F%C2%A0a"),
        ("http://h.example/\udcfc.jpg", "http://h.example", "/%FC.jpg"),
        ("http://[::1]:80/a", "http://[::1]", "/a"),
    ],
)
def test_only_what_a_request_cannot_hold_is_quoted(link: str, origin: str, target: str) -> None:
    url = request_url(link)
    assert (str(url.origin()), url.raw_path_qs) == (origin, target)


@pytest.mark.parametrize(
    "link", ["", "/a.jpg", "ftp://h/a", "http:/h/a", "http://", "http:///a", "http://h:99999/", "HTTP://[]@"]
)
def test_what_is_no_link(link: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        request_url(link)


@pytest.mark.parametrize(
    ("location", "link"),
    [
        ("https://b.example/x%2C?", "https://b.example/x%2C?"),
        ("//b.example/x%2C", "http://b.example/x%2C"),
        ("/x%2C?", "http://h.example/x%2C?"),
        ("x%2C", "http://h.example/a/x%2C"),
        ("../x%2C", "http://h.example/x%2C"),
        ("?x=%2F", "http://h.example/a/b?x=%2F"),
        ("http:/x", "http://h.example/x"),
        ("ftp://b.example/x", "ftp://b.example/x"),
        ("data:image/gif;base64,R0lG", "data:image/gif;base64,R0lG"),
    ],
)
def test_where_a_redirect_leads(location: str, link: str) -> None:
    assert redirect_link(request_url("http://h.example/a/b?c=d"), location) == link


@pytest.mark.skipif(not LAION.exists(), reason="needs ../shared")
def test_no_real_link_changes() -> None:
    links = [link for link in pq.read_table(LAION)["URL"].to_pylist() if "://" in link]
    plain = [link for link in links if link.isascii() and " " not in link]
    assert (len(links), len(plain)) == (9_999, 9_993)
    requested = [request_url(link).raw_path_qs for link in plain]
    assert requested == ["/" + link.partition("#")[0].split("/", 3)[3] for link in plain]
