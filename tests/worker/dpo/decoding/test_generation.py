"""Answers: greedy ones are the model's argmax, sampled ones follow their seed, and nothing else is disturbed."""

import pytest
import torch

from tests.worker.dpo.tiny import tiny_llama, tiny_tokenizer, toy_pairs
from worker.dpo.data.pairs import Prompt
from worker.dpo.decoding import plain
from worker.dpo.decoding.generation import generate
from worker.dpo.decoding.lines import Limits, lines_of
from worker.dpo.decoding.sampling import Sampling, choose

PROMPTS = [Prompt(number, pair["prompt"]) for number, pair in enumerate(toy_pairs(3), start=1)]


@pytest.fixture(scope="module")
def model():
    return tiny_llama(seed=3)


def test_greedy_answers_are_the_argmax_of_plain_forward_passes(model):
    tokenizer = tiny_tokenizer()
    expected = []
    for prompt in PROMPTS:
        ids = tokenizer.apply_chat_template(prompt.messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        answer: list[int] = []
        while len(answer) < 12 and (not answer or answer[-1] != tokenizer.eos_token_id):
            with torch.no_grad():
                answer.append(int(model(torch.tensor([ids + answer])).logits[0, -1].argmax()))
        expected.append(tokenizer.decode(answer, skip_special_tokens=True))
    given = generate(model, tokenizer, PROMPTS, max_new_tokens=12)
    assert [answer.text for answer in given] == expected
    assert all(answer.ended or len(answer.ids) == 12 for answer in given)


def test_sampling_follows_its_seed_and_leaves_the_random_state_alone(model):
    tokenizer = tiny_tokenizer()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = generate(model, tokenizer, PROMPTS, max_new_tokens=12, temperature=1.0, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=12, temperature=1.0, seed=1) == one
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=12, temperature=1.0, seed=2) != one
    assert generate(model, tokenizer, PROMPTS[:1], max_new_tokens=12, temperature=1.0, seed=1) == one[:1]


def test_the_model_s_own_generation_settings_do_not_change_an_answer():
    plain, biased = tiny_llama(seed=3), tiny_llama(seed=3)
    biased.generation_config.repetition_penalty = 5.0
    biased.generation_config.do_sample = True
    biased.generation_config.top_p = 0.1
    tokenizer = tiny_tokenizer()
    assert generate(biased, tokenizer, PROMPTS, max_new_tokens=8) == generate(
        plain, tokenizer, PROMPTS, max_new_tokens=8
    )


def test_training_mode_is_as_it_was_and_dropout_is_off_meanwhile():
    model = tiny_llama(seed=3, attention_dropout=0.5)
    model.train()
    tokenizer = tiny_tokenizer()
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=8) == generate(
        model.eval(), tokenizer, PROMPTS, max_new_tokens=8
    )
    model.train()
    generate(model, tokenizer, PROMPTS[:1], max_new_tokens=1)
    assert model.training


def test_an_answer_stops_at_the_end_of_its_turn():
    tokenizer, model = tiny_tokenizer(eos="<|endoftext|>"), tiny_llama(seed=3)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.tie_weights = lambda: None
    model.lm_head = torch.nn.Linear(32, 260, bias=True)
    torch.nn.init.zeros_(model.lm_head.weight)
    with torch.no_grad():
        model.lm_head.bias.copy_(torch.nn.functional.one_hot(torch.tensor(end), 260).float())
    (answer,) = generate(model, tokenizer, PROMPTS[:1], max_new_tokens=200)
    assert (answer.text, answer.ids, answer.ended) == ("", (), True)


def test_a_prompt_longer_than_the_context_loses_its_beginning():
    model, tokenizer = tiny_llama(seed=3, max_position_embeddings=64), tiny_tokenizer()
    long = Prompt(1, [{"role": "user", "content": "x" * 500}])
    short = Prompt(1, [{"role": "user", "content": "x" * 100}])
    assert generate(model, tokenizer, [long], max_new_tokens=8) == generate(model, tokenizer, [short], max_new_tokens=8)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_does_not_depend_on_the_prompts_beside_it(temperature):
    # In float64, where the padding of a batch rounds nothing that shows.
    model, tokenizer = tiny_llama(seed=3).double(), tiny_tokenizer()
    prompts = [Prompt(n, [{"role": "user", "content": "word " * n}]) for n in range(1, 8)]
    options = {"max_new_tokens": 12, "temperature": temperature, "seed": 4}
    alone = generate(model, tokenizer, prompts, batch_size=1, **options)
    assert len(set(alone)) > 1
    assert generate(model, tokenizer, prompts, batch_size=3, **options) == alone
    assert generate(model, tokenizer, prompts, batch_size=100, **options) == alone


def test_sampled_tokens_have_the_probabilities_of_the_softmax():
    logits, temperature, draws = torch.tensor([1.0, 0.0, -1.0, 2.0]), 0.7, 20000
    chance = torch.rand(draws, generator=torch.Generator().manual_seed(0)).tolist()
    drawn = choose(logits.repeat(draws, 1), Sampling(temperature), chance)
    counts = torch.bincount(drawn, minlength=4) / draws
    assert counts.tolist() == pytest.approx(torch.softmax(logits / temperature, -1).tolist(), abs=0.015)


def test_a_recurrent_model_is_never_given_padding(monkeypatch):
    model, widths = tiny_llama(seed=3), []

    def answer(self, inputs, **kept):
        widths.append(inputs.shape[0])
        return inputs

    monkeypatch.setattr(type(model), "generate", answer)
    lines = list(lines_of([[4, 5], [6], [7]], samples=1, seed=0))
    list(plain.write(model, lines, Sampling(), Limits(frozenset({2}), 4, 8)))
    model.config.layer_types = ["linear_attention"] * model.config.num_hidden_layers
    list(plain.write(model, lines, Sampling(), Limits(frozenset({2}), 4, 8)))
    assert widths == [3, 1, 1, 1]
