"""img2dataset's messages as our reasons. Imports nothing of ours."""

import re

# What img2dataset 1.47 writes as `error_message`, the first match counts.
MESSAGES = (
    (re.compile("infinite loop|redirect", re.I), "redirects"),
    (re.compile(r"HTTP Error (\d{3})"), r"http_\1"),
    (re.compile("timed out", re.I), "timeout"),
    (re.compile(r"\[Errno -\d+\]|Name or service|name resolution|nodename|idna|label", re.I), "dns"),
    (re.compile("SSL|certificate", re.I), "tls"),
    (re.compile("unknown url type|no host given|can't (contain|encode)|nonnumeric port|Invalid", re.I), "url_unusable"),
    (re.compile("IncompleteRead"), "body_incomplete"),
    (re.compile("urlopen error|Remote end closed|Connection|reset by peer", re.I), "connection"),
    (re.compile("X-Robots-Tag|disallowed"), "disallowed"),
    (re.compile("image too small"), "too_small"),
    (re.compile("aspect ratio too large"), "aspect_ratio"),
    (re.compile("image area too large"), "too_many_pixels"),
    (re.compile("Image decoding error|OpenCV"), "undecodable"),
)


def foreign_reason(message: str | None) -> str | None:
    """Our reason for a failure that img2dataset tells in `message`; None where it is none that we know."""
    for pattern, reason in MESSAGES:
        found = pattern.search(message or "")
        if found:
            return found.expand(reason)
    return None
