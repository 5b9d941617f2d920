"""A link as it is requested: its characters are kept, only what a request line cannot hold is quoted. No network."""

import re
from urllib.parse import quote, urljoin

from yarl import URL

LINK = re.compile(r"(https?)://([^/?#]*)([^#]*)", re.IGNORECASE)
ABSOLUTE = re.compile(r"https?://", re.IGNORECASE)
LINE_BREAKS = re.compile(r"[\t\r\n]+")  # browsers drop them from a link
ILLEGAL = re.compile(r"[^\x21-\x7e]+")  # in a request line: blanks, control characters, everything that is not ASCII


def request_url(link: str) -> URL:
    """The URL to request. An ASCII link without blanks keeps every character after its host, escapes included.

    A host's name is normalised, and encoded by IDNA where it is not ASCII; a fragment is not sent. Raises ValueError
    where this is no http or https link, or its host or port is malformed.
    """
    found = LINK.match(LINE_BREAKS.sub("", link.strip()))
    if not found:
        raise ValueError(f"no http or https link: {link[:200]!r}")
    scheme, authority, target = found.groups()
    try:
        origin = URL(f"{scheme}://{authority}")
    except IndexError as error:  # yarl's for an empty host in brackets
        raise ValueError(f"no host: {link[:200]!r}") from error
    if not origin.raw_host or origin.port is None:
        raise ValueError(f"no host: {link[:200]!r}")
    target = ILLEGAL.sub(lambda run: quote(run[0], safe="", errors="surrogateescape"), target)
    path = target if target.startswith("/") else "/" + target
    # The query is part of `path`: as one of its own, yarl drops a `?` with nothing behind it.
    return URL.build(scheme=origin.scheme, authority=origin.raw_authority, path=path, encoded=True)


def redirect_link(requested: URL, location: str) -> str:
    """The link that a Location header names, taken relative to the URL that was requested."""
    if ABSOLUTE.match(location):
        return location
    if location.startswith("//"):
        return f"{requested.scheme}:{location}"
    if location.startswith("/"):
        return f"{requested.scheme}://{requested.raw_authority}{location}"
    return urljoin(str(requested), location)
