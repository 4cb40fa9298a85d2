"""Checks of a base model that need transformers: its tokenizer, and whether it loads and writes text."""

from pathlib import Path
from typing import Any

from worker.base_models.folder import Refused, first_line

QUESTION = "What is the capital of France?"


def read_tokenizer(folder: Path, config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Facts for the manifest, and what a page should say; refuses a tokenizer that can't serve this model."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise Refused(f"The tokenizer can't be loaded: {first_line(error)}.", "Fetch its files again.") from error
    rows = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    notes = []
    if rows and len(tokenizer) > rows:
        notes.append(_more_tokens(tokenizer, rows))
    if tokenizer.eos_token_id is None:
        raise Refused(
            "The tokenizer has no end-of-text token, so no answer could ever end.",
            "Set eos_token in tokenizer_config.json.",
        )
    if not tokenizer.chat_template:
        notes.append("no chat template of its own: ChatML is used")
    return {
        "context_length": config.get("max_position_embeddings"),
        "chat_template": bool(tokenizer.chat_template),
        "tokens": {kind: getattr(tokenizer, f"{kind}_token") for kind in ("bos", "eos", "pad")},
    }, notes


def _more_tokens(tokenizer: Any, rows: int) -> str:
    """A note on a tokenizer with more tokens than the model has rows; refuses one that isn't the model's.

    Families share a tokenizer: that of a text model may know the larger sibling's token for images, added after all others.
    """
    beyond = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items() if index >= rows}
    if len(beyond) < len(tokenizer) - rows:
        raise Refused(
            f"The tokenizer has {len(tokenizer):,} tokens, the model only {rows:,}.", "They don't belong together."
        )
    needed = {getattr(tokenizer, f"{kind}_token") for kind in ("bos", "eos", "pad")} & set(beyond.values())
    if needed:
        raise Refused(
            f"The model, of {rows:,} tokens, has no weights for the tokenizer's {', '.join(sorted(needed))}.",
            "They don't belong together.",
        )
    names = ", ".join(sorted(beyond.values())[:5]) + (" …" if len(beyond) > 5 else "")
    return f"the model has no weights for {names}: a line that holds such a token is left out of training"


def generate(folder: Path, size: int) -> str | None:
    """The model's greedy answer to QUESTION; None where loading it could take the machine's memory."""
    import psutil
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if size > psutil.virtual_memory().available / 2:
        return None
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise Refused(
            f"transformers can't load the model: {first_line(error)}.", "Check that its files belong together."
        ) from error
    if loading["missing_keys"]:
        raise Refused(
            f"{len(loading['missing_keys'])} weights are missing, such as {min(loading['missing_keys'])}.",
            "Fetch the model again.",
        )
    if tokenizer.chat_template:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    else:
        inputs = tokenizer(QUESTION, return_tensors="pt")
    prompt = inputs["input_ids"]
    with torch.inference_mode():
        if not torch.isfinite(model(input_ids=prompt).logits).all():
            raise Refused("The model's outputs are not finite numbers.", "Fetch the weights again.")
        output = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=16,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
        )
    return str(tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)).strip()
