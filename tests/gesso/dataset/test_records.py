"""The normal form of a link, and the key of a sample."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gesso.dataset.records import SUCCESS, is_fetched, normalize_url, sample_key, status_of


@pytest.mark.parametrize(
    ("url", "identity"),
    [
        ("http://a.example/x.jpg", "http://a.example/x.jpg"),
        (" HTTP://A.Example:80/X.jpg#top ", "http://a.example/X.jpg"),
        ("https://a.example:443", "https://a.example/"),
        ("https://a.example:80/?a=1&b", "https://a.example:80/?a=1&b"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x"),
        ("http://bücher.example/ä b", "http://bücher.example/ä b"),
    ],
)
def test_link_identity(url: str, identity: str) -> None:
    assert normalize_url(url) == identity


@pytest.mark.parametrize(
    "url",
    ["", "a.example/x.jpg", "file:///etc/hostname", "ftp://a.example/", "http:///x", "http://[::1/", "http://a:x/"],
)
def test_no_link(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        normalize_url(url)


def test_uid_is_golden() -> None:
    """A change of these is a change of every key that was ever written."""
    assert sample_key("http://a.example/x.jpg", "a dog") == "3a0751fb9c5f95302b9b687aa331a3e6"
    assert sample_key("http://a.example/x.jpg", "") == "3a0751fb9c5f9530c321da1fadadd8ec"


@given(st.text(), st.text(), st.text())
def test_all_captions_of_a_link_share_its_half(link: str, one: str, other: str) -> None:
    first, second = sample_key(link, one), sample_key(link, other)
    assert len(first) == 32
    assert first[:16] == second[:16]
    assert (first == second) == (one == other)


@pytest.mark.parametrize(
    ("reason", "status", "fetched"),
    [
        (SUCCESS, "success", True),
        ("http_404", "failed_to_download", True),
        ("timeout", "failed_to_download", True),
        ("undecodable", "failed_to_resize", True),
        ("aspect_ratio", "failed_to_resize", True),
        ("caption_not_english", "rejected", False),
        ("url_invalid", "rejected", False),
    ],
)
def test_status_of(reason: str, status: str, fetched: bool) -> None:
    assert (status_of(reason), is_fetched(reason)) == (status, fetched)
