"""Endpoints: which servers may be asked, and where their keys are."""

import pytest
from sqlalchemy import Engine, select

from app.config import Settings, get_settings
from app.db import read_session, write_session
from app.errors import Conflict, Invalid, NotFound, PrefloopError, Unavailable
from app.models import AuditEntry, Endpoint, Pairing
from app.services.loop import endpoints, generations
from app.services.loop.endpoints import EndpointRefused, Wanted
from app.services.loop.generating import prompts
from app.services.loop.generating.wanted import AnswerSource, Sampling
from tests.factory import Factory

URL = "http://127.0.0.1:8080/v1"


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PREFLOOP_ENDPOINT_HOSTS", "127.0.0.1:8080, Models.Example:443,[::1]:11434")
    get_settings.cache_clear()
    return get_settings()


def add(engine: Engine, settings: Settings, **wanted: object) -> Endpoint:
    with write_session(engine) as session:
        asked = Wanted(**{"name": "vllm", "base_url": URL, "model": "m", **wanted})
        return endpoints.add(session, wanted=asked, by=None, settings=settings)


def test_an_allowed_server_is_added(engine: Engine, settings: Settings) -> None:
    endpoint = add(engine, settings, name=" vLLM ", base_url=URL + "/", price_completion=2.5, currency="eur")
    assert (endpoint.name, endpoint.base_url, endpoint.currency) == ("vllm", URL, "EUR")
    with read_session(engine) as session:
        assert [one.id for one in endpoints.listing(session)] == [endpoint.id]
        assert endpoints.by_name(session, "vllm").id == endpoint.id
        entry = session.scalars(select(AuditEntry).where(AuditEntry.action == "endpoint.add")).one()
        assert entry.detail["base_url"] == URL


def test_an_address_fits_its_column(engine: Engine, settings: Settings) -> None:
    assert Endpoint.__table__.c.base_url.type.length == endpoints.LONGEST_URL
    longest = URL + "/" + "a" * (500 - len(URL) - 1)
    assert add(engine, settings, base_url=longest + "/").base_url == longest
    with pytest.raises(Invalid, match=r"501 characters\. Use up to 500") as refused:
        add(engine, settings, name="other", base_url=longest + "a")
    assert refused.value.details["field"] == "base_url"


@pytest.mark.parametrize("url", ["https://models.example/v1", "https://MODELS.example:443/v1", "http://[::1]:11434/v1"])
def test_a_server_is_known_by_host_and_port(settings: Settings, url: str) -> None:
    assert endpoints.checked_url(url, settings)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8081/v1",
        "http://127.0.0.1/v1",
        "http://models.example/v1",
        "https://models.example.evil:443/v1",
        "http://localhost:8080/v1",
        "http://169.254.169.254:80/latest",
    ],
)
def test_any_other_server_is_refused_by_the_name_of_the_setting(engine: Engine, settings: Settings, url: str) -> None:
    with pytest.raises(EndpointRefused, match="PREFLOOP_ENDPOINT_HOSTS"):
        add(engine, settings, base_url=url)


def test_nothing_is_allowed_by_default() -> None:
    with pytest.raises(EndpointRefused):
        endpoints.checked_url(URL, Settings(_env_file=None, endpoint_hosts=""))


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"name": "Ä"}, "name"),
        ({"model": " "}, "model"),
        ({"model": "a\nb"}, "model"),
        ({"base_url": "ftp://127.0.0.1:8080"}, "base_url"),
        ({"base_url": "http://user:pw@127.0.0.1:8080/v1"}, "base_url"),
        ({"base_url": "http://127.0.0.1:8080/v1?x=1"}, "base_url"),
        ({"key_variable": "PREFLOOP_SECRET_KEY"}, "key_variable"),
        ({"key_variable": "AWS_SECRET_ACCESS_KEY"}, "key_variable"),
        ({"key": "a\r\nX-Evil: 1"}, "key"),
        ({"key": "one", "key_variable": "PREFLOOP_ENDPOINT_KEY"}, "key"),
        ({"at_once": 0}, "at_once"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"price_prompt": -1.0, "currency": "EUR"}, "price_prompt"),
        ({"price_prompt": float("nan"), "currency": "EUR"}, "price_prompt"),
        ({"price_prompt": 1.0}, "currency"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    engine: Engine, settings: Settings, wanted: dict[str, object], field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        add(engine, settings, **wanted)
    assert refused.value.details["field"] == field


def test_a_key_is_sealed_and_opened_with_the_same_secret_alone(engine: Engine, settings: Settings) -> None:
    endpoint = add(engine, settings, key="sesame")
    assert "sesame" not in endpoint.key_sealed
    assert endpoints.key_of(endpoint, settings, {}) == "sesame"
    other = Settings(_env_file=None, secret_key="another-" * 5)
    with pytest.raises(Unavailable, match="PREFLOOP_SECRET_KEY"):
        endpoints.key_of(endpoint, other, {})


def test_a_key_in_the_environment_is_the_workers(engine: Engine, settings: Settings) -> None:
    endpoint = add(engine, settings, key_variable="PREFLOOP_ENDPOINT_KEY_VLLM")
    assert endpoints.key_of(endpoint, settings, {"PREFLOOP_ENDPOINT_KEY_VLLM": " k "}) == "k"
    with pytest.raises(Unavailable, match="PREFLOOP_ENDPOINT_KEY_VLLM"):
        endpoints.key_of(endpoint, settings, {})
    assert endpoints.key_of(add(engine, settings, name="open"), settings, {}) == ""


def test_a_name_is_taken_until_it_is_removed(engine: Engine, settings: Settings) -> None:
    first = add(engine, settings, key="sesame")
    with pytest.raises(Conflict):
        add(engine, settings)
    with write_session(engine) as session:
        endpoints.remove(session, endpoint=endpoints.get(session, first.id), by=None)
    second = add(engine, settings)
    with read_session(engine) as session:
        assert [one.id for one in endpoints.listing(session)] == [second.id]
        assert session.get_one(Endpoint, first.id).key_sealed == ""
        for number in (first.id, 999):
            with pytest.raises(NotFound):
                endpoints.get(session, number)


def test_a_generation_keeps_the_prices_of_its_start(engine: Engine, settings: Settings, factory: Factory) -> None:
    add(engine, settings, price_prompt=1.0, price_completion=2.0, currency="EUR")
    project = factory.project()
    ids = prompts.store(engine, project_id=project.id, given=prompts.read_given(["One?"]))
    asked = {"sampling": Sampling(), "prompts": ids, "samples": 2, "pairing": Pairing.ROUND_ROBIN}
    with write_session(engine) as session:
        project = session.merge(project)
        source = AnswerSource.endpoint("vllm")
        plan = generations.start(session, project=project, by=None, sources=[source], **asked)
        assert plan.sources[0]["price_completion"] == 2.0
        with pytest.raises(PrefloopError, match="vllm"):
            generations.start(session, project=project, by=None, sources=[AnswerSource.endpoint("nowhere")], **asked)


def change(
    engine: Engine, settings: Settings, endpoint: Endpoint, drop_key: bool = False, **wanted: object
) -> Endpoint:
    with write_session(engine) as session:
        row = endpoints.get(session, endpoint.id)
        asked = Wanted(**{"name": "vllm", "base_url": URL, "model": "m", **wanted})
        return endpoints.change(session, endpoint=row, wanted=asked, by=None, settings=settings, drop_key=drop_key)


def test_a_server_is_described_anew_and_keeps_its_key(engine: Engine, settings: Settings) -> None:
    first = add(engine, settings, key="sesame", price_prompt=1.0, currency="EUR")
    changed = change(engine, settings, first, name="other", model="m2", base_url=URL + "/x", at_once=7)
    assert (changed.id, changed.name, changed.model, changed.at_once) == (first.id, "other", "m2", 7)
    assert (changed.base_url, changed.price_prompt) == (URL + "/x", None)
    assert endpoints.key_of(changed, settings, {}) == "sesame"
    assert endpoints.key_of(change(engine, settings, first, key="open"), settings, {}) == "open"
    by_variable = change(engine, settings, first, key_variable="PREFLOOP_ENDPOINT_KEY_A")
    assert (by_variable.key_sealed, by_variable.key_variable) == ("", "PREFLOOP_ENDPOINT_KEY_A")
    assert change(engine, settings, first).key_variable == "PREFLOOP_ENDPOINT_KEY_A"
    assert change(engine, settings, first, drop_key=True).key_variable == ""
    with read_session(engine) as session:
        told = session.scalars(select(AuditEntry.detail).where(AuditEntry.action == "endpoint.change")).all()
    assert [one["key"] for one in told] == ["sealed", "sealed", *["PREFLOOP_ENDPOINT_KEY_A"] * 2, "none"]


def test_a_key_goes_to_no_server_that_it_was_not_given_for(engine: Engine, settings: Settings) -> None:
    first, elsewhere = add(engine, settings, key="sesame"), "https://models.example/v1"
    with pytest.raises(Invalid, match="The key of vllm was given for 127"):
        change(engine, settings, first, base_url=elsewhere)
    assert change(engine, settings, first, base_url=elsewhere, drop_key=True).key_sealed == ""
    assert change(engine, settings, first, base_url=URL, key="again").key_sealed
    assert change(engine, settings, first, base_url=elsewhere, key="third").base_url == elsewhere


def test_what_cannot_be_is_refused_as_for_a_new_one(engine: Engine, settings: Settings) -> None:
    first = add(engine, settings)
    add(engine, settings, name="taken")
    with pytest.raises(Conflict, match="named taken already"):
        change(engine, settings, first, name="taken")
    with pytest.raises(EndpointRefused):
        change(engine, settings, first, base_url="http://127.0.0.1:9/v1")
    with pytest.raises(Invalid):
        change(engine, settings, first, model="")
    with read_session(engine) as session:
        assert endpoints.get(session, first.id).name == "vllm", "nothing was changed"
