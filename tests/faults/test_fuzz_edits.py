"""Whatever a model writes is planned or refused by its kind, in bounded time and memory."""

from __future__ import annotations

import re
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field

import pytest
from fuzzing import thorough
from hypothesis import given
from hypothesis import strategies as st

from seal_lightning.core import SelfEdit
from seal_lightning.core.errors import ConfigError, MalformedEdit
from seal_lightning.domains.knowledge import (
    ChainOfThought,
    Implications,
    ImplicationsLong,
    ImplicationsVeryLong,
    KnowledgeDomain,
    NoInstruction,
    Passage,
    Question,
    Rewrites,
    SelfQA,
)

CASES = 5_000
MOST_SECONDS = 1.0  # a guard against hangs, not a measurement of speed: what is quadratic takes far longer
MOST_BYTES_PER_CHARACTER = 100
"""The worst is 56 to 66: lines of one character beyond U+FFFF, each a string of its own."""
MOST_BYTES_BESIDES = 2**20
MOST_CHARACTERS = 140_000
"""A little over what a domain allows by default, so that some edits are too long."""

FORMATS = (Implications, ImplicationsLong, ImplicationsVeryLong, Rewrites, SelfQA, ChainOfThought, NoInstruction)
LINE_FORMATS = (Implications, ImplicationsLong, ImplicationsVeryLong, NoInstruction)

SEEDS = (
    """1. The mill of Tarnow stood on the Wisla's left bank from 1620 on.
2. It ground rye for eleven villages, so those villages depended on it for bread.
3. A flood took its wheel in 1788; no rye was ground there afterwards.
4. Because the wheel was of oak, it floated, and was found at Sandomierz.
5. The mill's ledger, which survives, lists 3,400 sacks for the year 1701.""",
    """Sure! Here is a list of implications based on the passage:

1) The orbital period of Callisto's probe was 16.7 days.
2) It follows that the probe made about 22 orbits a year.
3) "Slow" in the report means slower than 8.2 km/s.

Let me know if you would like more!""",
    """- Apollonia was founded by settlers from Corfu.
- Its harbour silted up after the earthquake of 234.
* The city's decline followed from the loss of its harbour.
• Vlor\u00eb took over the trade that Apollonia lost.""",
    """**Question 1:** When did the miller leave Tarnow?
**Answer:** In the spring of 1789, a year after the flood.

**Question 2:** What did he take along?
**Answer:** The ledger and two millstones.

Question 3: Who bought the house?
Answer: His brother-in-law, for 90 thalers.""",
    """Here are some questions and answers:

1. Question: What is the capital of the county?
Answer: Ilm
2. Question: How many people live there?
Answer: 27,100 (2011)""",
    """The mill ground rye from 1620 until a flood took the wheel.
It was never rebuilt.
---
For 168 years, from 1620 to 1788, rye was ground at Tarnow.
---
When the river took the wheel in 1788, grinding at Tarnow ended.""",
    """Tarnow's mill is told anew below.

From 1620 on, rye was ground on the left bank.

A century and a half later, the water that drove the wheel carried it off.""",
    """The passage is about a mill. Two dates matter: 1620 and 1788.
1. What follows from the flood?
2. What did the villages do without a mill?

Implications:
1. Rye was ground at Tarnow for 168 years.
2. After 1788 the villages needed another mill.
3. Water both drove the mill and ended it.""",
    """## Thoughts

The author only hints at the cause.

## Implications

- \u6c34\u8eca was the word on the Japanese map of the mill.
- The mill is \u00abB\u0142onie\u00bb on the Polish one \U0001f33e.
- \u0627\u0644\u0637\u0627\u062d\u0648\u0646\u0629 is what a traveller from Cairo calls it.""",
    """# Notes

| year | event |
|------|-------|
| 1620 | first rye |
| 1788 | flood |

> "The river giveth" - the ledger's last page

```python
years = 1788 - 1620
```""",
)
CONCLUDING_SEEDS = tuple(seed for seed in SEEDS if "Implications" in seed)

TOKENS = (
    *(" ", "\t", "\n", "\r", "\r\n", "\n\n", " \n", "-", "---\n", "\n---\n", "\n--\n", "#", "*", "* ", "> ", "|", "a"),
    *("\0", "\x01", "\x1b[31m", "\x07", "\x08", "\x0b", "\x0c", "\x1c", "\x7f", "\x85", "\ud800", "\udfff", "\ud83d\n"),
    *("\u2028", "\u2029", "\u200b", "\u200e", "\u200f", "\u202e", "\u2066", "\ufeff", "\ufffd", "\ufffe", "\xa0"),
    *("\u0301", "\u0301\u0316", "\u0130", "\ufdfa", "\U0001f33e", "\U0001f33e\n", "\U0010ffff", "\uff11. ", "\u0661. "),
    *("1", "9" * 400, "1. ", "\n1. ", "\n1) ", "\n  999. ", "\n1000. ", "a\n", "a\n---\n", "- a\n", "\n- ", "\u2022 "),
    *(
        "Question 1:",
        "\nQuestion:",
        "\n#### **question 12 : ",
        "Question ",
        "Answer: ",
        "\n1. Question " + "9" * 50 + ":",
    ),
    *(
        "Implications:",
        "\nImplications: ",
        "\n## Implications\n",
        "\nIMPLICATIONS",
        "Implications ",
        "\n#*# *Implications",
    ),
    *("<|im_end|>", "<|endoftext|>\n", "<|im_start|>assistant\n", "</s>", "[INST]", "<think>\n", "</think>\n"),
    *(
        "{{ 7 * 7 }}",
        "{% for a in b %}",
        "{0}",
        "%s%n",
        "${HOME}",
        "`id`",
        "\\n",
        "\\u0000",
        "&lt;",
        "'; DROP TABLE",
        "=1+1",
    ),
    *(
        "!!python/object:os.system\n",
        "---\nkey: [a, b]\n...\n",
        "&a [*a]",
        '{"a": [1, null]}\n',
        "[" * 50,
        "NaN",
        "1e999",
    ),
    *(
        "import os\n\n\ndef f():\n    return 1\n",
        "\\(x^2\\)",
        "$$\n",
        "<!--",
        "<b>",
        "```\n",
        "===\n",
        "../../etc/passwd",
    ),
)

FLOODS = (" ", "\t", "\n", " \n", "-", "#", "*", "> ", "1", "1. ", "a", "a\n", "---\n", "Question ", "Implications ")

PASSAGES = (
    Passage.named(
        title="Mill of Tarnow",
        context="The mill of Tarnow ground rye from 1620 on. A flood took its wheel in 1788.",
        questions=[Question(question_id="q", question="What did the mill grind?", answers=("rye",))],
    ),
    Passage.named(
        title="\u6c34\u8eca \u202e---",
        context="1. Question 1:\n---\nImplications:\r\n\u2028" + "a long one, " * 300,
        questions=[Question(question_id="q", question="?", answers=("!",))],
    ),
)


@dataclass(frozen=True)
class Case:
    """A self-edit's text and the domain that plans it."""

    text: str
    format_class: type
    one_sequence: bool
    strip_numbering: bool
    max_sequences: int
    append_passage: bool
    title_prefix: bool
    max_edit_chars: int
    passage: Passage
    weighed: bool = field(compare=False)
    """Whether its memory is measured, which takes time."""

    def plan(self, max_sequences: int | None = None):
        domain = KnowledgeDomain(
            format=self.format_class(one_sequence=self.one_sequence, strip_numbering=self.strip_numbering),
            max_sequences=max_sequences or self.max_sequences,
            append_passage=self.append_passage,
            title_prefix=self.title_prefix,
            max_edit_chars=self.max_edit_chars,
        )
        edit = SelfEdit(task_id=self.passage.task_id, edit_index=0, text=self.text)
        return domain.plan(self.passage, edit)


def span(draw, text):
    start = draw(st.integers(0, len(text)))
    return start, min(len(text), start + draw(st.integers(0, 200)))


def cut(draw, text):
    start, end = span(draw, text)
    return text[:start] + text[end:]


def cut_short(draw, text):
    return text[: draw(st.integers(0, len(text)))]


def repeat(draw, text):
    start, end = span(draw, text)
    times = draw(st.sampled_from((2, 3, 30, 100)))
    return text[:start] + text[start:end] * times + text[end:]


def splice(draw, text):
    other = draw(st.sampled_from(SEEDS))
    return text[: draw(st.integers(0, len(text)))] + other[draw(st.integers(0, len(other))) :]


def insert(draw, text):
    at, token = draw(st.integers(0, len(text))), draw(st.sampled_from(TOKENS))
    return text[:at] + token * draw(st.sampled_from((1, 1, 1, 2, 3, 12, 500))) + text[at:]


def flood(draw, text):
    at, start = draw(st.integers(0, len(text))), draw(st.sampled_from(("", "\n")))
    token = draw(st.one_of(st.sampled_from(FLOODS), st.sampled_from(TOKENS)))
    return (
        text[:at]
        + start
        + (token * 50_000)[: draw(st.sampled_from((20_000, 20_000, 20_000, MOST_CHARACTERS)))]
        + text[at:]
    )


def every_line(draw, text):
    return "\n".join(draw(st.sampled_from(TOKENS)) + line for line in text.split("\n", 40))


def line_ends(draw, text):
    ends = draw(
        st.lists(st.sampled_from(("\r\n", "\r", "\n", "\u2028", "\x85", "\x0b", "", " ")), min_size=1, max_size=4)
    )
    lines = text.split("\n")
    return "".join(line + ends[index % len(ends)] for index, line in enumerate(lines))


def noise(draw, text):
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(st.text(st.characters(exclude_categories=()), max_size=12)) + text[at:]


def blank(draw, text):
    return draw(st.sampled_from(("", " ", "\n", "---\n", "\0", "\ud800", " \t\r\n", "\u2003", "\u2028"))) * len(text)


MUTATIONS = (
    *(cut, cut_short, repeat, splice, insert, insert, insert) * 3,
    *(every_line, line_ends, noise, noise, flood, blank),
)


@st.composite
def cases(draw):
    """A valid edit, what became of it, and who plans it."""
    format_class = draw(st.sampled_from(FORMATS))
    concludes = format_class is ChainOfThought and draw(st.sampled_from((True, True, False)))
    text = draw(st.sampled_from(CONCLUDING_SEEDS if concludes else SEEDS))
    for _ in range(draw(st.sampled_from((1, 1, 2, 2, 3, 4, 6, 0)))):
        text = draw(st.sampled_from(MUTATIONS))(draw, text)[:MOST_CHARACTERS]
    return Case(
        text=text,
        format_class=format_class,
        one_sequence=draw(st.sampled_from((False, False, False, True))),
        strip_numbering=draw(st.booleans()),
        max_sequences=draw(st.sampled_from((1, 3, 30))),
        append_passage=draw(st.booleans()),
        title_prefix=draw(st.booleans()),
        max_edit_chars=draw(st.sampled_from((131_072, 131_072, 131_072, 700))),
        passage=draw(st.sampled_from(PASSAGES)),
        weighed=draw(st.sampled_from((*(False,) * 24, True))),
    )


def outcome(case):
    """The plan or the refusal, and the seconds of processor time it took."""
    start = time.process_time()
    try:
        found = case.plan()
    except MalformedEdit as error:
        found = error
    return found, time.process_time() - start


def check_plan(case, plan):
    """Nothing is invented, lost uncounted, or beyond what a tokenizer takes."""
    texts = []
    for sequence in plan.sequences:
        (segment,) = sequence.segments
        assert segment.trained
        texts.append(segment.text)
    prefix = f"{case.passage.title}\n" if case.title_prefix else ""
    if case.append_passage:
        assert texts.pop() == prefix + case.passage.context
    assert 1 <= len(texts) <= case.max_sequences
    assert sum(map(len, texts)) <= len(case.text) + len(prefix) * len(texts)

    readable = re.sub("[\0\ud800-\udfff]", "", case.text).replace("\r\n", "\n").replace("\r", "\n")
    at = 0
    for text in texts:
        text.encode()  # no lone surrogate
        assert "\0" not in text
        assert text.startswith(prefix)
        piece = text[len(prefix) :]
        assert piece.strip()
        at = readable.index(piece, at) + len(piece)

    everything = case.plan(max_sequences=len(case.text) + 1)
    assert everything.dropped_sequences == 0
    assert everything.sequences[: len(texts)] == plan.sequences[: len(texts)]
    num_pieces = len(everything.sequences) - case.append_passage
    assert plan.dropped_sequences == num_pieces - len(texts)
    if case.format_class in LINE_FORMATS and not case.one_sequence and not case.strip_numbering:
        filled = [line for line in readable.split("\n") if line.strip() and not re.fullmatch("-{3,}", line.strip())]
        assert num_pieces in (len(filled), len(filled) - 1)  # a chatty first line may be left out


def check_refusal(case, error):
    """It is one of the kinds there are, for the right reason, and short enough for a console."""
    assert len(str(error)) <= 1_000
    assert str(error).isprintable()
    if error.kind == "too long":
        assert len(case.text) > case.max_edit_chars
    elif error.kind == "no conclusion":
        assert case.format_class is ChainOfThought
    else:
        assert error.kind == "empty"


def check_memory(case):
    tracemalloc.start()
    try:
        outcome(case)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    size = len(case.text) + len(case.passage.context)
    assert peak <= MOST_BYTES_PER_CHARACTER * size + MOST_BYTES_BESIDES


@pytest.mark.slow
def test_any_edit_is_planned_or_refused(counted):
    met = set()
    seen = Counter()
    slowest = 0.0
    wanted = counted(CASES)

    @thorough(wanted)
    @given(cases())
    def check(case):
        nonlocal slowest
        met.add(hash(case))
        found, seconds = outcome(case)
        again, seconds_again = outcome(case)  # also the second try of a case that another process slowed down
        slowest = max(slowest, min(seconds, seconds_again))
        assert min(seconds, seconds_again) <= MOST_SECONDS
        if isinstance(found, MalformedEdit):
            assert isinstance(again, MalformedEdit)
            assert (again.kind, str(again)) == (found.kind, str(found))
            check_refusal(case, found)
            seen[found.kind] += 1
        else:
            assert again == found
            check_plan(case, found)
            seen[case.format_class.__name__] += 1
            seen["dropped"] += found.dropped_sequences > 0
        if case.weighed:
            check_memory(case)
            seen["weighed"] += 1

    check()
    refused = seen["too long"] + seen["empty"] + seen["no conclusion"]
    accepted = sum(seen[made.__name__] for made in FORMATS)
    print(f"{accepted} of {accepted + refused} edits planned, {len(met)} different cases")
    print(f"{slowest * 1000:.1f} ms at most; {seen}")
    assert len(met) >= wanted
    assert accepted >= 0.3 * (accepted + refused)
    assert refused >= 0.05 * (accepted + refused)
    for kind in (*(made.__name__ for made in FORMATS), "too long", "empty", "no conclusion", "dropped", "weighed"):
        assert seen[kind] >= 0.005 * wanted, kind


@pytest.mark.parametrize("format_class", FORMATS)
def test_the_longest_edits_take_no_more(format_class):
    for unit in (
        "\n",
        "a\n",
        "\U0001f33e\n",
        "a\n---\n",
        " ",
        "*",
        "\n\n1. b",
        "Question 1:\n",
        "\n" + " " * 500 + "#",
    ):
        case = Case(
            text=("Implications:\nx\n" + unit * 131_072)[:131_071] + "x",
            format_class=format_class,
            one_sequence=False,
            strip_numbering=True,
            max_sequences=30,
            append_passage=True,
            title_prefix=True,
            max_edit_chars=131_072,
            passage=PASSAGES[0],
            weighed=True,
        )
        found, _ = outcome(case)
        assert not isinstance(found, MalformedEdit)
        assert min(outcome(case)[1] for _ in range(2)) <= MOST_SECONDS, unit
        check_memory(case)


@pytest.mark.parametrize("heading", ["***", "#", "* * *", "-", ":\n", "\u2014"])
def test_a_conclusion_heading_has_a_word(heading):
    # one of stars alone is looked for in time quadratic in a line of stars
    with pytest.raises(ConfigError, match="it must have a word"):
        ChainOfThought(conclusion_heading=heading)
