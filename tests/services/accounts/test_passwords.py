import pytest
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from app import security
from app.errors import Invalid
from app.services.accounts import passwords


def test_none_of_the_10_000_commonest_is_taken() -> None:
    common = FREQUENCY_LISTS["passwords"][: passwords.COMMONEST]
    assert len(common) == 10_000
    long_enough = [word for word in common if len(word) >= passwords.LENGTHS[0]]
    assert len(long_enough) > 100
    for word in long_enough:
        for written in (word, word.upper()):
            with pytest.raises(Invalid):
                passwords.check(written)


@pytest.mark.parametrize(
    "password",
    [
        "Prefloop2026!",
        "prefloop-admin",
        "preference.feedback",
        "checkpoint-1",
        "adalovelace1815",
        "Ada Lovelace!!",
        "qwertyuiop123",
        "1234567890abc",
        "password1234!",
        "abcabcabcabc",
        "aaaaabbbbb",
    ],
)
def test_what_stands_to_reason_is_refused(password: str) -> None:
    with pytest.raises(Invalid, match="easy to guess"):
        passwords.check(password, "ada", "Ada Lovelace")


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery",
        "vU7!kzq0-fmW",
        "four blue prefloop tractors",
        "größer als ein Wal",
        "x7" * 5 + "kqzj" * 30,
    ],
)
def test_what_is_hard_to_guess_is_taken(password: str) -> None:
    assert security.verify_password(password, passwords.hashed(password, "ada", "Ada Lovelace"))


@pytest.mark.parametrize("password", ["", "short", "x7!kq" * 50])
def test_too_short_and_too_long_ones_say_how_long(password: str) -> None:
    with pytest.raises(Invalid, match=f"10 to 200 characters; this one has {len(password)}"):
        passwords.check(password)
