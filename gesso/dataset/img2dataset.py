"""img2dataset's error messages → reasons. Imports nothing of gesso."""

import re

# Patterns of what img2dataset 1.47 writes as `error_message`; the first match decides.
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


def reason_of_message(message: str | None) -> str | None:
    """The reason for a failure with img2dataset's `message`; None where no pattern matches."""
    for pattern, reason in MESSAGES:
        found = pattern.search(message or "")
        if found:
            return found.expand(reason)
    return None
