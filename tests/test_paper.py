"""The page about the paper has one row per figure and table, counts them, and links to places that exist."""

import re
from collections import Counter
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "paper.md"
EXAMPLES = Path(__file__).parents[1] / "examples" / "README.md"
TEXT = PAGE.read_text(encoding="utf-8")
VERDICTS = {
    "yes": "hold",
    "partly": "hold partly",
    "no": "do not hold",
    "not measured yet": "are not measured yet",
    "no claim": "make no claim",
}


def rows(text: str, what: str = r"(figures?|tables?) \d") -> list[list[str]]:
    """The cells of the rows whose first cell names such a part of the paper."""
    return [re.split(r"\s*\|\s*", line)[1:-1] for line in text.splitlines() if re.match(rf"\| {what}", line)]


def numbers(where: str) -> list[str]:
    """The figures or tables that a first cell names: "figures 10 to 12", "figures 17 and 18", "table 5"."""
    kind, span = where.split(" ", 1)
    ends = [int(number) for number in re.findall(r"\d+", span)]
    assert (len(ends) == 2) == kind.endswith("s")
    return [f"{kind.rstrip('s')} {number}" for number in range(ends[0], ends[-1] + 1)]


def sections(page: Path) -> dict[str, str]:
    """The text under each heading of a page, by the fragment that leads there."""
    parts = re.split(r"^(#+ .*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    names = [re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-") for heading in parts[1::2]]
    return dict(zip(names, parts[2::2], strict=True))


def test_every_figure_and_table_has_exactly_one_row():
    found = [number for row in rows(TEXT) for number in numbers(row[0])]
    assert found == [*(f"figure {n}" for n in range(1, 28)), *(f"table {n}" for n in range(1, 10))]


def test_the_summary_counts_the_verdicts():
    counts = Counter(row[3] for row in rows(TEXT) for _ in numbers(row[0]))
    assert set(counts) <= set(VERDICTS)
    (summary,) = re.findall(r"^Of 27 figures and 9 tables, (.*)\.$", TEXT, flags=re.MULTILINE)
    told = {words: int(number) for number, words in re.findall(r"(\d+) ([a-z ]+)", summary.replace(" and ", " "))}
    assert told == {words: counts[verdict] for verdict, words in VERDICTS.items() if words in told}
    assert sum(told.values()) == counts.total()
    assert f"Of 27 figures and 9 tables, {summary}.\n" in EXAMPLES.read_text(encoding="utf-8")


def test_a_verdict_has_a_measurement_with_a_link():
    for row in rows(TEXT) + rows(TEXT, "(appendix [A-Z]|discussion)"):
        assert len(row) == 5, row[0]
        assert row[3] not in ("yes", "partly", "no") or re.search(r"\]\([^)]+\)", row[2]), row[0]


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)]+#[^)]+)\)", TEXT))))
def test_every_fragment_is_a_heading(link):
    page, fragment = link.split("#")
    assert fragment in sections(PAGE.parent / page)


def test_a_measured_number_stands_in_a_section_that_its_row_links_to():
    """So that no row keeps the number of a table that was measured again."""
    for row in rows(TEXT) + rows(TEXT, "(appendix [A-Z]|discussion)"):
        links = [target.split("#") for target in re.findall(r"\]\(([^)]+#[^)]+)\)", row[2])]
        text = "".join(sections(PAGE.parent / page)[fragment] for page, fragment in links)
        quoted = re.findall(r"(?<![\d.])\d\.\d{3,}", row[2])
        assert [number for number in quoted if number not in text] == [], row[0]
