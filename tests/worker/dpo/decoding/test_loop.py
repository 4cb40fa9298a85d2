"""The decoding loop writes what transformers writes, token for token, whatever stands beside a line."""

import pytest
import torch

from tests.worker.dpo.model.test_architectures import PLAIN, SHARED, tiny_model, with_lora
from worker.dpo.decoding import generation, loop, plain
from worker.dpo.decoding.attention import NAME
from worker.dpo.decoding.lines import Limits, lines_of
from worker.dpo.decoding.loop import Loop
from worker.dpo.decoding.packed import PackedLayers
from worker.dpo.decoding.sampling import Sampling
from worker.dpo.decoding.states import Model, require_agreement
from worker.dpo.ground import matmul
from worker.dpo.model.attention import NotShareable

ENDS = frozenset({3, 5, 11, 17, 23, 31})
NEAR = 1e-4
NEAR_HALF = 0.25  # four steps of bfloat16 between numbers of 8 to 16, where these logits lie


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(6, 97, (length,), generator=generator).tolist() for length in lengths]


def written(model, lines, sampling=Sampling(), *, most=4, tokens=12, ends=ENDS):
    ours = Model(model)
    with ours.attending():
        answers = list(Loop(ours, sampling, Limits(ends, tokens, most)).run(lines))
    assert len(answers) == len(lines)
    return {(answer.line.prompt, answer.line.sample): answer for answer in answers}


def expected(model, line, tokens=12):
    """Greedy tokens by transformers' own generate, with the gap between the two highest logits of each."""
    out = model.generate(
        inputs=torch.tensor([line.ids]),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=sorted(ENDS),
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    ids = out.sequences[0, len(line.ids) :].tolist()
    tops = [logits[0].topk(2).values for logits in out.logits]
    return ids, [float(top[0] - top[1]) for top in tops]


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("name", SHARED)
def test_greedy_tokens_are_those_of_transformers(name, lora):
    model = tiny_model(name, SHARED[name]).float()
    if lora:
        model = with_lora(model).float()
    lines = list(lines_of(prompts(9, 1, 30, 4, 14, 9), samples=2, seed=1))
    require_agreement(Model(model), lines[0].ids)
    answers = written(model, lines)
    for line in lines:
        ids, gaps = expected(model, line)
        answer = answers[line.prompt, line.sample]
        own = [*answer.ids, *([ids[len(answer.ids)]] if answer.ended else [])]
        same = next((at for at, (a, b) in enumerate(zip(own, ids, strict=False)) if a != b), len(ids))
        assert same == len(ids) == len(own) or gaps[same] < NEAR, (own, ids)
        assert not answer.ended or ids[len(answer.ids)] in ENDS
    assert len({answer.ids for answer in answers.values()}) >= 3


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
def test_a_model_in_half_precision_answers_and_as_transformers_does(lora):
    """A run in bfloat16 has a float32 adapter over its weights; their sum in bfloat16 would be another model."""
    model = tiny_model("llama", SHARED["llama"]).to(torch.bfloat16)
    if lora:
        model = with_lora(model)
        for name, weight in model.named_parameters():
            weight.data = weight.data.to(torch.float32 if "lora_" in name else torch.bfloat16)
    assert not PackedLayers(model).serves()
    lines = list(lines_of(prompts(9, 30, 4), samples=1, seed=1))
    answers = written(model, lines)
    for line in lines:
        ids, gaps = expected(model, line)
        own = answers[line.prompt, line.sample].ids
        same = next((at for at, (a, b) in enumerate(zip(own, ids, strict=False)) if a != b), len(own))
        assert same == len(own) or gaps[same] < NEAR_HALF, (own, ids)


@pytest.mark.parametrize("name", PLAIN)
def test_models_that_cannot_share_are_answered_by_transformers(name, monkeypatch):
    monkeypatch.setattr(Loop, "run", None)
    model, told = tiny_model(name, PLAIN[name]).float(), []
    lines = list(lines_of(prompts(9, 4, 14), samples=2, seed=1))
    answers = list(generation.write(model, lines, Sampling(1.0), Limits(ENDS, 6, 2), log=told.append))
    assert len(answers) == len(lines) and "transformers answers" in told[0]


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral", "gpt2"])
def test_a_sampled_answer_is_the_same_whatever_stands_beside_it(name):
    # In float64, where the sums of other rows round nothing that shows.
    model = tiny_model(name, SHARED[name])
    lines = list(lines_of(prompts(9, 1, 22, 4, 9), samples=3, seed=4))
    for sampling in (Sampling(1.0), Sampling(1.3, 0.9, 40)):
        alone = {}
        for line in lines:
            alone |= written(model, [line], sampling, most=1)
        assert len({answer.ids for answer in alone.values()}) > 8
        assert len({len(answer.ids) for answer in alone.values()}) >= 3, "they end at different times"
        for most in (3, 5):
            assert written(model, lines, sampling, most=most) == alone
        # One at a time: in float64, transformers' masks of a sliding window make no numbers of padding.
        for other in plain.write(model, lines[::4], sampling, Limits(ENDS, 12, 1)):
            assert other == alone[other.line.prompt, other.line.sample]


def test_a_long_answer_outgrows_the_first_room_and_the_window(monkeypatch):
    monkeypatch.setattr("worker.dpo.decoding.cache.ROOM", 3)
    for name in ("llama", "mistral"):
        model = tiny_model(name, SHARED[name])
        lines = list(lines_of(prompts(4, 7), samples=2, seed=2))
        answers = written(model, lines, Sampling(1.0), tokens=40, ends=frozenset())
        assert {len(answer.ids) for answer in answers.values()} == {40}
        by_transformers = plain.write(model, lines, Sampling(1.0), Limits(frozenset({96}), 40, 4))
        for other in by_transformers:
            ids = answers[other.line.prompt, other.line.sample].ids
            assert other.ids == ids[: len(other.ids)]


def test_a_prompt_is_read_once_for_its_answers_and_ended_lines_leave(monkeypatch):
    model, rows = tiny_model("llama", {}), []
    call = Model._call

    def counted(self, tokens, positions, decoding):
        rows.append((type(decoding).__name__, len(tokens)))
        return call(self, tokens, positions, decoding)

    monkeypatch.setattr(Model, "_call", counted)
    lines = list(lines_of(prompts(9, 5, 30, 4), samples=2, seed=3))
    answers = written(model, lines, Sampling(1.0), most=4)
    assert sum(count for kind, count in rows if kind == "Prompts") == 9 + 5 + 30 + 4
    # The first token of an answer comes of the prompt; its end token is one more step.
    assert sum(count for kind, count in rows if kind == "Step") == sum(
        len(answer.ids) - 1 + answer.ended for answer in answers.values()
    )
    assert max(count for kind, count in rows if kind == "Step") <= 4


@pytest.mark.parametrize("onednn", [False, True], ids=["mkl", "onednn"])
def test_weights_that_are_laid_out_give_the_same_tokens_and_are_given_back(monkeypatch, onednn):
    monkeypatch.setattr(matmul, "_ONEDNN", onednn)
    monkeypatch.setattr(loop, "LEAST_ROWS", 2)
    monkeypatch.setattr(loop, "WORTHWHILE", 1)
    for model in (tiny_model("llama", {}).float(), with_lora(tiny_model("qwen2", {})).float()):
        if not PackedLayers(model).serves():
            pytest.skip("this machine has no operators for it")
        lines = list(lines_of(prompts(9, 1, 30, 4, 14), samples=2, seed=1))
        laid_out = []
        with monkeypatch.context() as patch:
            patch.setattr(PackedLayers, "lay_out", counting(PackedLayers.lay_out, laid_out))
            packed = written(model, lines, most=8)
        assert laid_out[0] == 8 and set(laid_out) <= {8, 4, 2}
        assert not any("forward" in vars(module) for module in model.modules())
        with monkeypatch.context() as patch:
            patch.setattr(PackedLayers, "serves", lambda self: False)
            assert written(model, lines, most=8) == packed


def counting(method, calls):
    def counted(self, rows):
        calls.append(rows)
        return method(self, rows)

    return counted


def test_a_model_whose_numbers_differ_is_answered_by_transformers():
    model = tiny_model("llama", {}).float()
    forward = model.model.forward
    model.model.forward = lambda *args, **more: forward(*args, **{k: v for k, v in more.items() if k != "position_ids"})
    with pytest.raises(NotShareable, match="own forward"):
        require_agreement(Model(model), prompts(9)[0])
    told = []
    lines = list(lines_of(prompts(9, 4), samples=1, seed=1))
    assert len(list(generation.write(model, lines, Sampling(), Limits(ENDS, 4, 2), log=told.append))) == 2
    assert "own forward" in told[0]


def test_the_model_is_as_it_was_when_it_is_stopped_in_the_middle():
    model = tiny_model("llama", {}).float().train()
    before, steps = model.config._attn_implementation, []

    def stop():
        steps.append(1)
        if len(steps) > 5:
            raise KeyboardInterrupt

    lines = list(lines_of(prompts(9, 4), samples=2, seed=1))
    with pytest.raises(KeyboardInterrupt):
        list(generation.write(model, lines, Sampling(), Limits(frozenset(), 40, 8), between=stop))
    assert before != NAME and model.config._attn_implementation == before
    assert model.training and not any("forward" in vars(module) for module in model.modules())
