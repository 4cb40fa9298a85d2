"""What a column can become, and the names by which data sets call it."""

import re
from collections.abc import Mapping
from enum import StrEnum

from worker.dpo.data.records.refusals import BadLine, shown


class Role(StrEnum):
    """What a column becomes. Two answers are `first` and `second`; `chosen` and `rejected` are judged already."""

    PROMPT = "prompt"
    SYSTEM = "system"
    INPUT = "input"
    HISTORY = "history"
    CHOSEN = "chosen"
    REJECTED = "rejected"
    FIRST = "first"
    SECOND = "second"
    ANSWERS = "answers"
    VOTE = "vote"
    VOTE_FIRST = "vote_first"
    VOTE_SECOND = "vote_second"
    VOTE_TIE = "vote_tie"
    STRENGTH = "strength"
    RANKS = "ranks"
    SCORES = "scores"
    FIRST_SCORE = "first_score"
    SECOND_SCORE = "second_score"
    SOURCES = "sources"
    FIRST_SOURCE = "first_source"
    SECOND_SOURCE = "second_source"
    RATER = "rater"
    RATERS = "raters"
    STATUSES = "statuses"
    JUDGMENTS = "judgments"
    NOTE = "note"
    ID = "id"
    PRIORITY = "priority"
    GOLD = "gold"
    ARM = "arm"
    EXCLUDED = "excluded"
    TOOLS = "tools"
    WEIGHT = "weight"
    P_CHOSEN = "p_chosen"
    VOTES = "votes"
    VOTES_CHOSEN = "votes_chosen"
    LEFT_OUT = "left_out"
    EMPTY = "empty"


# What people read on pages and in reports.
WORDS = {
    Role.PROMPT: "prompt",
    Role.SYSTEM: "system message",
    Role.INPUT: "the prompt's second part",
    Role.HISTORY: "earlier turns",
    Role.CHOSEN: "chosen answer",
    Role.REJECTED: "rejected answer",
    Role.FIRST: "first answer",
    Role.SECOND: "second answer",
    Role.ANSWERS: "answers",
    Role.VOTE: "vote",
    Role.VOTE_FIRST: "vote for the first answer",
    Role.VOTE_SECOND: "vote for the second answer",
    Role.VOTE_TIE: "vote for a tie",
    Role.STRENGTH: "strength of the vote",
    Role.RANKS: "ranks of the answers",
    Role.SCORES: "scores of the answers",
    Role.FIRST_SCORE: "score of the first answer",
    Role.SECOND_SCORE: "score of the second answer",
    Role.SOURCES: "sources of the answers",
    Role.FIRST_SOURCE: "source of the first or chosen answer",
    Role.SECOND_SOURCE: "source of the second or rejected answer",
    Role.RATER: "who voted",
    Role.RATERS: "who voted, as a list",
    Role.STATUSES: "states of the votes",
    Role.JUDGMENTS: "votes with who made them",
    Role.NOTE: "reason for the vote",
    Role.ID: "id",
    Role.PRIORITY: "priority",
    Role.GOLD: "gold answer",
    Role.ARM: "by which arm it was asked",
    Role.EXCLUDED: "left out of training",
    Role.TOOLS: "tools",
    Role.WEIGHT: "weight of the vote",
    Role.P_CHOSEN: "share of votes for the chosen answer",
    Role.VOTES: "number of votes",
    Role.VOTES_CHOSEN: "votes for the chosen answer",
    Role.LEFT_OUT: "left out",
    Role.EMPTY: "empty",
}
# What a person may say of a column; the rest follow from the file alone.
GIVEN = tuple(role for role in Role if role is not Role.EMPTY)

# Columns that hold the prompt, in the order in which the first of them is taken.
PROMPTS = (
    "prompt",
    "messages",
    "conversations",
    "conversation",
    "trajectory",
    "context",
    "question",
    "full_text",
    "instruction",
    "query",
    "user_prompt",
    "prompt_text",
    "user_message",
    "user_input",
    "dialogue",
    "dialog",
    "post",
    "input",
    "history",
)
ALIASES = {
    Role.SYSTEM: ("system", "system_prompt", "system_message", "custom_system_prompt", "sys_prompt"),
    Role.CHOSEN: (
        "chosen",
        "preferred_output",
        "chosen_response",
        "response_chosen",
        "chosen_answer",
        "answer_chosen",
        "chosen_text",
        "preferred",
        "preferred_response",
        "accepted",
        "accepted_response",
        "response_j",
        "better_response",
    ),
    Role.REJECTED: (
        "rejected",
        "non_preferred_output",
        "rejected_response",
        "response_rejected",
        "rejected_answer",
        "answer_rejected",
        "rejected_text",
        "dispreferred",
        "non_preferred",
        "dispreferred_response",
        "response_k",
        "worse_response",
    ),
    Role.ANSWERS: ("responses", "answers", "completions", "generations", "candidates", "summaries", "outputs"),
    Role.VOTE: (
        "winner",
        "overall_preference",
        "preference_strength",
        "preference",
        "better_response_id",
        "choice",
        "vote",
        "labels",
        "label",
        "verdict",
        "better",
        "choose_best",
        "best",
    ),
    Role.VOTE_FIRST: ("winner_model_a",),
    Role.VOTE_SECOND: ("winner_model_b",),
    Role.VOTE_TIE: ("winner_tie",),
    Role.STRENGTH: ("strength",),
    Role.RANKS: ("rank", "ranks", "ranking", "rankings"),
    Role.SCORES: ("scores", "ratings", "rating", "rewards"),
    Role.SOURCES: ("sources", "models", "generation_models", "model_names", "response_models"),
    Role.FIRST_SOURCE: (
        "chosen_source",
        "chosen_model",
        "chosen_policy",
        "model_chosen",
        "source_chosen",
        "first_source",
        "chosen_model_name",
    ),
    Role.SECOND_SOURCE: (
        "rejected_source",
        "rejected_model",
        "rejected_policy",
        "model_rejected",
        "source_rejected",
        "second_source",
        "rejected_model_name",
    ),
    Role.RATER: ("judge", "annotator", "rater", "worker", "evaluator", "completed_by", "annotator_id", "labeler"),
    Role.JUDGMENTS: ("judgments", "annotations"),
    Role.NOTE: ("rationale", "justification"),
    Role.ID: ("external_id", "id", "_id", "uuid", "question_id", "prompt_id", "conversation_id", "comparison_id"),
    Role.PRIORITY: ("priority",),
    Role.GOLD: ("gold",),
    Role.ARM: ("arm",),
    Role.EXCLUDED: ("excluded",),
    Role.TOOLS: ("tools",),
    Role.WEIGHT: ("weight",),
    Role.P_CHOSEN: ("p_chosen",),
    Role.VOTES: ("votes",),
    Role.VOTES_CHOSEN: ("votes_chosen",),
}
BY_NAME = {name: role for role, names in ALIASES.items() for name in names}

SIDES = r"(?P<side>[a-f]|[0-9]|left|right|first|second)"
ANSWER_WORDS = (
    "response|answer|output|completion|generation|reply|candidate|summary|option|text|conversation|human_ref|ai_response|"
    "model_response|chat|dialogue|continuation"
)
ANSWER_SIDE = re.compile(
    rf"(?:(?P<word>{ANSWER_WORDS})_?{SIDES}|(?P<word2>model|assistant|response|answer)_{SIDES.replace('side', 'side2')}"
    rf"_(?:response|answer|output|completion|text|conversation)|{SIDES.replace('side', 'side3')}_(?P<word3>{ANSWER_WORDS}))\Z"
)
SOURCE_SIDE = re.compile(
    rf"(?:(?:model|source|generator|policy|model_name)_?{SIDES}(?:_name)?"
    rf"|(?:response|answer|output|completion)_?{SIDES.replace('side', 'side2')}_(?:source|model))\Z"
)
SCORE_SIDE = re.compile(rf"(?:score|rating|reward|votes?)_?{SIDES}\Z")
# Objects whose fields are columns: OpenAI's input, Label Studio's data, Argilla's fields, webgpt's question.
UNFOLDED = ("input", "data", "fields", "question", "row", "info")
# Columns of text that say something of a pair, and are never its prompt.
BESIDE = frozenset(
    re.findall(
        r"\w+",
        "source dataset category subset split language lang domain type task topic tag tags created_at updated_at "
        "timestamp date model model_name chosen_rating rejected_rating status name url license annotator worker judge "
        "_server_id label label_type metadata meta harm_category subcategory difficulty origin file version",
    )
)


def normal(column: str) -> str:
    """A column's name as it is looked up: `response-A` and `Response A` are `response_a`; `data.prompt` is `prompt`."""
    head, dot, tail = column.partition(".")
    if dot and head in UNFOLDED:
        column = tail
    return re.sub(r"[^a-z0-9_]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column).lower()).strip("_") or column


def side_of(pattern: re.Pattern[str], name: str) -> tuple[str, str] | None:
    """(what a numbered column is called, its letter or number), such as ("response", "a")."""
    match = pattern.match(name)
    if match is None:
        return None
    groups = match.groupdict()
    side = groups.get("side") or groups.get("side2") or groups.get("side3") or ""
    word = groups.get("word") or groups.get("word2") or groups.get("word3") or ""
    return word, side


def check_given(given: Mapping[str, str]) -> dict[str, Role]:
    """What a person said of columns, checked. Raises BadLine with what is wrong."""
    roles: dict[str, Role] = {}
    for column, word in given.items():
        try:
            role = Role(word)
        except ValueError:
            raise BadLine("bad_field", f"`{column}` can't become {shown(word)}. Choose one of {_choices()}.") from None
        if role is Role.EMPTY:
            raise BadLine("bad_field", f"`{column}` can't become {shown(word)}. Choose one of {_choices()}.")
        roles[column] = role
    return roles


def _choices() -> str:
    return ", ".join(role.value for role in Role if role is not Role.EMPTY)
