"""The tables, a file a noun."""

from app.models.alias import Alias, AliasEvent, Deed, NeededVerdict
from app.models.arm_trial import ArmTrial, ArmTrialRun, TrialState
from app.models.audit import AuditEntry
from app.models.base import Base
from app.models.checkpoint import Checkpoint, CheckpointFile, Stage
from app.models.comparison import (
    Arm,
    Choice,
    Comparison,
    Prompt,
    PromptGroup,
    PromptKey,
    Response,
    Showing,
    Side,
    Slot,
    SlotState,
    SourceKind,
    Split,
)
from app.models.continuation import Continuation
from app.models.count import EvaluatorCount, ProjectCount
from app.models.evaluation import EVALUATION_TRANSITIONS, Evaluation, EvaluationPair, EvaluationState
from app.models.exclusion import Exclusion, ExclusionKind, LeftoverFile
from app.models.export import Export, ExportFormat
from app.models.extract import Container, Extract, ExtractForm, ExtractState
from app.models.figures import KeptFigures
from app.models.freezing import Freezing, FreezingState
from app.models.generation import Endpoint, Finish, GeneratedAnswer, GenerationPlan, Pairing, Purpose
from app.models.guess import EvaluationGuess
from app.models.importing import ColumnMap, Difference, Import, ImportReport, ImportState, Rejection
from app.models.job import FINISHED, TRANSITIONS, EventType, Job, JobEvent, JobKind, JobState
from app.models.judgment import Judgment, JudgmentSource
from app.models.label_check import CheckedPair, LabelCheck
from app.models.lineage import ExclusionMark, Retraining, SnapshotBlock
from app.models.membership import Membership, ProjectRole, PromisedMembership, TokenProject
from app.models.passkey import Passkey, PasskeyChallenge
from app.models.person_study import PersonRun, PersonStudy
from app.models.project import Guideline, Project
from app.models.round import ROUND_TRANSITIONS, Round, RoundState, RoundStep
from app.models.snapshot import Agreed, Counts, Evaluator, Sides, Snapshot, Source, Statistics, Warned
from app.models.training_run import TrainingRun
from app.models.user import ApiToken, Link, LinkKind, LoginAttempt, RecoveryCode, Role, User, UserSession
from app.models.worker import Worker

__all__ = [
    "EVALUATION_TRANSITIONS",
    "FINISHED",
    "ROUND_TRANSITIONS",
    "TRANSITIONS",
    "Agreed",
    "Alias",
    "AliasEvent",
    "ApiToken",
    "Arm",
    "ArmTrial",
    "ArmTrialRun",
    "AuditEntry",
    "Base",
    "CheckedPair",
    "Checkpoint",
    "CheckpointFile",
    "Choice",
    "ColumnMap",
    "Comparison",
    "Container",
    "Continuation",
    "Counts",
    "Deed",
    "Difference",
    "Endpoint",
    "Evaluation",
    "EvaluationGuess",
    "EvaluationPair",
    "EvaluationState",
    "Evaluator",
    "EvaluatorCount",
    "EventType",
    "Exclusion",
    "ExclusionKind",
    "ExclusionMark",
    "Export",
    "ExportFormat",
    "Extract",
    "ExtractForm",
    "ExtractState",
    "Finish",
    "Freezing",
    "FreezingState",
    "GeneratedAnswer",
    "GenerationPlan",
    "Guideline",
    "Import",
    "ImportReport",
    "ImportState",
    "Job",
    "JobEvent",
    "JobKind",
    "JobState",
    "Judgment",
    "JudgmentSource",
    "KeptFigures",
    "LabelCheck",
    "LeftoverFile",
    "Link",
    "LinkKind",
    "LoginAttempt",
    "Membership",
    "NeededVerdict",
    "Pairing",
    "Passkey",
    "PasskeyChallenge",
    "PersonRun",
    "PersonStudy",
    "Project",
    "ProjectCount",
    "ProjectRole",
    "PromisedMembership",
    "Prompt",
    "PromptGroup",
    "PromptKey",
    "Purpose",
    "RecoveryCode",
    "Rejection",
    "Response",
    "Retraining",
    "Role",
    "Round",
    "RoundState",
    "RoundStep",
    "Showing",
    "Side",
    "Sides",
    "Slot",
    "SlotState",
    "Snapshot",
    "SnapshotBlock",
    "Source",
    "SourceKind",
    "Split",
    "Stage",
    "Statistics",
    "TokenProject",
    "TrainingRun",
    "TrialState",
    "User",
    "UserSession",
    "Warned",
    "Worker",
]
