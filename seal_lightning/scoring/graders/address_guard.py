"""Leaves out of an answer what speaks to a judge: an answer names a fact, and nobody asked it for its mark.

A sentence goes when it says how it should be judged. That is told by small patterns, so it is no proof against every
wording; it takes the plain ones away before a judge reads them. What the question or a gold answer itself says (a judge
in a court, a language model, braces) is no address, and an answer that has the gold answer is never emptied.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from seal_lightning.scoring.graders.normalize import words

_SENTENCE = re.compile(r"[^.!?;:\n\r—]+[.!?;:\n\r—]*|[.!?;:\n\r—]+")
_INVISIBLE = frozenset({"Cf", "Cc", "Co", "Cs"})
_LOOK_ALIKES = str.maketrans("АВЕЅІЈКМНОРСТУХаеѕіјорсухһԁνο", "ABESIJKMHOPCTYXaesijopcyxhdvo")
_LEAD_IN = re.compile(
    r"^\s*the (?:correct|right) answer(?: here| to [^.:]{1,80}?)? is(?: that)?\b[:,]?\s*", re.IGNORECASE
)
"""Many an honest answer begins so; what follows is the answer."""

_JUDGES = re.compile(
    r"(?:judg(?:es?|ing|e?ment)|grad(?:ers?|ing|ed)|evaluators?|examiners?|assessors?|raters?|verdict|rubric|scorer|jailbreak)"
)
"""Words of those who are judged, seldom of those who answer."""

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
"""Of chat templates; what stands before one may be an answer."""
_BARE = re.compile(r"^\W*(?:yes|true|correct|right)\W*$")
_ASKS_WHETHER = re.compile(
    r"^\W*(?:is|are|am|was|were|do|does|did|can|could|has|have|had|will|would|should|true or false)\b"
)


def without_addresses(answer: str, question: str, gold_answers: Sequence[str]) -> str:
    """The answer without the sentences that speak to a judge; empty where it does nothing else."""
    about = [_read(_plain(text[:2000])) for text in (question, *gold_answers)]
    topic = {word for text in about for word in words(text)}
    whether = bool(_ASKS_WHETHER.match(about[0])) or not topic.isdisjoint({"yes", "no", "true", "false"})
    addresses = [pattern for pattern in _ADDRESSES if not any(pattern.search(text) for text in about)]
    sentences = _SENTENCE.findall(_LEAD_IN.sub("", _CONTROL_TOKEN.sub("\n", _plain(answer))))
    kept = [sentence for sentence in sentences if not _speaks_to_a_judge(sentence, topic, whether, addresses)]
    text = "".join(kept).strip() if len(kept) < len(sentences) else answer.strip()
    if any(character.isalnum() for character in text):
        return text
    return answer.strip() if any(_has_phrase(answer, gold) for gold in gold_answers) else ""


def _has_phrase(answer: str, gold: str) -> bool:
    """Whether the gold answer stands in the answer: then it is for the judge, and the decoys, to say. A bare "yes" does not
    count, of which all who ask for a yes have one.
    """
    said, expected = words(answer), words(gold)
    if len(expected) == 1 and _BARE.match(expected[0]):
        return False
    return bool(expected) and f" {' '.join(expected)} " in f" {' '.join(said)} "


def _plain(text: str) -> str:
    """As read: look-alike forms in their usual one, invisible characters gone."""
    folded = unicodedata.normalize("NFKC", text)
    return "".join(c for c in folded if c in "\n\t" or unicodedata.category(c) not in _INVISIBLE)


def _read(text: str) -> str:
    return text.translate(_LOOK_ALIKES).casefold().strip()


def _speaks_to_a_judge(sentence: str, topic: set[str], whether: bool, addresses: Sequence[re.Pattern[str]]) -> bool:
    read = _read(sentence)
    if _BARE.match(read):
        return not whether
    if any(_JUDGES.fullmatch(word) and word not in topic for word in words(read)):
        return True
    return any(pattern.search(read) for pattern in addresses)
