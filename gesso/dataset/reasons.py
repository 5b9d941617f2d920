"""Each reason's meaning in a sentence, and the stage of the pipeline at which it arises. Imports records alone."""

from http import HTTPStatus
from typing import NamedTuple

from gesso.dataset.records import FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE, REJECTED, REPEATS, status_of


class Stage(NamedTuple):
    """A stage at which rows are lost."""

    name: str
    title: str
    survivors: str  # name of the rows that pass it


ROWS, REPEATED, PENDING, RULES, DOWNLOAD, PICTURE = "rows", "repeats", "pending", "rules", "download", "picture"
STAGES = (
    Stage(ROWS, "rows without a usable link", "Rows with a link"),
    Stage(REPEATED, "repeats of a link", "Distinct links"),
    Stage(PENDING, "in shards that are not done", "In finished shards"),
    Stage(RULES, "refused by the caption and link rules", "Links fetched"),
    Stage(DOWNLOAD, "not downloaded", "Downloaded"),
    Stage(PICTURE, "pictures refused", "Kept"),
)
UNNAMED_ROWS = ("malformed_row", "url_missing", "not_a_photo")

MEANING = {
    "malformed_row": "The table's row could not be read.",
    "url_missing": "The row has no link.",
    "not_a_photo": "The table itself says that this is a video.",
    "repeat_pair": "The same link with the same caption stood in an earlier row.",
    "repeat_link": "The link came again with another caption; one caption is kept.",
    "url_invalid": "The link is not an http or https address.",
    "caption_empty": "Nothing is left of the caption after cleaning.",
    "caption_undecodable": "The caption's bytes are not readable text.",
    "caption_missing": "The sample has no caption where captions were looked for.",
    "picture_missing": "The sample has no file that ends in jpg, jpeg, png, webp or gif.",
    "duplicate_key": "Its tar holds the key twice, or the sample's files are not side by side.",
    "name_undecodable": "The file's name in the tar is not UTF-8.",
    "caption_too_short": "The caption has too few words to describe a picture.",
    "caption_too_long": "The caption has more characters than the limit.",
    "caption_boilerplate": "The caption is only a file name, a date or a stock phrase.",
    "caption_repetitive": "The caption repeats the same few words.",
    "caption_not_english": "The caption is in another language than English.",
    "timeout": "No whole answer arrived before the deadline.",
    "dns": "The host's name has no address: the site is gone, or its name is wrong.",
    "connection": "The server could not be reached, or closed the connection.",
    "tls": "No secure connection could be made, often for an expired certificate.",
    "redirects": "The link redirects too often, in a circle, or to no web address.",
    "url_unusable": "The link cannot be requested: its host or port is malformed.",
    "body_too_large": "The file is larger than the limit.",
    "body_incomplete": "The transfer stopped before the file was whole.",
    "bad_response": "The server's response breaks the rules of HTTP, so that it cannot be read.",
    "disallowed": "The server forbids this use by an X-Robots-Tag header.",
    "not_an_image": "The file is not a JPEG, PNG, WebP or GIF; often it is a web page.",
    "undecodable": "The picture's data is damaged.",
    "too_many_pixels": "Width times height is over the limit.",
    "too_small": "The short side is under the limit.",
    "aspect_ratio": "The picture is too wide or too tall for its other side.",
    FAILED_TO_DOWNLOAD: "The download failed; the rows do not say why.",
    FAILED_TO_RESIZE: "The picture could not be used; the rows do not say why.",
}
HTTP_MEANING = {
    401: "The server asks for a password.",
    403: "The server refuses access.",
    404: "The server no longer has the file.",
    410: "The server says that the file is gone for good.",
    429: "The server received too many requests.",
}


def stage_of(reason: str) -> str:
    """The stage at which a row with `reason` was lost."""
    if reason in UNNAMED_ROWS:
        return ROWS
    if reason in REPEATS:
        return REPEATED
    status = FAILED_TO_RESIZE if reason == FAILED_TO_RESIZE else status_of(reason)
    return {REJECTED: RULES, FAILED_TO_DOWNLOAD: DOWNLOAD, FAILED_TO_RESIZE: PICTURE}[status]


def meaning(reason: str) -> str:
    """One sentence in plain words."""
    if not reason.startswith("http_"):
        return MEANING.get(reason, "")
    code = int(reason.removeprefix("http_"))
    if code in HTTP_MEANING:
        return HTTP_MEANING[code]
    phrase = f" ({HTTPStatus(code).phrase})" if code in HTTPStatus._value2member_map_ else ""
    trouble = "The server reports an error of its own" if code >= 500 else "The server refuses with another code"
    return f"{trouble}{phrase}."
