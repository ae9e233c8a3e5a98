"""Defences of a judge against answers that address it ("say yes"): sentence removal and decoy gold answers.

:func:`remove_directives` drops the sentences that say how the answer should be judged. It matches small patterns, so it
does not stop every wording. Words of the question or of a gold answer (a judge in a court, a language model, braces) do
not count, and an answer that contains the gold answer is never emptied.

:func:`decoy_for` gives a wrong gold answer: a judge that accepts an answer against it too has not compared.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from seal_lightning.core.seeds import derive_seed
from seal_lightning.scoring.graders.answer_words import FUNCTION_WORDS, alike, words

_SENTENCE = re.compile(r"[^.!?;:\n\r—]+[.!?;:\n\r—]*|[.!?;:\n\r—]+")
_INVISIBLE = frozenset({"Cf", "Cc", "Co", "Cs"})
_LOOK_ALIKES = str.maketrans("АВЕЅІЈКМНОРСТУХаеѕіјорсухһԁνο", "ABESIJKMHOPCTYXaesijopcyxhdvo")
_LEAD_IN = re.compile(
    r"^\s*the (?:correct|right) answer(?: here| to [^.:]{1,80}?)? is(?: that)?\b[:,]?\s*", re.IGNORECASE
)
"""A common opening of honest answers; the answer follows it."""

_JUDGES = re.compile(
    r"(?:judg(?:es?|ing|e?ment)|grad(?:ers?|ing|ed)|evaluators?|examiners?|assessors?|raters?|verdict|rubric|scorer|jailbreak)"
)
"""Words of texts about judging, rare in answers."""

_RIGHT = r"(?:yes|correct(?:ly)?|right|true|accepted?|accurate|valid|full marks|pass(?:ed|es)?)"
_REPLY = (
    r"(?:say|reply|respond|answer|output|print|return|choose|select|mark(?:ed)?|grade|rate|label|accept|treat(?:ed)?"
    r"|counts?|counted|consider(?:ed)?|confirm|declare|approve|conclude)"
)
_ANSWER = r"(?:answers?|response|reply|statement|submission)"
_ADDRESSES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\b{_REPLY}\b(?:\W+\w+){{0,5}}?\W+{_RIGHT}\b",
        rf"\b(?:this|that|my|above|second|following|candidate's|student's|two|both)\W+(?:\w+\W+)?{_ANSWER}\b(?:\W+\w+){{0,5}}?"
        rf"\W+(?:{_RIGHT}|same|identical|match(?:es)?|agrees?)\b",
        r"\b(?:is|are|was|be|been|fully|entirely|completely|answered)\W+(?:\w+\W+)?(?:correct(?:ly)?|accepted)\W*$",
        rf"\b(?:gold|golden|expected|official|reference|intended)\W+(?:{_ANSWER}|output|solution)\b",
        r"\b(?:answer key|marking scheme|full marks|marked (?:as )?wrong|as an ai|language model)\b",
        r"\b(?:(?:previous|above|earlier|other) (?:instructions?|rules?)|(?:instructions?|rules?|texts?|prompt) above)\b",
        r"^\W*(?:system|assistant|user|developer(?: mode)?|admin|decision|score|confidence|result|output|option|final"
        r" answer|correct|grade|end of \w+)\W*:",
        r"(?:\w\W+|^\W*(?:yes|true)\W+)(?:\w+\W+)*?yes\b",  # a yes that does not begin an answer, or more than one
        r"<[|/!]?[a-z_]+[^<>]{0,40}>|<!--|\[/?[a-z_]{3,}\]|^\W*#{1,}\s|```|[{}]",
        r"(?:\b\w\b[ .]+){4,}",  # s p a c e d letters
        r"\b(?:ignore|disregard|forget|override)\b.*\b(?:all|any|previous|above|rules?|instructions?|said)\b",
    )
)
_CONTROL_TOKEN = re.compile(r"<\|?[/a-z_]{1,30}\|?>|\[/?[A-Z_]{3,20}\]", re.IGNORECASE)
"""A control token of a chat template; the text before it may be an answer."""
_BARE = re.compile(r"^\W*(?:yes|true|correct|right)\W*$")
_ASKS_WHETHER = re.compile(
    r"^\W*(?:is|are|am|was|were|do|does|did|can|could|has|have|had|will|would|should|true or false)\b"
)

_OTHER_GOLDS = (
    "a copper mine near the river",
    "twelve wooden barrels",
    "the harbour of Valparaíso",
    "because the bridge had fallen",
    "a violin teacher",
    "Queen Margrethe",
    "to keep the seeds dry in winter",
    "the northern lighthouse",
    "salt and dried fish",
    "a disease of the lungs",
    "under the old theatre",
    "the Treaty of Windsor",
    "an engine driven by steam",
    "sheep farmers in Patagonia",
    "every second Tuesday",
    "green glass bottles",
)
"""Gold answers of many kinds, so that at least one is wrong for every question."""

_DIGITS = re.compile(r"\d+")


def remove_directives(answer: str, question: str, gold_answers: Sequence[str]) -> str:
    """Return the answer without the sentences that address a judge; empty where nothing else is left."""
    about = [_folded(_plain(text[:2000])) for text in (question, *gold_answers)]
    topic = {word for text in about for word in words(text)}
    is_yes_no = bool(_ASKS_WHETHER.match(about[0])) or not topic.isdisjoint({"yes", "no", "true", "false"})
    patterns = [pattern for pattern in _ADDRESSES if not any(pattern.search(text) for text in about)]
    sentences = _SENTENCE.findall(_LEAD_IN.sub("", _CONTROL_TOKEN.sub("\n", _plain(answer))))
    kept = [sentence for sentence in sentences if not _addresses_judge(sentence, topic, is_yes_no, patterns)]
    text = "".join(kept).strip() if len(kept) < len(sentences) else answer.strip()
    if any(character.isalnum() for character in text):
        return text
    return answer.strip() if any(_contains(answer, gold) for gold in gold_answers) else ""


def decoy_for(question: str, gold: str, answer: str, number: int = 0) -> str:
    """Return a gold answer that is wrong here; always the same for the same arguments.

    Where the answer has a number of the gold answer's, the decoy is the gold answer with other numbers; else the gold
    answer of another question. (An answer that leaves the number out may be right against any number.)

    Args:
        question: the question.
        gold: the right answer.
        answer: the answer that is graded; a decoy that shares a word with any of the three is skipped.
        number: ≥ 0; another number, another decoy.
    """
    seed = derive_seed("decoy", question, gold, number)
    if not {*_DIGITS.findall(gold)}.isdisjoint(_DIGITS.findall(answer)):
        return _DIGITS.sub(lambda match: _other_number(match[0], seed), gold)
    used = [word for text in (question, gold, answer) for word in words(text[:1000]) if word not in FUNCTION_WORDS]
    start = seed % len(_OTHER_GOLDS)
    ordered = [*_OTHER_GOLDS[start:], *_OTHER_GOLDS[:start]]
    return next((decoy for decoy in ordered if not _shares_word(decoy, used)), ordered[0])


def _contains(answer: str, gold: str) -> bool:
    """Return True if the gold answer's words stand in the answer; a bare "yes" does not count, every plea has one."""
    expected = words(gold)
    if len(expected) == 1 and _BARE.match(expected[0]):
        return False
    return bool(expected) and f" {' '.join(expected)} " in f" {' '.join(words(answer))} "


def _plain(text: str) -> str:
    """Return the text as a reader sees it: compatibility forms folded, invisible characters removed."""
    folded = unicodedata.normalize("NFKC", text)
    return "".join(c for c in folded if c in "\n\t" or unicodedata.category(c) not in _INVISIBLE)


def _folded(text: str) -> str:
    return text.translate(_LOOK_ALIKES).casefold().strip()


def _addresses_judge(sentence: str, topic: set[str], is_yes_no: bool, patterns: Sequence[re.Pattern[str]]) -> bool:
    text = _folded(sentence)
    if _BARE.match(text):
        return not is_yes_no
    if any(_JUDGES.fullmatch(word) and word not in topic for word in words(text)):
        return True
    return any(pattern.search(text) for pattern in patterns)


def _other_number(digits: str, seed: int) -> str:
    """Return as many digits; longer numbers keep their first two, so that a year stays a year."""
    kept = 2 if len(digits) > 2 else 0
    shift = 1 + seed % 8
    return digits[:kept] + "".join(str((int(digit) + shift) % 10) for digit in digits[kept:])


def _shares_word(decoy: str, used: Sequence[str]) -> bool:
    return any(alike(word, other) for word in words(decoy) if word not in FUNCTION_WORDS for other in used)
