"""What becomes of a link: statuses, reasons, the content-derived uid. Standard library only."""

from hashlib import blake2b
from urllib.parse import urlsplit, urlunsplit

UID_HEX = 32
LINK_HEX = 16  # the leading half of a uid names the link, the trailing half the link with its caption

SUCCESS = "success"
FAILED_TO_DOWNLOAD = "failed_to_download"
FAILED_TO_RESIZE = "failed_to_resize"
REJECTED = "rejected"  # by a rule on the caption or the link, before any request
STATUSES = (SUCCESS, FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE, REJECTED)

# What the funnel counts besides the reasons.
ROWS_READ = "rows_read"
PLANNED = "links"  # to be fetched
REPEATS = ("repeat_link", "repeat_pair")
URL_INVALID = "url_invalid"

RESIZE_REASONS = frozenset({"not_an_image", "undecodable", "too_many_pixels", "too_small", "aspect_ratio"})


def link_identity(url: str) -> str:
    """The link as a server sees it: scheme and host in lower case, no default port, no fragment.

    Raises ValueError where `url` is no absolute http or https link.
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"no http or https link: {url[:200]!r}")
    default = {"http": 80, "https": 443}[parts.scheme]
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = "" if parts.port in (None, default) else f":{parts.port}"
    return urlunsplit((parts.scheme, host + port, parts.path or "/", parts.query, ""))


def uid(identity: str, caption: str) -> str:
    """128 bits of content as 32 hex digits: 64 of the link, 64 of the link with its caption.

    `identity` is `link_identity(url)` and `caption` the caption as it stood in the table, so that a uid outlives a
    change of the caption rules. All captions of a link share its first half: they sort side by side and fall into
    one shard, where they collapse to one without another shuffle.
    """
    link = identity.encode("utf-8", "surrogatepass")
    pair = link + b"\0" + caption.encode("utf-8", "surrogatepass")
    return blake2b(link, digest_size=8).hexdigest() + blake2b(pair, digest_size=8).hexdigest()


def shard_of(key: str, shards: int) -> int:
    """The shard of a uid: equal ranges of its first 64 bits, so that the shards are in the order of the uids."""
    return int(key[:LINK_HEX], 16) * shards >> 64


def status_of(reason: str) -> str:
    """The status, in img2dataset's words, of a link that ended with `reason` (ARCHITECTURE.md lists them)."""
    if reason == SUCCESS:
        return SUCCESS
    if reason in RESIZE_REASONS:
        return FAILED_TO_RESIZE
    return REJECTED if reason.startswith("caption_") or reason == URL_INVALID else FAILED_TO_DOWNLOAD


def is_fetched(reason: str) -> bool:
    """Whether a link that ended so was asked for at all."""
    return status_of(reason) != REJECTED
