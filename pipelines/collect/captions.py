"""Caption rules: decode, clean, cut boilerplate, name a rejection's reason. Imports of ours language and errors.

The rules are the paper's: too short, not English, mostly boilerplate such as "photographed on <date>" in many date
formats (Ramesh et al. 2021, section 2.2), and from the work it refers to, Sharma et al. 2018, section 3: repeated
words, boilerplate prefixes and suffixes. Every pattern is bounded and runs on a text of bounded length.
"""

import html
import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from gesso.pipelines.collect.language import fold, is_english
from gesso.pipelines.collect.settings import CaptionRules

EMPTY = "caption_empty"
UNDECODABLE = "caption_undecodable"
TOO_SHORT = "caption_too_short"
TOO_LONG = "caption_too_long"
BOILERPLATE = "caption_boilerplate"
REPETITIVE = "caption_repetitive"
NOT_ENGLISH = "caption_not_english"

RAW_PER_CHAR = 8  # "&#8217;" spells one character with seven: a longer raw caption stays too long when it is cleaned
PASSES = 8  # markup inside markup; of 17,917 captions of LAION and Conceptual Captions none needs more than three
MAX_GARBLED = 0.2  # of the characters; the paper and Sharma et al. know no such rule
MIN_DISTINCT = 0.4  # of the words; Sharma et al. give no number; the lowest of 145,000 captions of Multi30k has 0.47
UNSPACED_PER_WORD = 2  # Chinese, Japanese and Thai write no spaces: two characters count as a word


class Judged(NamedTuple):
    """A caption as the rules leave it: cleaned, or as decoded where it is rejected, and why."""

    caption: str
    reason: str | None


def judge(raw: bytes | str | None, rules: CaptionRules) -> Judged:
    """Decode `raw`, clean it and apply the rules, the cheap ones first. Never raises.

    The rules read typographic quotes and dashes as plain ones (`fold`); the caption that is kept has its own.
    """
    text, undecodable = decode(raw)
    if undecodable:
        return Judged(text, UNDECODABLE)
    if len(text) > RAW_PER_CHAR * rules.max_chars:
        return Judged(text, TOO_LONG)
    if is_garbled(strip_markup(text)):
        return Judged(text, UNDECODABLE)
    caption = clean(text)
    if caption is None:
        return Judged(text, BOILERPLATE)
    reason = reject_reason(caption, rules)
    return Judged(text if reason else caption, reason)


def reject_reason(caption: str, rules: CaptionRules) -> str | None:
    """Why `caption`, cleaned, is rejected; None: it is kept."""
    if not caption:
        return EMPTY
    if is_boilerplate(caption):
        return BOILERPLATE
    words = words_of(caption)
    if count_words(words) < rules.min_words:
        return TOO_SHORT
    if len(caption) > rules.max_chars:
        return TOO_LONG
    if is_repetitive(words):
        return REPETITIVE
    return NOT_ENGLISH if rules.english and not is_english(caption) else None


# ── decoding ──

SURROGATE = re.compile("[\ud800-\udfff]")
GARBLED = re.compile(  # replaced, control and private characters and what is none in Unicode; \x1c and \x85 are spaces
    "[\ufffd\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"
    "\ue000-\uf8ff\U000f0000-\U0010ffff\ufff9-\ufffb\ufdd0-\ufdef\ufffe\uffff]"
)


def decode(raw: bytes | str | None) -> tuple[str, bool]:
    """The text of `raw`, always encodable, and whether it was none: bytes that are no UTF-8, lone surrogates."""
    if raw is None:
        return "", False
    if isinstance(raw, bytes):
        try:
            return raw.decode("utf-8"), False
        except UnicodeDecodeError:
            return raw.decode("utf-8", "replace"), True
    text = SURROGATE.sub("\ufffd", raw)
    return text, text != raw


def is_garbled(text: str) -> bool:
    """Whether replacement, control and private characters are more than a fifth of it."""
    if text.isascii() and text.isprintable():
        return False
    return len(GARBLED.findall(text)) > MAX_GARBLED * len(text)


# ── cleaning ──

HTML_TAGS = (
    "a|abbr|b|big|blockquote|br|center|cite|code|dd|div|dl|dt|em|figcaption|figure|font|h[1-6]|hr|i|iframe|img|label"
    "|li|ol|p|pre|q|s|script|small|span|strike|strong|style|sub|sup|table|tbody|td|th|tr|tt|u|ul"
)
TAG_FORM = rf"<(?:/\s?)?(?:{HTML_TAGS})(?:\s[^<>]*|/)?(?:>|$)"
TAG = re.compile(TAG_FORM, re.I)
TAG_BEFORE_MARK = re.compile(rf"{TAG_FORM}(?=[,.:;!?)])", re.I)
INVISIBLE = re.compile("[\u00ad\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")  # but not the joiners of emoji
PARTING = re.compile("[\u200b\ufffc]")  # a space of no width, and the place of an object within the text


def clean(text: str) -> str | None:
    """`text` without markup, boilerplate ends, and characters that nobody sees; None where these have no end."""
    for _ in range(PASSES):
        tidied = tidy(text)
        cleaned = cut(tidied)
        if cleaned == text or (cleaned != tidied and is_boilerplate(tidied)):
            return tidied
        text = cleaned
    return None


def tidy(text: str) -> str:
    """Markup, garbled and invisible characters stripped, NFC, one space between words."""
    text = strip_markup(text)
    if not (text.isascii() and text.isprintable()):
        seen = INVISIBLE.sub("", GARBLED.sub("", PARTING.sub(" ", text)))
        text = unicodedata.normalize("NFC", seen)
    return " ".join(unquote(text).split())


def strip_markup(text: str) -> str:
    """`text` with HTML entities unescaped and HTML tags turned into spaces; other angle brackets stay."""
    if "&" in text:
        text = SURROGATE.sub("\ufffd", html.unescape(text))
    return TAG.sub(" ", TAG_BEFORE_MARK.sub("", text)) if "<" in text else text


def unquote(text: str) -> str:
    """`"A 12"" pan"` → `A 12" pan`: a field that was quoted for CSV twice."""
    inner = text[1:-1]
    if '""' not in inner or text[0] != '"' or text[-1] != '"' or '"' in inner.replace('""', ""):
        return text
    return inner.replace('""', '"')


# ── dates ──

MONTH = (
    "(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\.?"
)
WEEKDAY = r"(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs?)?|fri|sat(?:ur)?|sun)(?:day)?\.?,?\s)?"
YEAR = r"(?:1[89]|20)\d\d"
DAY = r"[0-3]?\d(?:st|nd|rd|th)?"
CLOCK = (
    r"(?:(?:,?\sat\s|,?\s?-?\s|[Tt])[0-2]?\d[:.h][0-5]\d(?:[:.][0-5]\d(?:\.\d{1,6})?)?(?:\s?[ap]\.?m\b\.?)?"
    r"(?:\s?(?:[Zz]|utc|UTC|gmt|GMT|[+-]\d\d:?\d\d)\b)?|,?\s(?:at\s)?[01]?\d\s?[ap]\.?m\b\.?)?"
)
DATE_FORMS = (
    rf"(?:the\s)?{DAY}(?:\sof)?[\s/-]{MONTH}(?:(?:,?\s|[/-]){YEAR}|(?:\s|[/-])'?\d\d)?",  # 3rd of May 2014, 03-May-14
    rf"{MONTH}(?:\sthe)?\s{DAY}(?:,?\s(?:{YEAR}|'\d\d))?",  # May 3rd, 2014
    rf"{MONTH},?\s(?:of\s)?{YEAR}",  # May 2014
    rf"{YEAR}[-/.:][01]?\d[-/.:][0-3]?\d",  # 2014-05-03, and EXIF's 2014:05:03
    rf"[0-3]?\d[-/.][0-3]?\d[-/.](?:{YEAR}|\d\d)",  # 03/05/2014, 3.5.14
    rf"{YEAR}年[01]?\d月[0-3]?\d日",
    rf"{YEAR}[01]\d[0-3]\d",  # 20140503
)
DATE = rf"{WEEKDAY}(?:{'|'.join(DATE_FORMS)}){CLOCK}(?!\w)"
WHOLE_DATE = rf"(?:{DATE}|(?:(?:circa|c\.|ca\.)\s?)?(?:(?:spring|summer|autumn|fall|winter)(?:\sof)?\s)?{YEAR})"

PHOTO = r"(?:photo(?:graph|s)?|picture|image|pic|snapshot|screenshot|shot|portrait|video)"
DONE = (
    "(?:photographed|photo'?d|taken|shot|captured|snapped|posted|uploaded|created|published|added|updated|modified"
    "|submitted|digiti[sz]ed|scanned|recorded)"
)
BY = r"(?:\sby\s[^\s,;:|()]{1,30}(?:\s[^\s,;:|()]{1,30}){0,3}?)?"
WHEN = r"\s?(?:on|in|at|from|around|:|,|-)?\s?"
STAMPED = rf"(?:(?:date|time)\s{DONE}|(?:(?:this|the)\s)?{PHOTO}\s(?:was\s)?{DONE}{BY}|{DONE}{BY})"
PLACE = r"(?:\s(?:in|at|by|with|using|from)\s[^\s,]{1,30}(?:[\s,]{1,2}[^\s,]{1,30}){0,3})?"

# ── boilerplate: patterns for a whole caption ──

IMAGE_FILE = r"\.(?:jpe?g|png|gif|bmp|tiff?|webp|heic|djvu|svg|cr2|nef|psd)"
NUMBERED = (
    r"(?:img|imgp|_?dsc[nf]?|_mg|pict|gopr|pxl|mvi|vid|sam|kif|hpim|cimg|imag|fb_img|pano|burst|received"
    r"|whatsapp\simage|image|photo|picture|pic|untitled|scan|slide|figure|file|unnamed|default|thumbnail|thumb"
    r"|screen\s?shot|capture|attachment|foto|bild)"
)
CAMERA = (
    "(?:canon|nikon|sony|olympus|panasonic|fuji(?:film)?|pentax|leica|kodak|samsung|casio|minolta|konica|ricoh|sigma"
    "|hasselblad|gopro)"
)
CAMERA_MODEL = (
    r"(?:eos|powershot|ixus|rebel|coolpix|cyber-?shot|lumix|finepix|easyshare|exilim|dimage|corporation|hero|mark|mk"
    r"|[ivx]{1,3}|[a-z]{0,4}-?\d{1,4}[a-z]{0,3})"
)
PRICE = (
    r"(?:(?:us|au|ca|nz|hk)?\s?[$£€¥₹]\s?\d[\d,.]{0,12}|\d[\d,.]{0,12}\s?(?:[$£€¥₹]|usd|eur|gbp|dollars|euros)(?!\w))"
)
LINK = r"""(?:https?://|www\.)[^\s<>"”]+"""
EMAIL = r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}"
NAME = r"[^\s,;:|()–—-][^\s,;:|()]{0,29}"
NAMES = rf"{NAME}(?:\s{NAME}){{0,4}}"
ENLARGE = (
    r"(?:click|tap|press)\s(?:here\s|on\s)?(?:(?:the\s|this\s)?(?:image|photo|picture|pic|thumbnail)\s)?(?:here\s)?"
    r"(?:to|for)\s(?:a\s|an\s)?(?:enlarge|zoom|expand|view|see|open|download|larger?|bigger|full|hi-?res|enlarged)"
    r"(?:\s(?:a|an|the|it|in|this|full|larger?|bigger|hi-?res|high|size|sized|full-?size|image|photo|picture|version"
    r"|view|screen|resolution))*"
)
STOCK = (
    r"(?:(?:premium\s|free\s)?(?:royalty[\s-]?free\s)?(?:free\s)?(?:stock\s)"
    r"(?:photo(?:s|graphs?|graphy)?|images?|pictures?|vectors?(?:\s(?:art|graphics?))?|illustrations?|footage|videos?"
    r"|clipart|art)|royalty[\s-]?free(?:\s(?:images?|photos?|vectors?|pictures?|illustrations?))?)"
)
AGENCY = (
    r"(?:shutterstock|getty\simages|i?stock(?:photo)?|alamy|dreamstime|123rf|adobe\sstock|fotolia|depositphotos"
    r"|bigstock|canstock\s?photo|fotosearch|pixabay|pexels|unsplash|flickr|pinterest|etsy|ebay|amazon(?:\.com)?"
    r"|wikimedia\scommons|wikipedia|youtube|vimeo|instagram|facebook|tumblr|deviantart|zazzle|redbubble|walmart)"
)
NUMBER = r"(?:\s?[-–—:_]?\s?(?:(?:id|image|photo|code|no)\.?\s?:?\s?)?[#№]?\s?[\d-]{3,20})"
PLACEHOLDERS = (
    r"(?:sorry,?\s)?(?:no|missing)\s(?:photo|image|picture|thumbnail|caption|description|title|alt|preview|name)"
    r"(?:\s(?:text|description|image|photo))?(?:\s(?:is\s)?(?:available|found|provided|yet|here|set))*",
    r"(?:sorry,?\s)?(?:this\s|the\s|your\s)?(?:photo|image|picture|thumbnail|preview|content|video)(?:\s(?:is|was|has"
    r"|may|be|currently|no|longer|not|been))*"
    r"\s(?:available|unavailable|found|removed|deleted|missing|loading|displayed|coming\ssoon)",
    r"(?:image|photo|picture)\s(?:coming\ssoon|placeholder|may\scontain:?)",
    r"(?:image\smay\scontain:?\s)?no\s(?:photo\s)?description(?:\savailable)?",
    r"(?:please\s)?(?:loading|wait|waiting)(?:,?\s(?:image|images|photo|please|wait))*",
    r"(?:product|featured?|main|header|profile|default|placeholder|thumbnail|cover|related|sample|test|blog|post|hero"
    r"|full|attached|embedded|background|banner|alt|your)\s(?:image|photo|picture|pic|thumbnail|banner|text)s?",
    r"(?:untitled|unnamed|untitled\sdocument|placeholder|thumbnail|n/?a|null|none|undefined|nan|unknown|test|lorem"
    r"\sipsum|tbd|todo|error|404|page\snot\sfound|404\snot\sfound|alt\stext|enter\s(?:a\s)?caption(?:\shere)?"
    r"|(?:add|insert|write)\s(?:a\s)?(?:caption|description|title)(?:\shere)?|caption|description|title)",
    r"(?:this\s)?(?:picture|image|photo|photograph|pic|photos|images|pictures|img|jpe?g|png|gif)",
    r"(?:click|tap)\s(?:here|me|image|photo|picture|to\splay|to\szoom)|view\s(?:full\s?(?:size|screen)|larger|image"
    r"|original|gallery|all|more|larger\simage|full\s?size\simage)|read\smore|learn\smore|see\smore|more\sinfo"
    r"(?:rmation)?|zoom|enlarge(?:\simage)?|next|previous|back|close|menu|home|logo|share|search|download",
    r"all\srights\sreserved|copyright(?:ed)?(?:\smaterial|\simage)?|watermark|sold\sout|out\sof\sstock|add\sto\s(?:cart"
    r"|wishlist|basket)|buy\snow|for\ssale|free\sshipping|share\son\s(?:facebook|twitter|pinterest)|pin\sit|sponsored"
    r"|advertisement",
    r"olympus\sdigital\scamera|sony\sdsc|samsung\scamera\spictures|exif[_\s]jpeg[_\s]\w{1,10}|(?:konica\s)?minolta\sdigital\scamera"
    r"|digital\s(?:still\s)?camera|processed\s(?:with|by)\s(?:vsco|snapseed|moldiv)\b[\s\w]{0,30}"
    r"|created\s(?:with|by|using)\s(?:the\s)?(?:gimp|photoshop|adobe\sphotoshop|canva|inkscape|picsart)",
)
CREDIT = (
    rf"(?:(?:{PHOTO}|photographer|illustration|art|artwork|photography)s?\s?(?:credits?|courtesy)?\s?(?::\s?|\s)"
    rf"(?:credits?:?\s|courtesy\sof\s|by:?\s|©\s?|\(c\)\s?)(?:by\s|to\s)?{NAMES}"
    rf"|(?:{PHOTO}\s)?(?:credits?|courtesy)\s?(?::|of)\s?{NAMES}|(?:©|\(c\)|copyright)\s?(?:©\s?)?(?:{YEAR}\s)?{NAMES})"
)
WHOLE_FORMS = (
    WHOLE_DATE,
    rf"{STAMPED}{WHEN}{WHOLE_DATE}{PLACE}",
    rf"(?:{PHOTO}\s)?(?:on|from|date:?)\s{DATE}",
    rf"\S{{1,200}}{IMAGE_FILE}",
    rf"{NUMBERED}(?:[\s_#-]{{0,2}}\(?\d[\d_.()\sx-]{{0,40}})(?:(?:of|at|um)\s[\d.]{{1,8}}(?:\s?[ap]m)?)?(?:{IMAGE_FILE})?",
    rf"(?:img|dscf?|pxl|p|whatsapp\simage)[_\s-]?\d{{3,}}[\w-]{{0,30}}(?:{IMAGE_FILE})?",
    rf"{CAMERA}(?:[\s,]{{1,2}}(?:{CAMERA}|{CAMERA_MODEL})){{1,6}}",
    rf"(?:for\ssale|price|only|just|from|now|sale|was)?:?\s?{PRICE}(?:\s?(?:-|to|each|now|usd|only)\s?(?:{PRICE})?)?",
    rf"(?:(?:visit|see|source|via|from|link|url|website|e-?mail|contact):?\s)?(?:{LINK}|{EMAIL}"
    r"|[\w-]{1,63}(?:\.[\w-]{1,63}){0,2}\.(?:com|net|org|info|de|co\.uk))",
    ENLARGE,
    rf"(?:{AGENCY}\s?[-–—|:]?\s?)?{STOCK}(?:\s?(?:by|from)?\s?{AGENCY})?{NUMBER}?",
    rf"{AGENCY}{NUMBER}?",
    CREDIT,
    *PLACEHOLDERS,
)
WHOLE_CHARS = 150  # no pattern for a whole caption is for a longer one, links apart
NO_SCALING = re.compile(rf"\W{{0,9}}(?:{'|'.join(f'(?:{form})' for form in WHOLE_FORMS)})\W{{0,9}}")  # in lower case
BARE_LINK = re.compile(LINK)


def is_boilerplate(caption: str) -> bool:
    """Whether nothing in it speaks of a picture: a date stamp, a file name, a camera, a price, a placeholder."""
    if not has_word(caption):
        return True
    caption = fold(caption)
    if len(caption) > WHOLE_CHARS:
        return BARE_LINK.fullmatch(caption) is not None
    return NO_SCALING.fullmatch(caption.lower()) is not None


# ── boilerplate: ends that are cut, each behind strings without one of which it cannot match ──

OPEN = r"\s?[,;:.|/(\[–—~•·-]{1,3}\s?"
CLOSE = r"[)\].!\s]{0,5}$"
STAMPED_END = re.compile(
    rf"(?:{OPEN}{STAMPED}{WHEN}{DATE}|\s(?:photographed{BY}|{PHOTO}\s(?:was\s)?{DONE}{BY}){WHEN}{DATE}){CLOSE}", re.I
)
STAMPED_START = re.compile(rf"^{STAMPED}{WHEN}{DATE}\s?[:;|.–—-]\s?(?=\S)", re.I)
STOCK_END = re.compile(
    rf"(?:{OPEN}(?:{AGENCY}\s)?{STOCK}|\s(?-i:stock\s(?:photo|image|vector|illustration))"
    r"|\s(?-i:(?:Alamy\s|Premium\s|Free\s)?(?:Royalty[\s-][Ff]ree|Stock)\b)"
    rf"(?:\s?{STOCK}|\s?(?:photo(?:s|graphs?|graphy)?|images?|vectors?|illustrations?|pictures?|footage|clipart))?)"
    rf"{NUMBER}?{CLOSE}",
    re.I,
)
STOCK_START = re.compile(rf"^{STOCK}(?:\sof|\s?[:|–—-])\s(?=\S)", re.I)
AGENCY_END = re.compile(
    rf"(?:(?:\s?[|,]|\s[–—-])\s?(?:on\s|via\s|from\s)?|\s(?:images\s)?on\s|\.\s){AGENCY}{NUMBER}?[.!]?$|\s?\({AGENCY}\)[.!]?$",
    re.I,
)
CREDIT_END = re.compile(
    rf"\s?(?:[(\[]\s?(?:ap\s)?(?:{PHOTO}|credit|illustration|art)s?\s?(?:credit|courtesy)?\s?(?:[:/]|by\s|of\s|©)[^()\[\]]{{1,80}}"
    rf"[)\]]|[-–—|.,;/]\s?{CREDIT}|\s©\s?{NAMES}|\.\s?photo:\s{NAMES})(?:,\s{AGENCY})?{CLOSE}",
    re.I,
)
ENLARGE_END = re.compile(rf"(?:\s?{OPEN}|\s){ENLARGE}{CLOSE}", re.I)
ENLARGE_START = re.compile(rf"^{ENLARGE}(?:\sof|\s?[:|–—-])\s(?=\S)", re.I)
PRICE_END = re.compile(
    rf"(?:\s?[,;:|–—-]\s|\s?\(|\s(?:for\ssale(?:\sfor|\sat)?|(?:for\s)?only|price:?|now):?\s){PRICE}{CLOSE}", re.I
)
LINK_END = re.compile(rf"\s?(?:{OPEN})?(?:\s(?:from|at|via|see|on|source:?|visit))?\s{LINK}$", re.I)
LINK_START = re.compile(rf"^{LINK}\s", re.I)
FILE_END = re.compile(
    rf"(?:\s?[-–—|:(]?\s?\b(?:{NUMBERED}[_-]?\d{{3,20}}|(?<=\s)[\w-]{{0,40}}\d{{4}}[\w-]{{0,40}})?{IMAGE_FILE})[)\]]?$",
    re.I,
)
FILE_START = re.compile(rf"^(?:{NUMBERED}[_-]?\d{{3,20}}(?:{IMAGE_FILE})?\s?[:|–—-]?\s|file:\s?)(?=\S)", re.I)
CAMERA_END = re.compile(r"\s?(?:OLYMPUS DIGITAL CAMERA|SONY DSC|KODAK Digital Still Camera)$")
LABEL_START = re.compile(r"^(?:photo|image|picture|photograph)\s?(?:#?\d{1,4})?\s?:\s(?=\S)", re.I)

TRIGGERED: tuple[tuple[tuple[str, ...], tuple[re.Pattern[str], ...]], ...] = (
    (("photo", "image", "picture"), (STAMPED_END, STAMPED_START, CREDIT_END, LABEL_START)),
    (("credit", "courtesy", "©", "(c)", "copyright", "illustration by", "art by"), (CREDIT_END,)),
    (("shot", "taken", "captur", "posted", "load", "creat", "publish", "added"), (STAMPED_END, STAMPED_START)),
    (("updated", "modif", "submit", "digiti", "scan", "recorded", "snap"), (STAMPED_END, STAMPED_START)),
    (("stock", "royalty"), (STOCK_END, STOCK_START, AGENCY_END)),
    (("getty", "shutter", "alamy", "dreamst", "123rf", "foto", "deposit", "pinterest", "etsy"), (AGENCY_END,)),
    (("ebay", "amazon", "wiki", "flickr", "youtube", "pixabay", "pexels", "unsplash", "deviant"), (AGENCY_END,)),
    (("click ", "tap ", "press "), (ENLARGE_END, ENLARGE_START)),
    (("$", "£", "€", "¥", "₹"), (PRICE_END,)),
    (("http", "www."), (LINK_END, LINK_START)),
    ((".jp", ".png", ".gif", ".bmp", ".tif", ".webp", ".heic", ".djvu", ".svg"), (FILE_END,)),
    (("img", "dsc", "pict", "file:"), (FILE_START,)),
    (("sony dsc", "olympus dig", "kodak dig"), (CAMERA_END,)),
)
CUTS = tuple((trigger, patterns) for triggers, patterns in TRIGGERED for trigger in triggers)


def cut(caption: str) -> str:
    """`caption` without boilerplate at its ends; as it is where no word would remain: then it is boilerplate alone."""
    lowered = fold(caption).lower()
    for trigger, patterns in CUTS:
        if trigger in lowered:
            caption = cut_ends(caption, patterns)
    return caption


def cut_ends(caption: str, patterns: tuple[re.Pattern[str], ...]) -> str:
    """`caption` without what these match, as long as a word remains."""
    for pattern in patterns:
        if found := pattern.search(fold(caption)):
            shorter = (caption[: found.start()] + caption[found.end() :]).strip()
            caption = shorter if has_word(shorter) else caption
    return caption


# ── words ──

WORD = re.compile(r"[^\W\d_]")
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
UNSPACED_LETTER = re.compile(f"[{UNSPACED}]")
MARKS = ".,;:!?()[]{}<>|/\\-–—_~*+=&#@%^\"'“”‘’`´…•·"


def has_word(text: str) -> bool:
    """Whether there is a letter of any script in it."""
    return WORD.search(text) is not None


def words_of(caption: str) -> list[str]:
    """Its words in lower case without punctuation; of scripts without spaces, every character."""
    if not caption.isascii():
        caption = UNSPACED_LETTER.sub(r" \g<0> ", caption)
    return [word for word in (token.strip(MARKS) for token in caption.lower().split()) if word]


def count_words(words: Iterable[str]) -> int:
    """How many words these are, two characters of a script without spaces being one."""
    words = list(words)
    single = sum(len(word) == 1 and UNSPACED_LETTER.match(word) is not None for word in words)
    return len(words) - single + -(-single // UNSPACED_PER_WORD)


def is_repetitive(words: list[str]) -> bool:
    """Whether fewer than two fifths of three or more words are distinct."""
    return len(words) > 2 and len(set(words)) < MIN_DISTINCT * len(words)
