"""Lines as people bring them, made for these tests, and what each is: prompt, two answers, what was said of them."""

import json
from dataclasses import dataclass
from typing import Any

Message = dict[str, str]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def told(text: str) -> Message:
    return {"role": "assistant", "content": text}


def system(text: str) -> Message:
    return {"role": "system", "content": text}


@dataclass(frozen=True)
class Brought:
    """One row, and its pairs as (prompt, first answer, second answer, choices, strength). `left_out`: the columns that no
    pair uses. `sources`: of the first pair."""

    name: str
    row: dict[str, Any]
    pairs: list[tuple[list[Message], str, str, tuple[str, ...], int | None]]
    left_out: tuple[str, ...] = ()
    sources: tuple[Any, Any] = (None, None)


def judged(prompt: list[Message], chosen: str, rejected: str) -> list[Any]:
    return [(prompt, chosen, rejected, ("first",), None)]


FRUIT = [user("Name a fruit.")]
PLANET = [system("Be brief."), user("Which planet is the largest?")]
BEGUN = [user("Name a fruit."), told("Pear"), user("Another?")]
INSTRUCTION = "Below is an instruction that describes a task. Write a response.\n\n### Instruction:\nName a fruit.\n\n### Response:\n"

BROUGHT = [
    Brought(
        "orca whose answers begin alike",
        {
            "system": "Be brief.",
            "question": "Which planet is the largest?",
            "chosen": "The largest is Jupiter.",
            "rejected": "The largest is Mars.",
        },
        judged(PLANET, "The largest is Jupiter.", "The largest is Mars."),
    ),
    Brought(
        "orca whose answers begin differently",
        {
            "system": "Be brief.",
            "question": "Which planet is the largest?",
            "chosen": "Jupiter is.",
            "rejected": "Mars.",
        },
        judged(PLANET, "Jupiter is.", "Mars."),
    ),
    Brought(
        "distilabel's orca",
        {
            "system": "Be brief.",
            "input": "Which planet is the largest?",
            "chosen": "Jupiter.",
            "rejected": "Mars.",
            "rating": [9, 2],
            "status": "unchanged",
        },
        judged(PLANET, "Jupiter.", "Mars."),
        ("rating", "status"),
    ),
    Brought(
        "alpaca with an input",
        {
            "instruction": "Translate to French",
            "input": "good day",
            "chosen": "Je dis bonjour",
            "rejected": "Je dis adieu",
        },
        judged([user("Translate to French\ngood day")], "Je dis bonjour", "Je dis adieu"),
    ),
    Brought(
        "alpaca without an input",
        {"instruction": "Name a fruit.", "input": "", "chosen": "A pear", "rejected": "A car"},
        judged(FRUIT, "A pear", "A car"),
    ),
    Brought(
        "alpaca with a history",
        {
            "instruction": "Another?",
            "history": [["Name a fruit.", "Pear"]],
            "system": "Be brief.",
            "chosen": "Plum",
            "rejected": "Stone",
        },
        judged([system("Be brief."), *BEGUN], "Plum", "Stone"),
    ),
    Brought(
        "messages beside two texts",
        {"messages": FRUIT, "chosen": "A pear is one", "rejected": "A car is one"},
        judged(FRUIT, "A pear is one", "A car is one"),
    ),
    Brought(
        "UltraFeedback, binarized",
        {
            "prompt": "Name a fruit.",
            "prompt_id": "7",
            "chosen": [*FRUIT, told("Pear")],
            "rejected": [*FRUIT, told("Car")],
            "messages": [*FRUIT, told("Pear")],
            "score_chosen": 9.0,
            "score_rejected": 2.0,
        },
        judged(FRUIT, "Pear", "Car"),
        ("score_chosen", "score_rejected"),
    ),
    Brought(
        "UltraFeedback's four completions",
        {
            "source": "s",
            "instruction": "Name a fruit.",
            "models": ["a", "b", "c"],
            "completions": [
                {"model": "a", "response": "Pear", "overall_score": 8.0, "critique": "Good."},
                {"model": "b", "response": "Car", "overall_score": 2.0, "critique": "Bad."},
                {"model": "c", "response": "Plum", "overall_score": 8.0, "critique": "Good."},
            ],
        },
        [(FRUIT, "Pear", "Car", ("first",), None), (FRUIT, "Plum", "Car", ("first",), None)],
        ("source", "completions[].critique"),
        ("a", "b"),
    ),
    Brought(
        "an arena's votes with texts as JSON",
        {
            "id": 1,
            "model_a": "m1",
            "model_b": "m2",
            "prompt": '["Name a fruit."]',
            "response_a": '["Pear"]',
            "response_b": '["Car"]',
            "winner_model_a": 1,
            "winner_model_b": 0,
            "winner_tie": 0,
        },
        judged(FRUIT, "Pear", "Car"),
        sources=("m1", "m2"),
    ),
    Brought(
        "an arena's vote by name",
        {"prompt": "Name a fruit.", "response_a": "Car", "response_b": "Pear", "winner": "model_b"},
        [(FRUIT, "Car", "Pear", ("second",), None)],
    ),
    Brought(
        "an arena's tie",
        {"prompt": "Name a fruit.", "response_a": "Car", "response_b": "Pear", "winner": "tie (bothbad)"},
        [(FRUIT, "Car", "Pear", ("both_bad",), None)],
    ),
    Brought(
        "an arena's conversations",
        {
            "question_id": "x",
            "model_a": "m1",
            "model_b": "m2",
            "winner": "tie",
            "judge": "arena_user_1",
            "conversation_a": [*FRUIT, told("Pear")],
            "conversation_b": [*FRUIT, told("Car")],
            "turn": 1,
            "language": "English",
        },
        [(FRUIT, "Pear", "Car", ("tie",), None)],
        ("turn", "language"),
        ("m1", "m2"),
    ),
    Brought(
        "a prompt that differs by a space",
        {"prompt": "Name a fruit. ", "chosen": [*FRUIT, told("Pear")], "rejected": [*FRUIT, told("Car")]},
        judged([user("Name a fruit. ")], "Pear", "Car"),
    ),
    Brought(
        "a system message in the answers",
        {
            "prompt": "Name a fruit.",
            "chosen": [system("Be a pirate."), *FRUIT, told("Arr, pear")],
            "rejected": [system("Be a pirate."), *FRUIT, told("Car")],
        },
        judged([system("Be a pirate."), *FRUIT], "Arr, pear", "Car"),
    ),
    Brought(
        "a system column",
        {"system": "Be a pirate.", "prompt": "Name a fruit.", "responses": ["Arr, pear", "Pear"]},
        [([system("Be a pirate."), *FRUIT], "Arr, pear", "Pear", (), None)],
    ),
    Brought(
        "the last question as the prompt of a conversation",
        {"prompt": "Another?", "chosen": [*BEGUN, told("Plum")], "rejected": [*BEGUN, told("Stone")]},
        judged(BEGUN, "Plum", "Stone"),
    ),
    Brought(
        "an empty prompt before conversations",
        {"prompt": "", "chosen": [*FRUIT, told("Pear")], "rejected": [*FRUIT, told("Car")]},
        judged(FRUIT, "Pear", "Car"),
    ),
    Brought(
        "a prompt that both texts repeat",
        {
            "prompt": "Question: 1+1?\nAnswer:",
            "chosen": "Question: 1+1?\nAnswer: 2",
            "rejected": "Question: 1+1?\nAnswer: 3",
        },
        judged([user("Question: 1+1?\nAnswer:")], " 2", " 3"),
    ),
    Brought(
        "texts that ChatML marks",
        {
            "chosen": "<|im_start|>user\nName a fruit.<|im_end|>\n<|im_start|>assistant\nPear<|im_end|>",
            "rejected": "<|im_start|>user\nName a fruit.<|im_end|>\n<|im_start|>assistant\nCar<|im_end|>",
        },
        judged(FRUIT, "Pear", "Car"),
    ),
    Brought(
        "texts that [INST] marks",
        {
            "prompt": "<s>[INST] <<SYS>>\nBe a pirate.\n<</SYS>>\n\nName a fruit. [/INST]",
            "chosen": " Arr, pear</s>",
            "rejected": " Car</s>",
        },
        judged([system("Be a pirate."), *FRUIT], " Arr, pear", " Car"),
    ),
    Brought(
        "several turns that [INST] marks",
        {
            "prompt": "[INST] Name a fruit. [/INST] Pear </s><s>[INST] Another? [/INST]",
            "chosen": " Plum",
            "rejected": " Stone",
        },
        judged(BEGUN, " Plum", " Stone"),
    ),
    Brought(
        "texts that Llama 3 marks",
        {
            "prompt": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe a pirate.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nName a fruit.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            "chosen": "Arr, pear<|eot_id|>",
            "rejected": "Car<|eot_id|>",
        },
        judged([system("Be a pirate."), *FRUIT], "Arr, pear", "Car"),
    ),
    Brought(
        "texts that ### marks",
        {
            "chosen": "### Human: Name a fruit.### Assistant: Pear",
            "rejected": "### Human: Name a fruit.### Assistant: Car",
        },
        judged(FRUIT, "Pear", "Car"),
    ),
    Brought(
        "texts that Alpaca's template made",
        {"prompt": INSTRUCTION, "chosen": "Pear", "rejected": "Car"},
        judged([system("Below is an instruction that describes a task. Write a response."), *FRUIT], "Pear", "Car"),
    ),
    Brought(
        "Anthropic's transcripts",
        {
            "chosen": "\n\nHuman: Name a fruit.\n\nAssistant: Pear\n\nHuman: Another?\n\nAssistant: Plum",
            "rejected": "\n\nHuman: Name a fruit.\n\nAssistant: Pear\n\nHuman: Another?\n\nAssistant: Stone",
        },
        judged(BEGUN, "Plum", "Stone"),
    ),
    Brought(
        "HelpSteer3",
        {
            "domain": "general",
            "language": "english",
            "context": BEGUN,
            "response1": "Plum",
            "response2": "Stone",
            "overall_preference": -2,
        },
        [(BEGUN, "Plum", "Stone", ("first",), 2)],
        ("domain", "language"),
    ),
    Brought(
        "HelpSteer3 without a preference",
        {"context": FRUIT, "response1": "Pear", "response2": "Plum", "overall_preference": 0},
        [(FRUIT, "Pear", "Plum", ("tie",), None)],
    ),
    Brought(
        "OpenAI's preference form",
        {
            "input": {
                "messages": [{"role": "developer", "content": "Be a pirate."}, *FRUIT],
                "parallel_tool_calls": True,
            },
            "preferred_output": [told("Arr, pear")],
            "non_preferred_output": [told("Car")],
        },
        judged([system("Be a pirate."), *FRUIT], "Arr, pear", "Car"),
        ("input.parallel_tool_calls",),
    ),
    Brought(
        "Nectar",
        {
            "prompt": "\n\nHuman: Name a fruit.\n\nAssistant: ",
            "answers": [
                {"answer": "Car", "model": "b", "rank": 3.0},
                {"answer": "Pear", "model": "a", "rank": 1.0},
                {"answer": "Lemon", "model": "c", "rank": 2.0},
            ],
            "turns": 1,
        },
        [
            (FRUIT, "Pear", "Car", ("first",), None),
            (FRUIT, "Lemon", "Car", ("first",), None),
            (FRUIT, "Pear", "Lemon", ("first",), None),
        ],
        ("turns",),
        ("a", "b"),
    ),
    Brought(
        "three answers that nobody ranked",
        {"prompt": "Name a fruit.", "responses": ["Pear", "Car", "Plum"]},
        [(FRUIT, "Pear", "Car", (), None), (FRUIT, "Pear", "Plum", (), None), (FRUIT, "Car", "Plum", (), None)],
    ),
    Brought(
        "three numbered answers and the best",
        {
            "prompt": "Name a fruit.",
            "response_1": "Car",
            "response_2": "Pear",
            "response_3": "Sky",
            "winner": "response_2",
        },
        [(FRUIT, "Pear", "Car", ("first",), None), (FRUIT, "Pear", "Sky", ("first",), None)],
    ),
    Brought(
        "one chosen answer and several rejected",
        {"prompt": "Name a fruit.", "chosen": "Pear", "rejected": ["Car", "Sky"]},
        [(FRUIT, "Pear", "Car", ("first",), None), (FRUIT, "Pear", "Sky", ("first",), None)],
    ),
    Brought(
        "SHP",
        {
            "post_id": "p",
            "domain": "d",
            "upvote_ratio": 0.9,
            "history": "Name a fruit.",
            "human_ref_A": "Pear",
            "human_ref_B": "Car",
            "labels": 1,
            "score_A": 10,
            "score_B": 2,
        },
        judged(FRUIT, "Pear", "Car"),
        ("post_id", "domain", "upvote_ratio", "score_A", "score_B"),
    ),
    Brought(
        "ShareGPT",
        {
            "conversations": [{"from": "human", "value": "Name a fruit."}],
            "chosen": {"from": "gpt", "value": "Pear"},
            "rejected": {"from": "gpt", "value": "Car"},
        },
        judged(FRUIT, "Pear", "Car"),
    ),
    Brought(
        "distilabel's generations and ratings",
        {
            "instruction": "Name a fruit.",
            "generations": ["Car", "Pear"],
            "ratings": [1, 5],
            "generation_models": ["b", "a"],
            "model_name": "judge",
            "rationales": ["x", "y"],
        },
        [(FRUIT, "Pear", "Car", ("first",), None)],
        ("model_name", "rationales"),
        ("a", "b"),
    ),
    Brought(
        "Argilla's pairwise export",
        {
            "prompt": "Name a fruit.",
            "response-1": "Car",
            "response-2": "Pear",
            "choose-best": [
                {"user_id": "u1", "value": "response-2", "status": "submitted"},
                {"user_id": "u2", "value": None, "status": "draft"},
            ],
            "choose-best-suggestion": None,
            "external_id": "7",
            "metadata": "{}",
        },
        [(FRUIT, "Car", "Pear", ("second",), None)],
        ("metadata", "choose-best[] that weren't submitted"),
    ),
    Brought(
        "Argilla's records",
        {
            "id": "1",
            "fields": {"prompt": "Name a fruit.", "response1": "Car", "response2": "Pear"},
            "metadata": {},
            "responses": {
                "preference": [
                    {"value": "response2", "user_id": "u1", "status": "submitted"},
                    {"value": "response1", "user_id": "u2", "status": "submitted"},
                ]
            },
            "status": "completed",
        },
        [(FRUIT, "Car", "Pear", ("second", "first"), None)],
        ("metadata", "status"),
    ),
    Brought(
        "Argilla's records, flattened",
        {
            "id": "1",
            "prompt": "Name a fruit.",
            "response1": "Car",
            "response2": "Pear",
            "preference.responses": ["response2"],
            "preference.responses.users": ["u1"],
            "preference.responses.status": ["submitted"],
            "preference.suggestion": None,
        },
        [(FRUIT, "Car", "Pear", ("second",), None)],
    ),
    Brought(
        "Label Studio's pairwise export",
        {
            "id": 5,
            "data": {"prompt": "Name a fruit.", "answer1": "Car", "answer2": "Pear"},
            "annotations": [
                {
                    "completed_by": 3,
                    "result": [
                        {
                            "type": "pairwise",
                            "value": {"selected": "right"},
                            "from_name": "pw",
                            "to_name": "answer1,answer2",
                        }
                    ],
                }
            ],
            "predictions": [],
        },
        [(FRUIT, "Car", "Pear", ("second",), None)],
        ("predictions",),
    ),
    Brought(
        "PKU's two answers",
        {
            "prompt": "Name a fruit.",
            "response_0": "Car",
            "response_1": "Pear",
            "better_response_id": 1,
            "safer_response_id": 0,
        },
        [(FRUIT, "Car", "Pear", ("second",), None)],
        ("safer_response_id",),
    ),
    Brought(
        "AlpacaFarm's two outputs",
        {"instruction": "Name a fruit.", "input": "", "output_1": "Pear", "output_2": "Car", "preference": 1},
        judged(FRUIT, "Pear", "Car"),
    ),
    Brought(
        "messages as text in a table",
        {"prompt": json.dumps(FRUIT), "chosen": str([told("Pear")]), "rejected": json.dumps([told("Car")])},
        judged(FRUIT, "Pear", "Car"),
    ),
    Brought(
        "columns of nothing",
        {"prompt": "Name a fruit.", "responses": ["Pear", "Car"], "chosen": None, "rejected": None},
        [(FRUIT, "Pear", "Car", (), None)],
    ),
    Brought(
        "a vote with strength, who and why",
        {
            "prompt": "Name a fruit.",
            "response_a": "Pear",
            "response_b": "Car",
            "vote": "a",
            "strength": "far",
            "annotator": "Ada",
            "rationale": "It is one.",
        },
        [(FRUIT, "Pear", "Car", ("first",), 3)],
    ),
    Brought(
        "HelpSteer2's preferences",
        {
            "prompt": "Name a fruit.",
            "response_1": "Car",
            "response_2": "Pear",
            "preference_strength": 3,
            "preference_statement": "x",
        },
        [(FRUIT, "Car", "Pear", ("second",), 3)],
        ("preference_statement",),
    ),
    Brought(
        "ms-swift's conversation that ends with the chosen answer",
        {"messages": [*BEGUN, told("Plum")], "rejected_response": "Stone"},
        judged(BEGUN, "Plum", "Stone"),
    ),
    Brought(
        "a trajectory before two texts",
        {"trajectory": [{"from": "user", "value": "Name a fruit."}], "chosen": "A pear", "rejected": "A car"},
        judged(FRUIT, "A pear", "A car"),
    ),
    Brought(
        "OpenAI's summaries",
        {
            "info": {"id": "t", "post": "Name a fruit.", "subreddit": "r"},
            "summaries": [{"text": "Car", "policy": "b"}, {"text": "Pear", "policy": "a"}],
            "choice": 1,
            "worker": "w1",
        },
        [(FRUIT, "Car", "Pear", ("second",), None)],
        ("info.subreddit",),
        ("b", "a"),
    ),
    Brought(
        "WebGPT's comparisons",
        {
            "question": {"dataset": "d", "id": "i", "full_text": "Name a fruit."},
            "answer_0": "Pear",
            "answer_1": "Car",
            "score_0": 0.5,
            "score_1": -0.5,
        },
        judged(FRUIT, "Pear", "Car"),
        ("question.dataset",),
    ),
    Brought(
        "Capybara with turns in its own form",
        {
            "conversation": [{"input": "Name a fruit.", "output": "Pear"}],
            "chosen": [*FRUIT, told("Pear")],
            "rejected": [*FRUIT, told("Car")],
            "prompt": FRUIT,
        },
        judged(FRUIT, "Pear", "Car"),
        ("conversation",),
    ),
    Brought(
        "texts that Vicuna's template made",
        {
            "prompt": "A chat between a curious user and an assistant. USER: Name a fruit. ASSISTANT:",
            "chosen": " Pear</s>",
            "rejected": " Car</s>",
        },
        judged([system("A chat between a curious user and an assistant."), *FRUIT], " Pear", " Car"),
    ),
    Brought(
        "texts that Mistral's newer templates mark",
        {
            "prompt": "<s>[SYSTEM_PROMPT]Be a pirate.[/SYSTEM_PROMPT][INST]Name a fruit.[/INST]",
            "chosen": "Arr, pear</s>",
            "rejected": "Car</s>",
        },
        judged([system("Be a pirate."), *FRUIT], "Arr, pear", "Car"),
    ),
    Brought(
        "texts that Zephyr's template made",
        {
            "prompt": "<|system|>\nBe a pirate.</s>\n<|user|>\nName a fruit.</s>\n<|assistant|>\n",
            "chosen": "Arr, pear</s>",
            "rejected": "Car</s>",
        },
        judged([system("Be a pirate."), *FRUIT], "Arr, pear", "Car"),
    ),
    Brought(
        "texts that Gemma's template made",
        {
            "chosen": "<bos><start_of_turn>user\nName a fruit.<end_of_turn>\n<start_of_turn>model\nPear<end_of_turn>\n",
            "rejected": "<bos><start_of_turn>user\nName a fruit.<end_of_turn>\n<start_of_turn>model\nCar<end_of_turn>\n",
        },
        judged(FRUIT, "Pear", "Car"),
    ),
    Brought(
        "texts that DeepSeek's template made",
        {
            "prompt": "<｜begin▁of▁sentence｜><｜User｜>Name a fruit.<｜Assistant｜>",
            "chosen": "Pear<｜end▁of▁sentence｜>",
            "rejected": "Car<｜end▁of▁sentence｜>",
        },
        judged(FRUIT, "Pear", "Car"),
    ),
]
