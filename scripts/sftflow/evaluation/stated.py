r"""What an answer states in an explicit form, and how it ended. Standard library only.

Explicit is "ANSWER: B", "The answer is (B).", \boxed{B}, a bare "B", "B. memory", an option's own
text alone, 故选B, 【答案】B; for a number "#### 42", \boxed{42}, "the answer is 42", 答案是42.
What is named in passing is not: options repeated, distractors discussed, "if the answer were B".
Precision goes first: where a careful reader would hesitate, nothing is stated.

Marks ("the answer is") make claims, and the last claim counts: models correct themselves. Only
where there is none do weaker forms count, if they agree. Every repeat in a pattern is bounded, so
that the time grows with the length of an answer and not with its square.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import Literal

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LONGEST = 30_000  # characters that are read of an answer
SHORT = 8  # characters of a line that may be no more than a letter
CHANGES = 2  # of mind; an answer that goes on to a third states nothing


@dataclass(frozen=True)
class Form:
    """What is asked for: one of `options` (their texts, "" where unknown), several of them, a
    number, or free text."""

    kind: Literal["choice", "choices", "number", "text"]
    options: tuple[str, ...] = ()

    @cached_property
    def texts(self) -> list[str]:
        """The options' texts, plain, for comparing."""
        return [_normal(_plain(option)) for option in self.options]


Ending = Literal["complete", "cut off", "refused", "empty"]
CUT_OFF = {"length", "max_tokens", "model_length"}
REFUSED = {"content_filter", "sensitive", "refusal", "safety"}
# What models write around their thoughts. Templates may open a block themselves, so that an answer
# only closes it.
_THINK = re.compile(
    r"<(?P<closes>/?)(?:think|thinking|thought|thoughts|reasoning|seed:think)(?: [^<>]{0,200})?>"
    r"|\[(?P<closes2>/?)THINK\]|◁(?P<closes3>/?)think▷"
    r"|<\|(?:begin|(?P<closes4>end))_of_thought\|>",
    re.I,
)


def reasoning_apart(answer: str) -> tuple[str, str | None]:
    """(what was thought, tags and all; the answer after it). The answer is None where a block is
    still open: it never began."""
    tags = list(_THINK.finditer(answer))
    if not tags:
        return "", answer
    if not any(tags[-1].groupdict().values()):
        return answer, None
    return answer[: tags[-1].end()], answer[tags[-1].end() :]


def without_reasoning(answer: str) -> str | None:
    """The answer after its last closed block of thoughts; None where a block is still open."""
    return reasoning_apart(answer)[1]


def ending(answer: str, finish_reason: str | None) -> Ending:
    """How an answer ended; a refusal is one that the server calls so, words are not guessed at."""
    if finish_reason in REFUSED:
        return "refused"
    text = without_reasoning(answer)
    if finish_reason in CUT_OFF or text is None:
        return "cut off"
    return "complete" if text.strip() else "empty"


def stated(answer: str, form: Form) -> str | None:
    """The letter, the letters in their order ("AC"), the number ("1234", "-3", "5/8"; no unit), or
    the free text that the answer states; None where it states none."""
    text = (without_reasoning(answer) or "").strip()
    if not text or form.kind == "text":
        return text or None
    if len(text) > LONGEST:  # a loop: what it states stands at its ends
        text = f"{text[: LONGEST // 2]}\n{text[-LONGEST // 2 :]}"
    read = _number if form.kind == "number" else _choice
    # A model that runs on answers questions of its own invention after the one it was asked.
    parts = [part for part in _RUN_ON.split(_plain(text)) if part.strip()]
    found = (read(part, form, number == 0) for number, part in enumerate(parts))
    return next((statement for statement in found if statement), None)


def equal(one: str, other: str, form: Form) -> bool:
    """Whether two statements say the same: numbers by value, letters in any order and case."""
    if form.kind == "number":
        return None is not _value(one) == _value(other)
    return sorted(one.strip().upper()) == sorted(other.strip().upper())


_RUN_ON = re.compile(
    r"<\|[a-z_]{2,20}\|>|</s>"
    r"|^[ \t#]{0,8}(?:(?:next |new )?question\b[ \d]{0,4}[:.]|Q\d{0,3}:|user:|human:"
    r"|answer the following|(?:下一|新)?(?:问题|题目|题)[ \d]{0,4}:|用户:|回答下面)",
    re.I | re.M,
)

# --- plain text: one width, no Markdown, no LaTeX around the words -------------------------------

_WIDTH: dict[int, int | str | None] = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_WIDTH |= dict.fromkeys(map(ord, "\u3000\xa0\u2002\u2003\u2009\u202f"), " ")
_WIDTH |= dict.fromkeys(map(ord, "\u200b\u200c\u200d\ufeff\r"), None)
_WIDTH |= dict.fromkeys(map(ord, "−–‐‑﹣"), "-") | {ord("．"): ".", ord("’"): "'"}
_STYLED = re.compile(
    r"\\(?:text|mathbf|textbf|mathrm|mathsf|textit|mathit|rm|bf) ?\{([^{}]{0,200})\}"
)
_PLAIN = [
    (re.compile(r"~~[^~\n]{1,200}~~"), ""),  # struck out
    (_STYLED, r"\1"),
    (_STYLED, r"\1"),  # \mathbf{\text{B}}
    (re.compile(r"\\[dt]?frac ?\{(\d{1,30})\}\{(\d{1,30})\}"), r"\1/\2"),
    (re.compile(r"\\(?:boxed|fbox) ?\{"), "⟦"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\(?:left|right|quad|[,;!()\[\]])|\\?\$|\*\*|__|`"), ""),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"), ""),
    (re.compile(r"</?(?:b|strong|i|em|u|p|br|span|div|center) ?/?>", re.I), ""),
]  # fmt: skip


def _plain(text: str) -> str:
    text = text.translate(_WIDTH)
    for pattern, replacement in _PLAIN:
        text = pattern.sub(replacement, text)
    return text


# --- marks: what stands before a statement -------------------------------------------------------

_BEST = r"(?:correct|right|best|final|appropriate|suitable|likely|chosen|accurate)"
_NOUN = (
    rf"(?:\b(?:answers?|ans\.?|solution)(?![a-z])(?:\s(?:choice|option|letter|key)s?\b)?"
    rf"|\b{_BEST}\s(?:option|choice|response|statement|letter|result|match|fit)s?\b"
    r"|\bmy\s(?:choice|pick)\b|答案|正确选项|最佳选项|答(?=:)|(?:正确|符合题意|恰当|合适|最符合)的(?:选项|说法|一项|选择)?(?=[是为:应]))"
)
_COPULA = (
    r"(?:(?<![a-z])(?:is|are|(?:would|should|must|will|has\sto)\sbe)(?![a-z])"
    r"|[:=]|-{0,2}>|-{1,2}(?=\s)|=>|→|(?<=[】\]])|应[该当]?[是为选]?|大?约[是为]|[是为选即就])"
)
_ADVERB = (
    r"(?:\s{0,3}(?:(?:therefore|thus|hence|then|clearly|definitely|probably|most\slikely|likely"
    r"|indeed|simply|still|actually|also|approximately|about|roughly|equal\sto|a\stotal\sof|option|choice"
    r"|letter)(?![a-z])|应该|应当|应|就|显然|是|为|选择|选项|选|约|大约|一共|共)){0,3}"
)
_NOT_BUT = (
    r"(?:\s{0,3}not\s(?:option\s)?[(\"']?(?:[A-Z]|\d{1,12})[)\"']?[,.]?"
    r"\s(?:but|rather)\s(?:rather\s|instead\s)?)?"
)
_SAID = re.compile(
    rf"{_NOUN}(?:\s(?:to|for|of|in|among|from|here|that|you|we)\b[^.\n:;?!]{{0,60}}?)?[\"'\s)\]】*]{{0,4}}"
    rf"(?:{_COPULA}{_ADVERB}\.{{0,3}}…?\s{{0,3}}[:,]?{_NOT_BUT}|并?不是(?:[A-Z]|\d{{1,12}})[,。;]?\s?而?是(?:选项)?)",
    re.I,
)
_CHOSEN = re.compile(
    r"\bI(?:'d|'ll|\swould|\swill)?\s(?:choose|pick|select|go\swith|opt\sfor)\s"
    r"(?:(?:option|answer|choice)\b)?"
    r"|(?<![不别误错勿漏若可备候单多])(?<!不能)(?<!不应)(?<!不该)(?<!不可)(?<!不会)(?<!如果)(?<!假如)"
    r"(?:选择|选)(?:的是|的答案是|出的?是?|答案|为)?(?:选项)?:?"
    r"|⟦|<answer>|\[\[|####(?=\s?[-$.\d])",
    re.I,
)
_ALONE = re.compile(  # counts where nothing follows what it introduces
    r"^\W{0,6}(?:(?:final|correct|my)\s)?answer\s|^\W{0,6}(?:最终|正确|参考)?答案\s?"
    r"|(?:\b(?:wait|actually|correction|sorry|oops|no)|不对|更正|等等|抱歉)"
    r"[\s,.:!…-]{1,5}(?:no[\s,.]{1,3})?(?:it\s(?:should|must)\sbe|it(?:'s|\sis)"
    r"|that\s(?:should\sbe|is)|I\smean|make\s(?:that|it)|应该?[是为选]|是|选)?"
    r"|\b(?:I\smean|it\sshould\sbe|change\s(?:it|that|my\sanswer)\sto)"
    r"|改[为成选]|(?<!不)应该?[是为选]",
    re.I | re.M,
)
_RETRACTED = re.compile(
    r"(?:\b(?:no|wait|hmm|actually|oops)|不对)[\s,.!…-]{1,4}(?:that|this|it)"
    r"(?:'s|\sis|\swas|\scan(?:'t|not)\sbe)\s(?:wrong|incorrect|not\s(?:right|correct)|a\smistake)",
    re.I,
)
_WITHHELD = re.compile(
    r"\s{0,3}(?:not\s(?:clear|given|known|listed|here|there|among|possible)|unclear|unknown|none"
    r"|undetermined|impossible|can(?:not|'t)\sbe|不确定|无法|未知|没有|不知道|不存在)",
    re.I,
)
_DENIED = re.compile(  # before a mark: what makes it a supposition, or somebody else's answer
    r"(?:\b(?:if|whether|why|unless|suppose|supposing|assume|assuming|not|nor|neither|wrong"
    r"|incorrect|false|another|other|student's|previous|common|tempting|example)"
    r"|n't(?:\s(?:think|believe|say|mean|know))?"
    r"|如果|假如|假设|若|为什么|为何|并非|不认为|不是|难道|是否|错误的?|误以为"
    r"|\b(?:students?|people|someone|somebody|others|some|many|they|told\syou)\b[^.,:;?!\n]{0,25}"
    r"|(?:有人|人们|很多人|同学|学生)[^,。:\n]{0,8}|\b(?:question|part)\s\d{1,2}\b[^.\n]{0,20}"
    r"|(?:format|form|格式)\W{0,3}(?:is|of|是|为)?\W{0,6}['\"“])"
    r"\s?(?:that\s)?(?:(?:the|an?|my|your|this|its|option)\s)?"
    r"(?:(?:correct|right|best|final|wrong|正确|最终)的?\s?)?$",
    re.I,
)


def _marks(text: str) -> Iterator[tuple[int, bool, bool]]:
    """(where a mark ends, whether what follows must stand alone, whether it names an answer)."""
    for pattern in (_SAID, _CHOSEN, _ALONE):
        for match in pattern.finditer(text):
            if not _denied(text, match.start()):
                yield match.end(), pattern is _ALONE, pattern is _SAID


def _denied(text: str, position: int) -> bool:
    return bool(_DENIED.search(text[max(0, position - 40) : position].rpartition("\n")[2]))


def _past(pattern: re.Pattern, text: str, start: int) -> int:
    """Where what may stand at `start` ends; `start` itself where nothing of it does."""
    match = pattern.match(text, start)
    return match.end() if match else start


NOTHING = ""  # stands after a mark: no claim at all. None: a claim that leaves it open


def _last(text: str, claim: Callable[[int, bool], str | None]) -> str | None:
    """What the last mark claims, unless the mind never settles. NOTHING where no mark claims."""
    claims: dict[int, str | None] = {match.end(): None for match in _RETRACTED.finditer(text)}
    for end, alone, noun in _marks(text):
        found = claim(end, alone)
        if found is None or found:
            claims[end] = found
        elif noun and _WITHHELD.match(text, end):
            claims[end] = None
    said = [claims[end] for end in sorted(claims)]
    if not said:
        return NOTHING
    return said[-1] if sum(one != other for one, other in pairwise(said)) <= CHANGES else None


# --- choices -------------------------------------------------------------------------------------

_LABEL = re.compile(
    r"[ \t]{0,8}(?:[-•>][ \t])?(?:[Oo]ption |选项 ?)?[(\[]?([A-Za-z])([)\].:、])"
    r"(?! ?[A-Z][、,.)])[ \t]{0,4}(.{0,400})"
)
_LABELLED = re.compile(r"(?<![A-Za-z])[A-J][).:、] ?\S")
_OPEN = re.compile(
    r"[\s\"'“‘(\[{<【「⟦_*#>~-]{0,12}(?:(?:option|choice|letter|选项)\s?[\"'(\[]?)?", re.I
)
_LETTER = re.compile(r"([A-Z]{1,10}|[a-z])(?![A-Za-z0-9_+#]|['-][A-Za-z]|\.[A-Za-z](?![A-Za-z]))")
_CLOSE = re.compile(r"(?: {0,2}[)\]}\"'”’】」>*_]{1,4})?(?: ?选?项)?")
_SEPARATOR = re.compile(
    r"\s{0,3}(?:[,、/&+;]|(?:and|or)(?=[\s(])|和|或者?|以及|及|与|还是)\s{0,3}\(?"
    r"(?:(?:(?:and|or|also|possibly|maybe|perhaps)\s){1,2}|和|或者?)?"
    r"|\s{0,2}\((?:or|或)\s?|[ ](?=[A-Z]\b)|(?<=\))(?=\()"
)
_OR = re.compile(r"or|或|还是")
AFTER_LOWER = {"", *")]}.,;:\n\"'”】>*"}  # what makes of "b" a letter, and of "a" no article
_VERB = re.compile(
    r"\s{0,2}(?:(?:is|was|isn't|does|has|can|would|describes?|refers?|means)(?![a-z])"
    r"|错|不|是|描述|指|则)"
)
_END = re.compile(r"\s{0,3}(?:[.。,;!:]\s{0,3})?(?:\n|$)|\s{0,2}[.。,;!)\]}]")
_GOES_ON = re.compile(  # after a letter that is the claim, and not the first word of something else
    r"\s{0,3}(?:because|since|as|for|due|and|or|which|with|not|but|over|rather|instead|based|given"
    r"|is|in|on|from|by|that|so|seems|fits)(?![a-z])"
    r"|\s{0,2}(?:选?项|[是因而不和或与及为对的才最比啦了吧]|正确|符合|描述"
    r"|[^\sA-Za-z\u4e00-\u9fff]|\n|$)"
)
_DOUBT = re.compile(
    r"\s{0,2}(?:\?|吗|还是|(?:(?:is|was|are)\s)?(?:wrong|incorrect)|(?:is|was|are)\snot\s"
    r"|是?(?:错|不对|不正确|不符))"
)
_RIGHT = re.compile(
    r"(?<![A-Za-z])\(?([A-Z])\)?\s(?:is|must\sbe)\s(?:the\s)?"
    r"(?:(?:most|clearly|definitely|only|therefore|thus)\s)?"
    r"(?:(?:correct|right|best)(?:\s(?:answer|option|choice|one|response))?|answer)"
    r"(?=\s{0,2}(?:[.,:;!)\n]|$|(?:because|since|as|here|for|among|given)\b))"
    r"|(?<![A-Za-z])([A-Z])\)?(?:选项|项)?(?:是|为)?最?(?:正确|对的|符合题意|恰当|合适)(?!性)"
    r"|(?:(?:\b(?:therefore|thus|hence|so)|因此|所以|故|综上)[,:]?\s{0,3}(?:it(?:'s|\sis)\s|是|为)?"
    r"|^it(?:'s|\sis)\s|^是)(?:(?:option|choice)\s)?\(?([A-Z])\)?[.。]?(?=\s{0,3}$)",
    re.I | re.M,
)


def _choice(text: str, form: Form, first: bool) -> str | None:
    text = _without_repeated_options(text)
    said = _last(text, lambda end, alone: _claim(text, end, form, alone))
    if said != NOTHING or not first:
        return said
    hints = {hint for hint in _hints(text, form) if hint}
    labels = {label[1].upper() for line in text.split("\n") if (label := _LABEL.match(line))}
    return hints.pop() if len(hints) == 1 and len(hints | labels) == 1 else None


def _claim(text: str, start: int, form: Form, alone: bool) -> str | None:
    """The option named at `start`, by its text or by its letter."""
    start = _past(_OPEN, text, start)
    if named := _named(text[start : start + 400], form):
        return named
    letters, end, left_open = _letters(text, start, form)
    if not letters or _DOUBT.match(text, end) or (alone and not _END.match(text, end)):
        return NOTHING
    if len(letters) > 1:
        return None if left_open or form.kind == "choice" else letters
    after = re.sub(r"^[\s.:)、]{0,4}", "", text[end : end + 400])
    if text[end - 1] in ")]}" or _GOES_ON.match(text, end):
        return letters if _named(after, form) in (NOTHING, letters) else None
    return letters if _begins(after, letters, form) else NOTHING


def _letters(text: str, start: int, form: Form) -> tuple[str, int, bool]:
    """(letters of options that stand at `start`, sorted; where they end; whether "or" is there)."""
    first = _LETTER.match(text, start)
    if first is None:
        return NOTHING, start, False
    letters, end, left_open = first[1], _past(_CLOSE, text, first.end()), False
    if letters.islower() and text[first.end() : first.end() + 1] not in AFTER_LOWER:
        return NOTHING, start, False
    if letters == "a" and not text[end:].strip() and text[:start].rstrip().endswith((" is", " be")):
        return NOTHING, start, False  # an article, cut off
    while separator := _SEPARATOR.match(text, end):
        following = _LETTER.match(text, _past(_OPEN, text, separator.end()))
        if following is None or following[1].islower() != first[1].islower():
            break
        if _VERB.match(text, following.end()):
            break
        after = _past(_CLOSE, text, following.end())
        listed = _END.match(text, after) or _SEPARATOR.match(text, after)
        if not listed and separator[0].strip() in ("", ",", ";"):
            break
        letters, end = letters + following[1], after
        left_open |= bool(_OR.search(separator[0]))
    letters = "".join(sorted(set(letters.upper())))
    valid = set(letters) <= set(LETTERS[: len(form.options)])
    return letters if valid else NOTHING, end, left_open


_CLAUSE = re.compile(
    r"[.。;](?:\s|$)|[。;]|,? (?:because|since|which|as it)\b|,?(?:因为|即|也就是)"
)


def _normal(text: str) -> str:
    text = " ".join(text.split()).strip(" .。,;:!?*\"'“”()[]{}⟦").casefold()
    for article in ("the ", "an ", "a "):
        text = text.removeprefix(article)
    return text


def _named(text: str, form: Form) -> str:
    """The letter of the one option whose text is the line, or the sentence, that begins here."""
    line = text.partition("\n")[0]
    clause = _CLAUSE.search(line)
    wholes = {_normal(line), _normal(line[: clause and clause.start()])}
    found = [i for i, own in enumerate(form.texts) if own in wholes and not _LETTER.fullmatch(own)]
    return LETTERS[found[0]] if len(found) == 1 else NOTHING


def _begins(text: str, letter: str, form: Form) -> bool:
    """Whether a text begins with that option's own, or is the beginning of it."""
    own, line = form.texts[LETTERS.index(letter)], _normal(text.partition("\n")[0])
    return bool(own and line) and (line.startswith(own) or own.startswith(line))


def _without_repeated_options(text: str) -> str:
    """Lines that repeat the options choose none: two or more together lose their letters."""
    lines, block = text.split("\n"), []
    for number in range(len(lines) + 1):
        label = number < len(lines) and _LABEL.match(lines[number])
        if label:
            block.append((number, label))
        elif number == len(lines) or lines[number].strip():
            if len({label[1] for _, label in block}) > 1:
                for place, label in block:
                    lines[place] = "• " + lines[place][label.end(2) :]
            block = []
    return "\n".join(lines)


def _hints(text: str, form: Form) -> Iterator[str]:
    """Weaker forms, which count where none is contradicted: "B is correct"; a line "B" or
    "B. memory", or an option's text alone, at the beginning or the end."""
    for match in _RIGHT.finditer(text):
        letter = next(filter(None, match.groups()))
        if letter in LETTERS[: len(form.options)] and not _denied(text, match.start()):
            yield letter
    lines, several = [line for line in text.split("\n") if line.strip()], form.kind == "choices"
    for line in {*lines[:1], *lines[-1:], *(line for line in lines if len(line) < SHORT)}:
        if named := _named(line, form):
            yield named
        elif label := _LABEL.match(line):
            letter, mark, rest = label[1].upper(), label[2], label[3].strip()
            if letter in LETTERS[: len(form.options)]:
                known = form.texts[LETTERS.index(letter)]
                if _LABELLED.search(rest):  # all options in one line
                    continue
                if not rest or _begins(rest, letter, form) or (mark in ")、" and not known):
                    yield letter
        else:
            start = _past(_OPEN, line, 0)
            letters, end, left_open = _letters(line, start, form)
            if not line[end:].strip(" .。*_)]}\"'”】>"):
                one = len(letters) == 1 and end - start < 5
                yield letters if one or (several and not left_open) else NOTHING


# --- numbers -------------------------------------------------------------------------------------

_AMOUNT = (
    r"(?:US\$|USD|RMB|[$€£¥₹])?\s?\+?(?P<minus>-|minus\s|负)?(?:US\$|[$€£¥₹])?"
    r"(?P<number>\d{1,3}(?:,\d{3}){1,10}(?:\.\d{1,30})?|\d{1,40}(?:\.\d{1,30})?|\.\d{1,30})"
    r"(?:\s?/\s?(?P<below>\d{1,30}))?"
    r"(?P<scale>\s?(?:thousand|million|billion|百|千|万|亿)(?![a-z]))?"
    r"(?![\d:]\d|\d|(?:st|nd|rd|th)\b|e[-+]?\d|,$|[a-z]?\s?\^|[a-z]\s?[-+*/=])"
)
_AT = re.compile(r"[\s\"'“(\[{:=≈~⟦*_]{0,12}(?:[a-z]\s?=\s?)?" + _AMOUNT, re.I)
_BARE = re.compile(r"[(\[]?" + _AMOUNT + r"\s?[^\d\s=+*/-]{0,15}", re.I)
_WITHIN = re.compile(  # "Answer: She has 42 clips left."
    r"\s{0,3}(?:that\s)?(?:there\s(?:are|were|will\sbe|is)"
    r"|(?:she|he|they|it|we|you|[A-Z][a-z]{1,20})\s[a-z]{1,12}(?:\s[a-z]{1,12}){0,3}?)\s"
    + _AMOUNT
    + r"(?=[^\d.\n=?]{0,40}(?:[.!]\s|[.!]?$|\n))",
)
_FORMULA = re.compile(
    r"\s{0,2}(?:(?:[a-z$%°]{1,12}\s){0,2}[-+*×÷/=x]\s{0,2}[($]?\d|=|[-+*×÷/](?:\s|$)"
    r"|(?:times|plus|minus|multiplied|divided)\b)",
    re.I,
)
_RESULT = re.compile(r"=\s{0,3}" + _AMOUNT + r"(?![^\n]{0,80}=)(?!\s?[-+*×÷/])", re.I)
_RANGE = re.compile(
    r"\s{0,2}(?:(?:[a-z%°]{1,12},?\s){0,2}(?:or|to|and|till|-|~|,)|[^\s\d]{0,3}(?:或者?|和|到|至))"
    r"\s{0,2}(?:about\s)?[$]?\d|\s(?:[a-z]{1,12}\s)?and\s(?:a|one)\s|[\u4e00-\u9fff]{1,3}\d",
    re.I,
)
_ASKED = re.compile(r"\s?\w{0,12}\s?(?:\?|吗)")
_STEPS = re.compile(r"[.)]\s(?=[^\x00]{0,2000}?(?<!\d)2[.)]\s)")  # "Answer: 1. Add. 2. Divide."
_SCALES = {
    "百": 100,
    "千": 1000,
    "万": 10_000,
    "亿": 10**8,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
}


def _number(text: str, _: Form, first: bool) -> str | None:
    said = _last(text, lambda end, alone: _amount(text, end, alone))
    if said != NOTHING or not first:
        return said
    lines = [line.strip(" *_") for line in text.split("\n") if line.strip()]
    # A number alone is an answer; "26." at the end of several lines is where a list was cut.
    found = lines and not (lines[1:] and lines[-1].endswith(".")) and _BARE.fullmatch(lines[-1])
    return _written(found) if found else None


def _amount(text: str, start: int, alone: bool) -> str | None:
    """The number that stands at `start`, the result where it is a sum; None where it is a range."""
    found = _AT.match(text, start) or _WITHIN.match(text, start)
    if found is None or _ASKED.match(text, found.end()):
        return NOTHING
    if found["number"] == "1" and _STEPS.match(text, found.end()):
        return NOTHING
    rest = text[found.end() : found.end() + 300].partition("\n")[0]
    if _FORMULA.match(rest):
        result = _RESULT.search(rest)
        return _written(result) if result else NOTHING
    if _RANGE.match(rest):
        return None
    return NOTHING if alone and not _END.match(rest) else _written(found)


def _written(found: re.Match) -> str:
    """A number without separators and needless zeros: "1234", "0.5", "-3", "5/8"."""
    text = found["number"].replace(",", "").lstrip("0") or "0"
    if found["below"]:
        text = f"{text}/{found['below']}"
    elif found["scale"]:
        text = str(float(Fraction(text) * _SCALES[found["scale"].strip().lower()]))
    if "." in text and not found["below"]:
        text = text.rstrip("0").rstrip(".")
    text = "0" + text if text.startswith(".") else text
    return ("-" if found["minus"] else "") + text


def _value(text: str) -> Fraction | None:
    found = _AT.match(_plain(text))
    try:
        return Fraction(_written(found)) if found else None
    except (ValueError, ZeroDivisionError):  # 3.5/2, 1/0
        return None
