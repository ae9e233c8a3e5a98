"""vLLM's HTTP surface on loopback, as far as the engine uses it: completions by transformers, adapters by PEFT.

It imports nothing of the package. How the endpoints for adapters answer is read from ``golden/vllm_lora.json``.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from peft import PeftConfig, PeftModel
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

PROTOCOL: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "vllm_lora.json").read_text())["exchanges"]
Fault = Callable[[dict[str, Any]], Response | None]
"""Told a request's body; answers in the server's place, or lets it."""


class CompletionBody(BaseModel):
    """vLLM's request as far as it is known here; what is not is refused, though vLLM would let it pass."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    prompt: list[int] = Field(min_length=1)
    max_tokens: int = Field(default=16, ge=1)
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: list[str] = []
    stop_token_ids: list[int] = []
    return_token_ids: bool = False
    prompt_logprobs: int | None = None
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


class CompletionsServer:
    """What it serves, how it was started, what it was asked."""

    def __init__(self) -> None:
        self.name = "base"
        self.base: Any = None
        self.tokenizer: Any = None
        self.runtime_updating = self.lora_enabled = self.tells_token_ids = self.tells_prompt_logprobs = True
        self.tells_stop_reason = True
        self.max_lora_rank = 512
        self.max_model_len: int | None = 256
        self.api_key: str | None = None
        self.delay_s = 0.0
        self.path_here: Callable[[str], str] = str
        """From a path as the server is told it."""
        self.faults: dict[str, list[Fault]] = {}
        """By path; the first of the list is taken, the last one stays."""
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.at_once = self.most_at_once = self.most_adapters = 0
        self.adapters: dict[str, str] = {}
        self.url = ""
        self._peft: PeftModel | None = None
        self._counting, self._computing = threading.Lock(), threading.Lock()

    def serve(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """A copy of this model from now on, without adapters."""
        copy = AutoModelForCausalLM.from_config(model.config).to(model.dtype)
        copy.load_state_dict(model.state_dict())
        with self._computing:
            self.base, self.tokenizer, self._peft, self.adapters = copy.eval(), tokenizer, None, {}

    def sent(self, path: str) -> list[dict[str, Any]]:
        """The bodies that came to a path."""
        return [body for at, body in self.requests if at == path]

    def answer(self, path: str, body: dict[str, Any], headers: Any) -> Response:
        """What a request is answered; called in a thread of its own."""
        with self._counting:
            self.requests.append((path, body))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            faults = self.faults.get(path, [])
            fault = (faults.pop(0) if len(faults) > 1 else faults[0]) if faults else None
        try:
            time.sleep(self.delay_s)
            if self.api_key is not None and headers.get("authorization") != f"Bearer {self.api_key}":
                return JSONResponse({"error": "Unauthorized"}, 401)
            found = fault(body) if fault is not None else None
            return found if found is not None else self._answer(path, body)
        finally:
            with self._counting:
                self.at_once -= 1

    def _answer(self, path: str, body: dict[str, Any]) -> Response:
        if path == "/v1/models":
            card = {"id": self.name, "object": "model", "max_model_len": self.max_model_len}
            return JSONResponse({"object": "list", "data": [card, *({"id": name} for name in self.adapters)]})
        with self._computing:
            if path == "/v1/load_lora_adapter":
                return self._load(**body)
            if path == "/v1/unload_lora_adapter":
                return self._unload(**body)
            return self._complete(body)

    # --- adapters

    def _load(self, lora_name: str, lora_path: str) -> Response:
        told = {"lora_name": lora_name, "lora_path": lora_path, "max_lora_rank": str(self.max_lora_rank)}
        if not self.runtime_updating:
            return replayed("load, server without VLLM_ALLOW_RUNTIME_LORA_UPDATING", told)
        if not self.lora_enabled:
            return replayed("load, server without --enable-lora", told)
        if lora_name in self.adapters:
            return replayed("load twice", told)
        folder = self.path_here(lora_path)
        if not (Path(folder) / "adapter_config.json").exists():
            return replayed("load, no such folder at the server", told)
        rank = PeftConfig.from_pretrained(folder).r
        if rank > self.max_lora_rank:
            return replayed("load, rank above --max-lora-rank", told | {"rank": str(rank)})
        with torch.random.fork_rng(devices=[]):  # PEFT initialises what it then overwrites
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(self.base, folder, adapter_name=lora_name)
            else:
                self._peft.load_adapter(folder, adapter_name=lora_name)
        self.adapters[lora_name] = folder
        self.most_adapters = max(self.most_adapters, len(self.adapters))
        return replayed("load", told)

    def _unload(self, lora_name: str) -> Response:
        if lora_name not in self.adapters:
            return replayed("unload what is not there", {"lora_name": lora_name})
        assert self._peft is not None
        del self.adapters[lora_name]
        if self.adapters:
            self._peft.delete_adapter(lora_name)
        else:
            self.base, self._peft = self._peft.unload(), None
        return replayed("unload", {"lora_name": lora_name})

    def _chosen(self, name: str) -> AbstractContextManager[Any]:
        if self._peft is None:
            return nullcontext()
        if name == self.name:
            return self._peft.disable_adapter()
        self._peft.set_adapter(name)
        return nullcontext()

    # --- completions

    @torch.no_grad()
    def _complete(self, raw: dict[str, Any]) -> Response:
        try:
            body = CompletionBody.model_validate_json(json.dumps(raw))
        except ValidationError as error:
            return refusal(400, str(error))
        if body.model != self.name and body.model not in self.adapters:
            return replayed("ask a model that is not there", {"model": body.model})
        limit = self.max_model_len or 10**9
        if len(body.prompt) + body.max_tokens > limit:
            return refusal(400, f"This model's maximum context length is {limit} tokens")
        model = self._peft or self.base
        with self._chosen(body.model):
            told = self._prompt_logprobs(model, body) if body.prompt_logprobs is not None else None
            ids, finish, reason = self._write(model, body)
        ended = finish == "stop"
        text = self.tokenizer.decode(
            ids[:-1] if ended and not isinstance(reason, str) else ids, skip_special_tokens=True
        )
        if isinstance(reason, str):
            text = text[: text.find(reason)]
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish, "prompt_logprobs": told}
        if self.tells_stop_reason:
            choice["stop_reason"] = reason
        if self.tells_token_ids and body.return_token_ids:
            choice |= {"token_ids": ids, "prompt_token_ids": body.prompt}
        try:
            return JSONResponse({"id": "cmpl-1", "object": "text_completion", "model": body.model, "choices": [choice]})
        except ValueError as error:  # a NaN
            return refusal(500, str(error))

    def _prompt_logprobs(self, model: Any, body: CompletionBody) -> list[Any] | None:
        if not self.tells_prompt_logprobs:
            return None
        log_probs_TV = torch.log_softmax(model(input_ids=torch.tensor([body.prompt])).logits[0].double(), dim=-1)
        told: list[Any] = [None]
        for position, token in enumerate(body.prompt[1:]):
            top = log_probs_TV[position].topk(max(body.prompt_logprobs or 0, 1)).indices.tolist()
            entries = {i: log_probs_TV[position, i].item() for i in dict.fromkeys([token, *top])}
            told.append({str(i): {"logprob": max(value, -9999.0), "rank": 1} for i, value in entries.items()})
        return told

    def _write(self, model: Any, body: CompletionBody) -> tuple[list[int], str, str | int | None]:
        generator = torch.Generator().manual_seed(body.seed or 0)
        written: list[int] = []
        past, inputs = None, torch.tensor([body.prompt])
        while len(written) < body.max_tokens:
            output = model(input_ids=inputs, past_key_values=past, use_cache=True)
            past = output.past_key_values
            token = _drawn(output.logits[0, -1].double(), body, generator)
            written.append(token)
            inputs = torch.tensor([[token]])
            if token == self.tokenizer.eos_token_id:
                return written, "stop", None
            if token in body.stop_token_ids:
                return written, "stop", token
            text = self.tokenizer.decode(written, skip_special_tokens=True)
            if found := [stop for stop in body.stop if stop in text]:
                return written, "stop", min(found, key=text.find)
        return written, "length", None


def _drawn(logits_V: torch.Tensor, body: CompletionBody, generator: torch.Generator) -> int:
    if body.temperature == 0 or logits_V.isnan().any():
        return int(logits_V.argmax())
    probs_V, order_V = torch.softmax(logits_V / body.temperature, dim=-1).sort(descending=True, stable=True)
    probs_V[probs_V.cumsum(0) - probs_V >= body.top_p] = 0
    return int(order_V[torch.multinomial(probs_V, 1, generator=generator)])


def replayed(exchange: str, told: dict[str, str]) -> Response:
    """A response as it is recorded, with this request's names in it."""
    recorded = PROTOCOL[exchange]["response"]

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: filled(part) for name, part in value.items()}
        if not isinstance(value, str):
            return value
        for name, text in told.items():
            value = value.replace("{" + name + "}", text)
        return value

    body = filled(recorded["body"])
    if isinstance(body, str):
        return Response(body, recorded["status"])
    return JSONResponse(body, recorded["status"])


def refusal(status: int, message: str) -> JSONResponse:
    """An error as vLLM writes one."""
    return JSONResponse({"error": {"message": message, "type": "BadRequestError", "code": status}}, status)


def once(*responses: Response) -> list[Fault]:
    """These in turn, then as it should be."""
    return [*((lambda body, r=r: r) for r in responses), lambda body: None]


@contextmanager
def serving(server: CompletionsServer) -> Iterator[CompletionsServer]:
    """The server listens while the block lasts; its URL is in it."""
    app = FastAPI()

    @app.post("/v1/{path:path}")
    def post(path: str, body: dict[str, Any], request: Request) -> Response:
        return server.answer(f"/v1/{path}", body, request.headers)

    @app.get("/v1/models")
    def models(request: Request) -> Response:
        return server.answer("/v1/models", {}, request.headers)

    running = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not running.started:
        assert time.monotonic() < deadline, "the server does not start"
        time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    server.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield server
    finally:
        running.should_exit = True
        thread.join(20)
