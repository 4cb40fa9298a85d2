"""Which passwords are taken: long enough, and not among those that are guessed first."""

from app import security
from app.errors import Invalid

LENGTHS = (10, 200)
COMMONEST = 10_000
PRODUCT = ("prefloop", "preference", "preferences", "feedback", "dpo", "checkpoint", "evaluator", "engineer", "admin")
# The guesses that somebody needs who knows common passwords, names, dates and keyboards, by zxcvbn's reckoning.
FEWEST_GUESSES = 10**6
LEFT_OVER = 6  # letters and digits, beside the product's words and the person's names
READ = 72  # zxcvbn takes long over more; whatever follows makes a password only better


def check(password: str, *names: str) -> None:
    """Raises Invalid for a password that is too short, too long, common, or made of the product's words or of `names`."""
    shortest, longest = LENGTHS
    if not shortest <= len(password) <= longest:
        raise Invalid(
            f"A password has {shortest} to {longest} characters; this one has {len(password)}.",
            "Several words in a row are easy to remember.",
        )
    if len(set(password)) < 5 or is_guessed_first(password, *names):
        raise Invalid(
            "That password is easy to guess: it is a common one, or made of names and words that stand to reason.",
            "Take several words that have nothing to do with each other, or let a password manager make one.",
        )


def is_guessed_first(password: str, *names: str) -> bool:
    """Whether it is one of the 10,000 commonest, or would be guessed about as soon."""
    from zxcvbn import zxcvbn  # here, not above: it reads lists of words, and few processes need them
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    if password.lower() in FREQUENCY_LISTS["passwords"][:COMMONEST]:
        return True
    if any(len(name) > 3 and name.lower() in password.lower() for name in names):
        return True
    words = (word for name in names for word in name.lower().replace(".", " ").replace("-", " ").split())
    known = [*PRODUCT, *(word for word in words if len(word) > 2)]
    rest = password.lower()
    for word in sorted(known, key=len, reverse=True):
        rest = rest.replace(word, "")
    if rest != password.lower() and sum(letter.isalnum() for letter in rest) < LEFT_OVER:
        return True
    return bool(zxcvbn(password[:READ], user_inputs=known)["guesses"] < FEWEST_GUESSES)


def hashed(password: str, *names: str) -> str:
    """The hash of an acceptable password. Slow by design. Raises Invalid."""
    check(password, *names)
    return security.hash_password(password)
