"""People at the desk, as lean as they come: a process of its own, so that what it costs is no part of the server's figures.

Reads a plan from standard input and writes what happened to standard output, both JSON; bench.desk_load starts it. Each evaluator has a
connection that is kept, as a browser's is, and sends what the page's form sends: a judgment, which is answered with the next pair.
"""

import asyncio
import json
import random
import re
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from urllib.parse import quote

TOKEN = re.compile(rb'name="token" value="([^"]+)"')
SAVED = re.compile(rb'data-said="[^"]*saved\.')
CHOICES = ("left", "right", "tie", "left", "right", "both_bad", "left", "right")
SKIP_EVERY = 50
PATIENCE_SECONDS = 60


@dataclass
class Plan:
    """`seconds` of judging without a pause; with `rate`, so many judgments a second at random (Poisson) by whoever is free;
    with `until_empty`, until nobody has a pair left. `warm` seconds before are not measured."""

    port: int
    slug: str
    cookies: list[str]
    seconds: float
    warm: float = 2.0
    rate: float = 0.0
    until_empty: bool = False
    skips: bool = True


@dataclass
class Outcome:
    """`latencies` in seconds, counted from when a judgment was due. `judged` by evaluator. `acknowledged`: the tokens of all judgments
    that the server said were saved."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    judged: list[int] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    acknowledged: list[str] = field(default_factory=list)


class Evaluator(asyncio.Protocol):
    def __init__(self, plan: Plan, number: int, outcome: Outcome) -> None:
        self.plan, self.number, self.outcome = plan, number, outcome
        self.path = f"/projects/{plan.slug}/compare"
        self.token = b""
        self.sent = 0
        self.transport: asyncio.Transport | None = None
        self.buffer = bytearray()
        self.missing = -1
        self.answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionError("closed before the answer"))

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.missing < 0:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            length = re.search(rb"(?i)\r\ncontent-length: (\d+)", self.buffer[:end])
            self.missing = end + 4 + (int(length[1]) if length else 0)
        if len(self.buffer) >= self.missing and self.answer is not None and not self.answer.done():
            answer = bytes(self.buffer[: self.missing])
            del self.buffer[: self.missing]
            self.missing = -1
            self.answer.set_result(answer)

    async def ask(self, method: str, body: str = "") -> bytes:
        """The whole answer. A connection that the server closed meanwhile is opened anew, as browsers do."""
        head = (
            f"{method} {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.plan.port}\r\nCookie: {self.plan.cookies[self.number]}\r\n"
            "Sec-Fetch-Site: same-origin\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n"
        )
        if method == "POST":
            head += f"HX-Request: true\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n"
        request = f"{head}\r\n{body}".encode()
        loop = asyncio.get_running_loop()
        for again in range(3):
            if self.transport is None or self.transport.is_closing():
                self.buffer.clear()
                self.missing = -1
                await loop.create_connection(lambda: self, "127.0.0.1", self.plan.port)
            self.answer = loop.create_future()
            assert self.transport is not None
            self.transport.write(request)
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    return await self.answer
            except (ConnectionError, TimeoutError) as error:
                self.outcome.statuses[type(error).__name__ if again else "reconnected"] += 1
                if self.transport is not None:
                    self.transport.abort()
                    self.transport = None
        raise ConnectionError("no answer")

    async def open(self) -> None:
        answer = await self.ask("GET")
        token = TOKEN.search(answer)
        self.token = token[1] if token else b""

    async def judge(self) -> bool:
        """One judgment and the next pair; whether the server said that it is saved."""
        self.sent += 1
        choice = "skip" if self.plan.skips and self.sent % SKIP_EVERY == 0 else CHOICES[self.sent % len(CHOICES)]
        token = self.token.decode()
        answer = await self.ask("POST", f"token={quote(token)}&choice={choice}&seen_guidelines=1&strength=&rationale=")
        status = answer[9:12].decode()
        self.outcome.statuses[status] += 1
        is_saved = status == "200" and SAVED.search(answer) is not None
        if is_saved:
            self.outcome.acknowledged.append(token)
            following = TOKEN.search(answer)
            self.token = following[1] if following else b""
        elif status == "200":
            self.outcome.statuses["not saved"] += 1
            await self.open()
        return is_saved


async def carry_out(plan: Plan) -> Outcome:
    outcome = Outcome(judged=[0] * len(plan.cookies))
    people = [Evaluator(plan, number, outcome) for number in range(len(plan.cookies))]
    for person in people:
        await person.open()
    print("ready", file=sys.stderr, flush=True)
    loop = asyncio.get_running_loop()
    began = loop.time() + plan.warm
    until = began + plan.seconds
    loop.call_at(began, lambda: print("begin", file=sys.stderr, flush=True))

    def note(person: Evaluator, due: float, done: float) -> None:
        if due >= began:
            outcome.latencies.append(done - due)
            outcome.judged[person.number] += 1

    async def without_pause(person: Evaluator) -> None:
        while person.token and (plan.until_empty or loop.time() < until):
            due = loop.time()
            if await person.judge():
                note(person, due, loop.time())
            if plan.until_empty and not person.token:
                await asyncio.sleep(0.05)
                await person.open()  # what others held may have come back

    async def at_random() -> None:
        free: asyncio.Queue[Evaluator] = asyncio.Queue()
        random.shuffle(people)
        for person in people:
            free.put_nowait(person)
        running: set[asyncio.Task[None]] = set()

        async def one(due: float) -> None:
            person = await free.get()
            try:
                if await person.judge():
                    note(person, due, loop.time())
            finally:
                free.put_nowait(person)

        due = loop.time()
        while (due := due + random.expovariate(plan.rate)) < until:
            await asyncio.sleep(max(0.0, due - loop.time()))
            task = asyncio.create_task(one(due))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)

    if plan.rate:
        await at_random()
    else:
        await asyncio.gather(*(without_pause(person) for person in people))
    outcome.seconds = (loop.time() if plan.until_empty else min(loop.time(), until)) - began
    print("end", file=sys.stderr, flush=True)
    return outcome


def main() -> None:
    plan = Plan(**json.load(sys.stdin))
    began = time.process_time()
    outcome = asyncio.run(carry_out(plan))
    print(json.dumps(vars(outcome) | {"own_cpu": time.process_time() - began}))


if __name__ == "__main__":
    main()
