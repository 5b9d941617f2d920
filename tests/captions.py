"""Captions for tests: a few in many scripts, thousands of real ones where the machine has them; a small tokenizer."""

import json
from functools import cache
from pathlib import Path

from gesso.training.tokenizer.bpe import Tokenizer, parse, train

DATA = Path(__file__).parents[2] / "shared/data"
SCRIPTS = {
    "arabic": "كلب بني يركض عبر العشب الأخضر",
    "armenian": "Շագանակագույն շունը վազում է խոտերի միջով",
    "bengali": "একটি বাদামী কুকুর ঘাসের উপর দিয়ে দৌড়াচ্ছে",
    "chinese": "一只棕色的狗跑过草地",
    "english": "A Brown Dog Runs Across the Grass, doesn't it? It's 3:45 — over 1,000 m²",
    "georgian": "ყავისფერი ძაღლი ბალახზე დარბის",
    "german": "Ein Größerer Hund LÄUFT über die Straße",
    "greek": "ΈΝΑΣ ΚΑΦΈ ΣΚΎΛΟΣ ΤΡΈΧΕΙ ΣΤΟ ΓΡΑΣΊΔΙ",
    "hebrew": "כלב חום רץ על הדשא",
    "hindi": "एक भूरा कुत्ता घास पर दौड़ता है",
    "japanese": "茶色の犬が草の上をはしっている、ﾜﾝﾜﾝ",
    "korean": "갈색 개가 잔디밭을 달린다",
    "russian": "Коричневая СОБАКА бежит по траве",
    "thai": "สุนัขสีน้ำตาลวิ่งข้ามสนามหญ้า",
    "turkish": "KAHVERENGİ köpek ÇİMLERDE koşuyor, IĞDIR",
    "vietnamese": "Một con chó nâu chạy qua BÃI CỎ",
    "emoji": "🐕‍🦺 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 𝔸𝕓𝕔 🇦🇽",
    "control": "a\x00b\x01\x1b[31m\x7f\x85\u200b\u2028\ufeff\U0010ffff",
    "spaces": "  two  spaces\tand\u00a0a\u3000tab \r\n\r\n at the end   ",
    "newline": "\n",
    "accents": "e\u0301 é ñ n\u0303 ẞ ǅ ﬃ Ⅷ",
}


@cache
def real(languages: int = 11, each: int = 500) -> list[str]:
    """Captions of several languages that people wrote; none where the machine has no shared data."""
    found = sorted((DATA / "captions_eleven_languages").glob("*.txt"))[:languages]
    return [line.strip() for path in found for line in path.read_text("utf-8").splitlines()[:each] if line.strip()]


@cache
def small_tokenizer(vocabulary: int = 400) -> Tokenizer:
    """A tokenizer of the captions above and of those of tests/exports.py."""
    captions = [*SCRIPTS.values(), *(f"A picture of number {number}, drawn" for number in range(40))]
    return Tokenizer(*parse(json.loads(train(captions * 2, vocabulary))))
