"""LaTeX is kept and drawn; what isn't LaTeX, or can't be drawn whole, stands as it was written."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.web.text import formulas
from app.web.text.formulas import BRACES_LIMIT, FORMULA_LIMIT, FORMULA_START, FORMULAS_TOTAL
from app.web.text.markup import to_html as markdown
from tests.web.text.test_markup import Elements, assert_harmless


def drawn(text: str) -> list[str]:
    """The text of each formula that was drawn."""
    return [Elements(formula).text for formula in re.findall(r"<math.*?</math>", markdown(text), re.DOTALL)]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (r"\(x^2\)", ["x2"]),
        (r"\[ \frac{a}{b} \]", ["ab"]),
        ("$$a = b$$", ["a=b"]),
        ("$n$, $2x$, $a/b$ and $f(x)$", ["n", "2x", "a/b", "f(x)"]),
        (r"so \(42\) it is", ["42"]),
        ("$$\nx = 1\n- 2\n+ 3\n$$", ["x=1−2+3"]),
        ("- item\n\n  \\[\n  a\n  \\]", ["a"]),
        ("> $$a$$", ["a"]),
        (r"| a |" + "\n|---|\n" + r"| $x_1$ |", ["x1"]),
        (r"**bold \(x\)**", ["x"]),
        (r"$\text{a < b & c}$", ["a\xa0<\xa0b\xa0&\xa0c"]),
    ],
)
def test_formulas_are_drawn(text: str, shown: list[str]) -> None:
    assert drawn(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and $10.",
        "From $5k/$6k to $20,000-$30,000.",
        "US$ and A$, 3$ or 4$",
        "$HOME/bin and $PATH",
        "$HOME and $PATH/$x",
        r"\$5 and \$6",
        r"\(see below\) and \[not a link\]",
        "`$x$` and `\\(y\\)`",
        "```\n$$x$$\n```",
        r"$\undefined{x}$",
        r"\(\color{white}{x}\)",
        r"$\phantom{x}$",
        r"$\hspace{900em}x$",
        r"\(x^2",
        "$x",
        r"\\(x\\)",
        r"[ \begin{bmatrix} a & b \\ c & d \end{bmatrix} ]",
        "$a\n\nb$",
    ],
)
def test_everything_else_keeps_its_signs(text: str) -> None:
    assert "<math" not in markdown(text)
    assert Elements(markdown(text)).text.split() == text.replace("`", "").split()


@pytest.mark.parametrize(
    "text",
    [
        "$" + "x_" * FORMULA_LIMIT + "1$",
        r"\(" + "{" * (BRACES_LIMIT + 1) + "x" + "}" * (BRACES_LIMIT + 1) + r"\)",
        r"\(" + r"\begin{matrix}" * 50 + r"\end{matrix}" * 50 + r"\)",
        r"\(" + "{" * 1000 + r"\)",
    ],
    ids=lambda text: text[:12],
)
def test_formulas_that_would_keep_the_converter_busy_stand_as_they_were_written(text: str) -> None:
    assert "<math" not in markdown(text)
    assert Elements(markdown(text)).text.strip() == text


def test_one_text_has_only_so_much_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    count = FORMULAS_TOTAL // (FORMULA_START + 1)
    html = markdown(r"\(x\) " * (count + 10))
    assert html.count("<math") == count
    assert html.count('class="tex"') == 10


def test_a_name_that_hides_stays_out_of_the_list() -> None:
    assert not formulas.ELEMENTS & {
        "mphantom",
        "maction",
        "semantics",
        "annotation",
        "annotation-xml",
        "mglyph",
        "mlabeledtr",
    }
    named = set().union(*formulas.ATTRIBUTES.values())
    assert not named & {"href", "class", "style", "id", "mathcolor", "mathbackground", "mathsize", "src"}


TEX = st.sampled_from(
    [
        *"xy123+-=<>&^_{}()[]|'\" \n",
        *(
            "\\frac",
            "\\sqrt",
            "\\text{",
            "\\begin{matrix}",
            "\\end{matrix}",
            "\\\\",
            "\\left",
            "\\right",
            "\\mathbb",
            "\\sum",
        ),
        *("\\limits", "\\,", "\\hspace{2em}", "\\tag{1}", "\\over", "$", "\\)", "&#x3c;", "\ue000"),
        *("\\href{javascript:x}", "\\style{a:b}", "\\color{red}", "<script>", "\\class{x}", "\\unicode{x3c}"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(TEX, max_size=25).map("".join),
    st.sampled_from(["\\({}\\)", "\\[{}\\]", "$${}$$", "${}$", "x\n$$\n{}\n$$\ny"]),
)
def test_no_formula_at_all_makes_anything_but_the_listed_elements(tex: str, around: str) -> None:
    assert_harmless(markdown(around.replace("{}", tex)))
