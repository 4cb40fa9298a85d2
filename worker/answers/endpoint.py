"""A server with OpenAI's chat completions: few calls at once, no more a minute than it takes, patient with one that is busy."""

import asyncio
import hashlib
import json
import os
import random
import ssl
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import httpx

from worker.answers import reply
from worker.answers.address import Pinned, pin
from worker.answers.reply import AskLater, PromptRefused, Reply
from worker.answers.told import Failed, Progress, Stopped

TRIES = 6
PATIENT = 4  # times as long until a busy server is asked again that doesn't say when: six tries span a minute
LONGEST_WAIT = 600.0
LARGEST_REPLY = 4_000_000  # bytes
REFUSED_IN_A_ROW = 10
STOPPING_SECONDS = 5.0
GREETING = [{"role": "user", "content": "Hello."}]


def ask(source: Mapping[str, Any], *, before: int, progress: Progress, stop: threading.Event) -> None:
    """Ask for the answers that are missing. before: answers that are there without this attempt's of this source.

    Raises Failed, with what arrived written, and Stopped after SIGTERM.
    """
    try:
        with Path(source["out"]).open("a", encoding="utf-8") as file:
            asyncio.run(_Asking(source, file, before, progress).run(stop))
    except Failed as problem:
        raise Failed(problem.reason, f"{source['title']}: {problem.message}", problem.code) from None


class _Asking:
    """One source's calls. `not_before`: when the server wants the next one at the earliest."""

    def __init__(self, source: Mapping[str, Any], file: TextIO, before: int, progress: Progress) -> None:
        self.source, self.file, self.before, self.progress = source, file, before, progress
        self.made, self.tokens, self.refused = 0, 0, 0
        self.not_before = self.next_turn = 0.0
        self.calls = 0
        self.tasks: list[asyncio.Task[None]] = []
        self.stopping = asyncio.Event()
        # An iterator that several tasks share: each takes the next question.
        self.questions = iter(self._missing())

    def _missing(self) -> list[tuple[int, int, list[dict[str, str]]]]:
        """(line, sample, messages) of each answer that isn't there."""
        with Path(self.source["data"]).open(encoding="utf-8") as file:
            prompts = [json.loads(line)["prompt"] for line in file]
        return [(line, sample, prompts[line - 1]) for line, sample in self.source["questions"]]

    async def run(self, stop: threading.Event) -> None:
        began = time.monotonic()
        self.pinned = pin(self.source["base_url"])
        self.progress.say("state", stage="asking", total_steps=self.progress.wanted)
        async with self._client() as client:
            self.tasks = [asyncio.create_task(self._work(client)) for _ in range(self.source["at_once"])]
            watching = asyncio.create_task(self._watch(stop))
            try:
                with suppress(asyncio.CancelledError):
                    await asyncio.gather(*self.tasks)
            finally:
                for task in (*self.tasks, watching):
                    task.cancel()
                await asyncio.gather(*self.tasks, watching, return_exceptions=True)
        seconds = time.monotonic() - began
        self.progress.say(
            "log",
            message=f"{self.source['title']}: {self.made} answers in {seconds:.0f} s, {self.tokens} tokens.",
            source=self.source["number"], made=self.made, tokens=self.tokens, seconds=round(seconds, 3),
        )  # fmt: skip
        if stop.is_set():
            raise Stopped

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        key = os.environ.get(self.source["key"], "") if self.source["key"] else ""
        headers = {"host": self.pinned.host, "accept-encoding": "identity", "user-agent": "prefloop"}
        headers |= {"authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(
            headers=headers,
            verify=ssl.create_default_context(),
            trust_env=False,  # no proxy, no .netrc: what is asked is the address that was looked up
            follow_redirects=False,
            timeout=self.source["seconds"],
            limits=httpx.Limits(max_connections=self.source["at_once"]),
        ) as client:
            yield client

    async def _watch(self, stop: threading.Event) -> None:
        """After SIGTERM nothing more is asked; calls in flight may end, those that take too long are given up."""
        while not stop.is_set():
            await asyncio.sleep(0.1)
        self.stopping.set()
        until = time.monotonic() + STOPPING_SECONDS
        while self.calls and time.monotonic() < until:
            await asyncio.sleep(0.05)
        for task in self.tasks:
            task.cancel()

    async def _work(self, client: httpx.AsyncClient) -> None:
        for line, sample, messages in self.questions:
            if self.stopping.is_set():
                return
            seed = self._seed(messages, sample)
            answer: dict[str, Any] = {"line": line, "sample": sample, "seed": seed}
            try:
                given = await self._patiently(client, messages, seed)
                self.refused = 0
            except PromptRefused as why:
                self.refused += 1
                if self.refused >= REFUSED_IN_A_ROW and not self.made:
                    raise Failed(
                        "endpoint_failed", f"It refused {self.refused} prompts and answered none. {why}"
                    ) from None
                answer |= {"completion": str(why), "tokens": None, "finish": "failed"}
            else:
                self.made += 1
                self.tokens += given.tokens or 0
                answer |= {"completion": given.text, "tokens": given.tokens, "finish": given.finish}
                answer |= {"prompt_tokens": given.prompt_tokens}
            # ASCII: half surrogates, which a server may send, can't be written otherwise.
            self.file.write(json.dumps(answer) + "\n")
            self.file.flush()
            self.before += 1
            self.progress.there(self.before)

    async def _patiently(self, client: httpx.AsyncClient, messages: list[dict[str, str]], seed: int) -> Reply:
        """Ask until there is an answer, waiting longer each time and as long as the server wants. After some tries raises Failed,
        but PromptRefused where the server answers something else: one prompt that it breaks on keeps no other from it."""
        for number in range(TRIES):
            await self._turn()
            try:
                return await self._once(client, messages, seed)
            except AskLater as later:
                if number == TRIES - 1:
                    why = f"It was asked {TRIES} times and didn't answer: {later.why}."
                    if not later.busy and await self._answers(client, GREETING):
                        raise PromptRefused(why) from None
                    raise Failed(
                        "endpoint_unavailable", f"{why} What arrived is kept; press Retry when it is there again."
                    ) from None
                wait = self.source.get("backoff_seconds", 0.5) * 2**number * random.uniform(0.5, 1)  # noqa: S311
                wait *= PATIENT if later.busy else 1
                if later.seconds is not None:
                    wait = min(later.seconds, LONGEST_WAIT)
                    self.not_before = max(self.not_before, time.monotonic() + wait)
                message = f"{self.source['title']}: {later.why}; asking again in {wait:.1f} s."
                self.progress.say("log", message=message, level="warning")
                await asyncio.sleep(wait)
        raise AssertionError

    async def _answers(self, client: httpx.AsyncClient, messages: list[dict[str, str]]) -> bool:
        """Whether the server answers a prompt, whatever it says."""
        await self._turn()
        try:
            await self._once(client, messages, 0)
        except PromptRefused:
            return True
        except AskLater:
            return False
        return True

    async def _turn(self) -> None:
        """Wait for the server's own time, and for a turn among those of a minute."""
        rate = self.source["requests_per_minute"]
        while (wait := max(self.not_before, self.next_turn) - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        if rate:
            self.next_turn = max(self.next_turn, time.monotonic()) + 60 / rate

    async def _once(self, client: httpx.AsyncClient, messages: list[dict[str, str]], seed: int) -> Reply:
        """One call, its time and the size of what it sends bounded. Raises what `reply.read` raises."""
        sampling = self.source["sampling"]
        asked = {
            "model": self.source["model"],
            "messages": messages,
            "max_tokens": sampling["max_new_tokens"],
            "temperature": sampling["temperature"],
            "top_p": sampling["top_p"],
            "seed": seed,
            "stream": False,
        }
        url = f"{self.pinned.url}/chat/completions"
        self.calls += 1
        try:
            async with (
                asyncio.timeout(self.source["seconds"]),
                client.stream("POST", url, json=asked, extensions={"sni_hostname": self.pinned.name}) as told,
            ):
                body = b""
                async for part in told.aiter_raw():
                    body += part
                    if len(body) > LARGEST_REPLY:
                        raise AskLater(f"it sent more than {LARGEST_REPLY:,} bytes")
        except TimeoutError:
            raise AskLater(f"it didn't answer within {self.source['seconds']:g} s") from None
        except httpx.TimeoutException:
            raise AskLater(f"it didn't answer within {self.source['seconds']:g} s") from None
        except httpx.HTTPError as problem:
            gone = isinstance(problem, httpx.ConnectError)
            raise AskLater(f"it can't be reached ({str(problem) or type(problem).__name__})", busy=gone) from None
        finally:
            self.calls -= 1
        return reply.read(
            told.status_code,
            told.headers.get("retry-after"),
            body,
            url=self.source["base_url"],
            model=self.source["model"],
        )

    def _seed(self, messages: list[dict[str, str]], sample: int) -> int:
        """The answer's own, which is passed on; whether the server does anything with it is its affair."""
        facts = json.dumps([self.source["sampling"]["seed"], messages, sample]).encode()
        return int.from_bytes(hashlib.sha256(facts).digest()[:4]) >> 1

    pinned: Pinned
