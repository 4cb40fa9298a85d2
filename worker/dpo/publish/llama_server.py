"""llama.cpp's own side of a reading: this module runs in a process that holds nothing of ours."""

import json
import os
import tempfile
import urllib.request
from typing import Any

# Far above any logit: a token that gets it is chosen whatever the model says.
FORCED = 1e4
# How many of a place's most likely tokens are looked at; the answer's token is the trained model's first choice.
CANDIDATES = 100
REQUEST_SECONDS = 300


def serve(pipe: Any, request: dict[str, Any]) -> None:
    """The other process: sends what `_read` returns, or what went wrong."""
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        try:
            pipe.send(_read(request))
        except Exception as problem:  # whatever it is, the parent says it
            said.seek(0)
            lines = said.read().decode(errors="replace").splitlines()
            errors = [line.split(" E ", 1)[1].strip() for line in lines if " E " in line]
            pipe.send({"problem": f"llama.cpp doesn't take the file: {errors[0] if errors else problem}"})


def _read(request: dict[str, Any]) -> dict[str, Any]:
    import xllamacpp

    longest = max((len(prompt) + len(answer) for prompt, answer in request["answers"]), default=0)
    params = xllamacpp.CommonParams()
    params.model.path = request["path"]
    params.n_ctx = max(512, longest + 16)
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = request["threads"]
    params.verbosity = 1  # errors
    params.warmup = False
    params.fit_params = False
    # Full precision wherever llama.cpp lets us choose: the file is on trial, not the cache.
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(params)
    address = server.listening_address

    def ask(path: str, **body: Any) -> dict[str, Any]:
        message = json.dumps(body).encode()
        post = urllib.request.Request(address + path, message, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(post, timeout=REQUEST_SECONDS) as reply:  # noqa: S310
            return json.loads(reply.read())

    def force(ids: list[int], token: int, count: int = 1) -> dict[str, Any]:
        bias = [[token, FORCED]]
        return ask("/completion", prompt=ids, n_predict=count, n_probs=CANDIDATES, temperature=0.0, logit_bias=bias)

    def place(ids: list[int], token: int) -> tuple[float, int, float]:
        # The server holds back a token that ends within a character, and its numbers with it. An end token has no text.
        reply = force(ids, request["ends"][0])
        candidates = reply["completion_probabilities"][0]["top_logprobs"]
        logps = {candidate["id"]: candidate["logprob"] for candidate in candidates}
        # A token that isn't among the candidates is at most as likely as the last of them.
        own = logps.get(token, candidates[-1]["logprob"])
        return own, candidates[0]["id"], candidates[0]["logprob"] - own

    texts = [ask("/apply-template", messages=messages)["prompt"] for messages in request["conversations"]]
    ids = [ask("/tokenize", content=text, add_special=True, parse_special=True)["tokens"] for text in texts]
    scores = []
    for prompt, answer in request["answers"]:
        places = [place(prompt + answer[:number], token) for number, token in enumerate(answer)]
        scores.append(tuple(list(column) for column in zip(*places, strict=True)))
    start = request["answers"][0][0]
    ends = {token: force(start, token, count=2)["stop_type"] == "eos" for token in request["ends"]}
    return {"texts": texts, "ids": ids, "scores": scores, "ends": ends}
