"""The lines of Python that load a downloaded checkpoint, right for adapters and for full models."""

from textwrap import dedent

from app.config import Settings
from app.errors import NotFound
from app.models import Checkpoint
from app.services.training import base_models

ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def is_adapter(checkpoint: Checkpoint) -> bool:
    """Whether it is a LoRA adapter, which needs its base model beside it."""
    return any(file.name == ADAPTER for file in checkpoint.files)


def snippet(checkpoint: Checkpoint, *, folder: str, settings: Settings) -> str:
    """Python for `folder`, the archive's folder. The base of an adapter is a hub id, or a folder of this machine."""
    load = _adapter(folder, *_base(checkpoint, settings)) if is_adapter(checkpoint) else _full(folder)
    return load + dedent("""
        messages = [{"role": "user", "content": "Where is my order?"}]
        inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        answer = model.generate(**inputs, max_new_tokens=128)[0, inputs["input_ids"].shape[1]:]
        print(tokenizer.decode(answer, skip_special_tokens=True))
        """)


def _base(checkpoint: Checkpoint, settings: Settings) -> tuple[str, str]:
    """(the arguments of from_pretrained, what they name)."""
    name = checkpoint.run.base_model
    try:
        model = base_models.get(settings, name)
    except NotFound:
        return repr(f"PATH_OF_{name.upper()}"), f"the folder of {name}, which is no longer on this server"
    if model.source["kind"] == "hub":
        return (
            f"{model.source['id']!r}, revision={model.source['commit']!r}",
            "exactly the weights that were trained on",
        )
    return repr(
        str(model.path)
    ), f"as `prefloop models path {name}` prints it; copy the folder along to another machine"


def _adapter(folder: str, base: str, comment: str) -> str:
    return dedent(f"""\
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained({folder!r})
        # {comment}
        base = AutoModelForCausalLM.from_pretrained({base})
        model = PeftModel.from_pretrained(base, {folder!r})
        """)


def _full(folder: str) -> str:
    return dedent(f"""\
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained({folder!r})
        model = AutoModelForCausalLM.from_pretrained({folder!r})
        """)
