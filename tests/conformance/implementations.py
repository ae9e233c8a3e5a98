"""Every engine, inner loop and writer, as the conformance tests make it; a new one needs a line here."""

from __future__ import annotations

import atexit
import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from completions_server import CompletionsServer, serving

import seal_lightning
from seal_lightning.core import SamplingSpec
from seal_lightning.core.interfaces import AnyDomain, Engine, InnerLoop, Writer
from seal_lightning.domains.knowledge import EditFile, EntiGraph, EntiGraphWording, Passage
from seal_lightning.generation import FixedChoices, PolicyWriter, TransformersEngine, VllmEngine
from seal_lightning.inner_loop import BatchedInnerLoop, FullFinetuning
from seal_lightning.models.language_model import LanguageModel


@cache
def _server() -> CompletionsServer:
    open_until_the_end = ExitStack()
    atexit.register(open_until_the_end.close)
    return open_until_the_end.enter_context(serving(CompletionsServer()))


def _vllm() -> Engine:
    """With a server on loopback that serves whatever model the engine is bound to."""
    engine = VllmEngine("base", max_adapters=1)
    bind = engine.bind

    def serve_and_bind(language_model: LanguageModel) -> None:
        server = _server()
        server.serve(language_model.model, language_model.tokenizer)
        engine.base_url = server.url
        bind(language_model)

    engine.bind = serve_and_bind  # type: ignore[method-assign]
    return engine


ENGINES: list[Callable[[], Engine]] = [TransformersEngine, lambda: TransformersEngine(max_batch_size=2), _vllm]
INNER_LOOPS: list[Callable[[], InnerLoop]] = [
    BatchedInnerLoop,
    lambda: BatchedInnerLoop(max_adapters=2, max_tokens_per_pass=16),
    FullFinetuning,
    lambda: FullFinetuning(max_tokens_per_pass=16),
]

MakeWriter = Callable[[AnyDomain, Engine, Sequence[Passage], Path], Writer]
"""From domain, engine, the passages that will be written about, and an empty folder."""

_SHORT = SamplingSpec(max_new_tokens=8)
LIST_ASKED_FOR = EntiGraphWording(
    entities_instruction="", entities_heading="List:", relation_instruction="{entities}?", relation_heading=""
)


def _edit_file(domain: AnyDomain, engine: Engine, passages: Sequence[Passage], folder: Path) -> Writer:
    rows = [
        {"task_id": passage.task_id, "edit_index": index, "text": f"{index}. {passage.title}"}
        for passage in passages
        for index in (1, 0)
    ]
    path = folder / "edits.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return EditFile(path)


def _entigraph(domain: AnyDomain, engine: Engine, passages: Sequence[Passage], folder: Path) -> Writer:
    listing = SamplingSpec(temperature=0.3, max_new_tokens=40)
    return EntiGraph(
        "pairs_and_triples", max_relations=3, sampling=_SHORT, entity_sampling=listing, wording=LIST_ASKED_FOR
    )


WRITERS: dict[str, MakeWriter] = {
    "policy": lambda domain, engine, passages, folder: PolicyWriter(domain, engine, _SHORT),
    "fixed choices": lambda domain, engine, passages, folder: FixedChoices({}, sampling=_SHORT),
    "file": _edit_file,
    "EntiGraph": _entigraph,
}


def implementations(seam: type) -> set[type]:
    """Every concrete subclass of a seam in the package, however deep."""
    for module in pkgutil.walk_packages(seal_lightning.__path__, "seal_lightning."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, unseen = set(), [seam]
    while unseen:
        unseen += (kind := unseen.pop()).__subclasses__()
        if kind.__module__.startswith("seal_lightning.") and not inspect.isabstract(kind):
            found.add(kind)
    return found


def assert_all_registered(seam: type, registered: Sequence[object]) -> None:
    """Fail for an implementation without a line above."""
    found = implementations(seam)
    assert found, f"no implementation of {seam.__name__} was found: the walk is broken"
    missing = found - {type(one) for one in registered}
    assert not missing, f"give {sorted(kind.__qualname__ for kind in missing)} a line in {__file__}"


def cases(factories: Sequence[Callable[[], Any]]) -> pytest.MarkDecorator:
    """Parametrises a test over factories, each shown by what it makes."""
    return pytest.mark.parametrize(
        "make", factories, ids=[f"{type(f()).__name__}-{i}" for i, f in enumerate(factories)]
    )
