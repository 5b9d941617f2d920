"""The outcome of a link: statuses, reasons, the content-derived key of its sample. Standard library only."""

from hashlib import blake2b
from urllib.parse import urlsplit, urlunsplit

KEY_HEX = 32
LINK_HEX = 16  # the first half of a key is a hash of the link, the second half one of the link with its caption

SUCCESS = "success"
FAILED_TO_DOWNLOAD = "failed_to_download"
FAILED_TO_RESIZE = "failed_to_resize"
REJECTED = "rejected"  # by a rule on the caption or the link, before any request
STATUSES = (SUCCESS, FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE, REJECTED)

# Counts in the funnel that are not reasons.
ROWS_READ = "rows_read"
PLANNED = "links"  # to be fetched
REPEATS = ("repeat_link", "repeat_pair")
URL_INVALID = "url_invalid"

SAMPLE_REASONS = frozenset({"picture_missing", "duplicate_key", "name_undecodable"})  # by `gesso index`
RESIZE_REASONS = frozenset({"not_an_image", "undecodable", "too_many_pixels", "too_small", "aspect_ratio"})


def normalize_url(url: str) -> str:
    """The link in a normal form: scheme and host in lower case, no default port, no fragment.

    Raises ValueError where `url` is no absolute http or https link.
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"no http or https link: {url[:200]!r}")
    default = {"http": 80, "https": 443}[parts.scheme]
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = "" if parts.port in (None, default) else f":{parts.port}"
    return urlunsplit((parts.scheme, host + port, parts.path or "/", parts.query, ""))


def sample_key(url: str, caption: str) -> str:
    """The key of a sample, 32 hex digits: a 64-bit hash of the link and one of the link with its caption.

    `url` is normalized (`normalize_url`), `caption` is the table's own, before any rule: a change of the caption rules
    changes no key. All captions of a link share the first half of the key: they are neighbours in key order and fall
    into one shard, where repeats of the link are removed without another shuffle.
    """
    link = url.encode("utf-8", "surrogatepass")
    pair = link + b"\0" + caption.encode("utf-8", "surrogatepass")
    return blake2b(link, digest_size=8).hexdigest() + blake2b(pair, digest_size=8).hexdigest()


def shard_of(key: str, shards: int) -> int:
    """The shard of a key: equal ranges of its first 64 bits, so that the shards are in the order of the keys."""
    return int(key[:LINK_HEX], 16) * shards >> 64


def status_of(reason: str) -> str:
    """The status, in img2dataset's words, of a link that ended with `reason` (ARCHITECTURE.md lists them)."""
    if reason == SUCCESS:
        return SUCCESS
    if reason in RESIZE_REASONS:
        return FAILED_TO_RESIZE
    rejected = reason.startswith("caption_") or reason == URL_INVALID or reason in SAMPLE_REASONS
    return REJECTED if rejected else FAILED_TO_DOWNLOAD


def is_fetched(reason: str) -> bool:
    """Whether a link that ended with `reason` was requested at all."""
    return status_of(reason) != REJECTED
