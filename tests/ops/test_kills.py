"""A web server that is killed while people judge: what was acknowledged is there, and nothing twice."""

import http.client
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlencode

import pytest
from sqlalchemy import Engine, select

from app.config import Settings
from app.db import read_session, write_session
from app.models import Judgment, Project, Slot, SlotState
from app.security import cookie_name
from app.services.accounts import sessions
from app.services.collecting import pairs, recount
from app.services.collecting.pairs import NewPair
from tests.conftest import ROOT
from tests.factory import Factory
from tests.services_for_tests import free_port

ROUNDS, PEOPLE, PAIRS, WANTED = 20, 6, 1_500, 2
TOKEN = re.compile(r'name="token" value="([^"]+)"')
NOTICE = re.compile(r'class="desk-notice" role="status">([^<]+)')
CHOICES = ("left", "tie", "right", "left", "skip", "both_bad", "right")


@dataclass
class Person:
    """Judges without a pause. A judgment that wasn't answered is sent again, as the page does when the server is back."""

    port: int
    path: str
    cookie: str
    token: str = ""
    choice: str = "left"
    acknowledged: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def work(self, over: threading.Event) -> None:
        while not over.is_set() and not self.refusals:
            with suppress(OSError, http.client.HTTPException):
                self.token = self.token or self._page("GET")
                if not self.token:
                    return
                # Sent again with the same choice until it is acknowledged, whoever answers.
                following = self._page("POST", {"token": self.token, "choice": self.choice})
                self.acknowledged.append(self.token)
                self.token = following
                self.choice = CHOICES[len(self.acknowledged) % len(CHOICES)]

    def _page(self, method: str, form: dict[str, str] | None = None) -> str:
        """The token of the pair in the answer. Raises an OSError, and changes nothing, where none came."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Cookie": self.cookie, "Sec-Fetch-Site": "same-origin", "HX-Request": "true"}
        if form:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            connection.request(method, self.path, urlencode(form or {}), headers)
            reply = connection.getresponse()
            text = reply.read().decode()
        finally:
            connection.close()
        if reply.status != 200 or (form and "saved." not in text):
            self.refusals.append(f"{reply.status} {NOTICE.findall(text) or text}")
        token = TOKEN.search(text)
        return token[1] if token else ""


def start(settings: Settings, port: int) -> subprocess.Popen[bytes]:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    log = (settings.data_dir / "serve.log").open("ab")
    server = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "serve"],
        cwd=ROOT,
        env=os.environ | {"PREFLOOP_PORT": str(port)},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    for _ in range(1200):
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5):
            return server
        assert server.poll() is None, (settings.data_dir / "serve.log").read_text()[-4000:]
        time.sleep(0.02)
    raise AssertionError("the server did not start")


def filled(factory: Factory) -> Project:
    project = factory.project(judgments_per_comparison=WANTED)
    with write_session(factory.engine) as session:
        new = [NewPair([{"role": "user", "content": f"{number}?"}], ("Yes.", "No.")) for number in range(PAIRS)]
        pairs.add_many(session, project=session.merge(project), pairs=new)
    return project


@pytest.mark.long
@pytest.mark.timeout(900)  # the server starts anew each time, which a busy machine takes long for
def test_twenty_kills_lose_nothing_and_double_nothing(settings: Settings, engine: Engine, factory: Factory) -> None:
    project, port, chance = filled(factory), free_port(), random.Random(5)
    people = []
    for _ in range(PEOPLE):
        with write_session(engine) as session:
            token = sessions.start(session, user=session.merge(factory.user()))
        people.append(Person(port, f"/projects/{project.slug}/compare", f"{cookie_name(settings)}={token}"))
    interrupted = 0
    for number in range(ROUNDS):
        server, over = start(settings, port), threading.Event()
        threads = [threading.Thread(target=person.work, args=(over,)) for person in people]
        done = sum(len(person.acknowledged) for person in people)
        for thread in threads:
            thread.start()
        wanted = done + chance.randrange(5, 40)
        while sum(len(person.acknowledged) for person in people) < wanted and server.poll() is None:
            time.sleep(0.001)
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        over.set()
        for thread in threads:
            thread.join()
        assert [person.refusals for person in people if person.refusals] == []
        interrupted += sum(bool(person.token) for person in people)
        assert sum(len(person.acknowledged) for person in people) >= wanted, number
    assert interrupted > ROUNDS  # judgments were under way when the server died

    server = start(settings, port)  # what was under way is sent again
    for person in people:
        over = threading.Event()
        sent = len(person.acknowledged)
        thread = threading.Thread(target=person.work, args=(over,))
        thread.start()
        while len(person.acknowledged) == sent and thread.is_alive():
            time.sleep(0.01)
        over.set()
        thread.join()
        assert person.refusals == [] and len(person.acknowledged) > sent
    os.killpg(server.pid, signal.SIGTERM)
    server.wait(30)
    check(engine, [token for person in people for token in person.acknowledged])


def check(engine: Engine, acknowledged: list[str]) -> None:
    with read_session(engine) as session:
        recount.at_one_moment(session)
        assert recount.check(session) == []
        rows = list(session.scalars(select(Judgment)))
        slots = list(session.scalars(select(Slot)))
    assert len(set(acknowledged)) == len(acknowledged)
    assert set(acknowledged) <= {row.lease_token for row in rows}
    assert max(Counter((row.comparison_id, row.user_id) for row in rows).values()) == 1
    done = Counter((slot.id, slot.comparison_id, slot.holder_id) for slot in slots if slot.state is SlotState.DONE)
    assert done == Counter((row.slot_id, row.comparison_id, row.user_id) for row in rows if row.slot_id is not None)
