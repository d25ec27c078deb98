"""Text as it compares: Unicode width, case, punctuation, traditional characters folded away.

A text becomes a string with one character for each token: a Chinese, Japanese or Korean character
stands for itself, any other word for a code point of its own. So a run of tokens is a slice,
whatever the language, and both may stand in one text.
"""

import re
import unicodedata

import zhconv

# Kana, Han, hangul: scripts without spaces, or with spaces that mean little for a comparison.
CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
TOKENS = re.compile(rf"([{CJK}]+)|([^\W_{CJK}]+)")  # characters, or one word
FIRST_WORD = 0x40000  # no character is assigned from here on: room for 850,000 words
UNKNOWN = "\0"
# The label before an option: (A), A., A、, A: and their full-width forms, which are folded before.
# (?<!\s): once for each run of blanks, not from every blank of it.
LABEL = re.compile(r"(?<!\s)\s*(?:\([A-Za-z]\)|[A-Za-z]\s*[.)、:])\s*(?=\S)")


class _Folded(dict):
    """Code point -> what it is folded to, for str.translate; each is worked out once."""

    def __missing__(self, code: int) -> str:
        folded = unicodedata.normalize("NFKC", chr(code)).casefold()
        self[code] = zhconv.convert(folded, "zh-hans")
        return self[code]


_FOLDED = _Folded()


def fold(text: str) -> str:
    """The text in one width, case and script; punctuation stays."""
    return unicodedata.normalize("NFC", text).translate(_FOLDED)


def without_label(option: str) -> str:
    """An option without the (A) or A. that some benchmarks write before it."""
    return LABEL.sub("", unicodedata.normalize("NFKC", option), count=1)


def is_word(token: str) -> bool:
    """Whether a token is a word, rather than a character of a script without spaces."""
    return ord(token) >= FIRST_WORD


class Vocabulary:
    """The words that somebody looks for; every other word of a text is the same UNKNOWN."""

    def __init__(self) -> None:
        self._codes: dict[str, str] = {}

    def learn(self, text: str) -> str:
        """The tokens of a text, whose words are known from now on."""
        for _, word in TOKENS.findall(fold(text)):
            if word and word not in self._codes:
                self._codes[word] = chr(FIRST_WORD + len(self._codes))
        return self.read(text)

    def read(self, text: str) -> str:
        """The tokens of a text."""
        known = self._codes.get
        return "".join(
            [characters or known(word, UNKNOWN) for characters, word in TOKENS.findall(fold(text))]
        )


def spans(text: str) -> list[tuple[int, int]]:
    """Where each token of a folded text begins and ends."""
    return [
        span
        for found in TOKENS.finditer(text)
        for span in ([(i, i + 1) for i in range(*found.span())] if found[1] else [found.span()])
    ]
