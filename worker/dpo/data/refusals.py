"""Why a pair can't become token ids."""

from worker.dpo.ground.errors import BAD_SETTING, RunError


class CannotEncode(ValueError):
    """A pair that can't become token ids. `reason` is a stable code."""

    reason = "cannot_encode"


class NonPrefixTemplate(CannotEncode):
    """The template renders the prompt differently once an answer follows, so there is no shared prefix to train on."""

    reason = "non_prefix_template"


class TemplateRefused(CannotEncode):
    """The template raised an error for these messages, such as roles that don't alternate."""

    reason = "template_refused"


class ControlToken(CannotEncode):
    """A text holds one of the template's own marks, which the model would read as such."""

    reason = "control_token"


class EmptyCompletion(CannotEncode):
    """The template writes nothing of an answer, or leaves out its tool calls."""

    reason = "empty_completion"


class EmptyPrompt(CannotEncode):
    """No token comes before the answer, so nothing predicts its first token."""

    reason = "empty_prompt"


class NoEndToken(RunError):
    """The tokenizer has neither an EOS token nor `<|im_end|>`: an answer could never end."""

    exit_code, reason = BAD_SETTING, "no_end_token"
