"""A run at a terminal: one progress bar that follows it, with lines of note above."""

from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Terminal:
    """One progress bar that follows the run, with lines of note above it."""

    METRICS = ("loss", "rewards/margins", "rewards/accuracies")

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
            console=self._console,
        )
        self._task: TaskID | None = None

    def show(self, event: str, step: int | None, fields: dict[str, Any]) -> None:
        if event == "state":
            self._bar(str(fields.get("stage", fields.get("state", ""))), fields.get("total_steps"), step)
        elif event == "step":
            self._bar(None, fields.get("total_steps"), step, self._summary(fields))
        elif event == "eval":
            self._say(f"eval at step {step}: {self._summary(fields, 'eval_')}")
        elif event == "sample":
            self._say(f"sample at step {step}: {fields.get('completion', fields.get('text', ''))}")
        elif event == "error":
            self._say(f"error: {fields.get('message', fields)}", style="bold red")
        elif event == "done":
            self.close()
            self._say("done " + self._plain(fields))
        else:
            self._say(str(fields.get("message", self._plain(fields))))

    def _bar(self, description: str | None, total: int | None, step: int | None, metrics: str | None = None) -> None:
        if self._task is None:
            self._progress.start()
            self._task = self._progress.add_task(description or "", total=total, metrics="")
        changes: dict[str, Any] = {"description": description, "total": total, "completed": step}
        self._progress.update(self._task, **{key: item for key, item in changes.items() if item is not None})
        if metrics is not None:
            self._progress.update(self._task, metrics=metrics)

    def _summary(self, fields: dict[str, Any], prefix: str = "") -> str:
        values = ((name, fields.get(prefix + name, fields.get(name))) for name in self.METRICS)
        return escape(" ".join(f"{name} {value:.4f}" for name, value in values if isinstance(value, float)))

    @staticmethod
    def _plain(fields: dict[str, Any]) -> str:
        return " ".join(f"{key}={value}" for key, value in fields.items() if not isinstance(value, dict | list))

    def _say(self, text: str, style: str | None = None) -> None:
        # Without markup: the text may hold a model's own words in brackets.
        self._console.print(text, style=style, markup=False, highlight=False)

    def close(self) -> None:
        if self._task is not None:
            self._progress.stop()
            self._task = None
