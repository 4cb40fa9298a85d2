"""Tokenizers and chat templates of the kinds that go wrong, and TRL's own tokenization to compare with."""

from types import SimpleNamespace

from datasets import Dataset
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from trl import DPOTrainer

from tests.worker.dpo.tiny import CHATML

CORPUS = [
    "The parcel is late and the invoice is wrong. The parcel was here. 1 2 3 10 200",
    "assistant\n\n\nHello there, there is hope. \n\n  two  spaces   three\n\n\n\nLines",
    "Thank you! Thank you for asking. Yes. No. Yes, of course.",
]
LLAMA = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}]\n{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
NO_END = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
# Qwen3's and others' way: only the last answer keeps what the model thought, earlier ones lose it.
REWRITES_HISTORY = (
    "{% for m in messages %}<s>{{ m['role'] }}{% if loop.last %} (newest){% endif %}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
# Gemma's way: the generation prompt holds an empty thought, the finished answer doesn't.
EMPTY_THOUGHT = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n<think></think>{% endif %}"
)
WITH_TOOLS = (
    "{% if tools %}<s>tools\n{% for tool in tools %}{{ tool['function']['name'] }}\n{% endfor %}</s>{% endif %}"
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}"
    "{% if m['tool_calls'] %}{% for call in m['tool_calls'] %}call {{ call['function']['name'] }}{% endfor %}{% endif %}</s>"
    "{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def trained_tokenizer(
    *,
    template: str | None = CHATML,
    adds_bos: bool = False,
    adds_eos: bool = False,
    eos: str | None = "</s>",
    pad: str = "<pad>",
) -> PreTrainedTokenizerFast:
    """A byte-level BPE that splits text as GPT-2 does: a space belongs to the next word, line breaks to each other."""
    special = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[AddedToken(token, special=True) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS * 3, trainer)
    if adds_bos or adds_eos:
        single = ("<s> " if adds_bos else "") + "$A" + (" </s>" if adds_eos else "")
        backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 0), ("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token=eos, pad_token=pad)
    tokenizer.chat_template = template
    return tokenizer


def trl_ids(tokenizer: PreTrainedTokenizerFast, rows: list[dict]) -> list[tuple[list[int], list[int], list[int]]]:
    """(prompt, chosen, rejected) ids of each row from the installed DPOTrainer's own preparation."""
    arguments = SimpleNamespace(dataset_num_proc=None, max_length=None, truncation_mode="keep_start")
    trainer = SimpleNamespace(_tokenizer=tokenizer)
    prepared = DPOTrainer._prepare_dataset(trainer, Dataset.from_list(rows), tokenizer, arguments, "train")
    return [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in prepared]
