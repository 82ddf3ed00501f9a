"""docs/troubleshooting.md has an entry for every message of the program, and none for a message that is not there.

A message matches an entry that quotes a part of it. A setting's message is also found by its key, since it carries its
remedy with it.
"""

import re
from pathlib import Path

from sdft_ray.config import AlarmsConfig
from sdft_ray.tracking.alarm_rules import mean_rules, step_rules
from tests.raised import VALUE, Raised, errors, raised

PAGE = (Path(__file__).parents[1] / "docs" / "troubleshooting.md").read_text()
RAISED = list(raised())


def first_cells(heading: str) -> list[str]:
    """What stands in backticks in the first column of all tables with this heading."""
    tables = re.findall(rf"^\| {heading} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [
        quoted
        for table in tables
        for row in table.splitlines()
        for quoted in re.findall(r"`([^`]+)`", row.split(" | ")[0])
    ]


def matches(entry: str, message: str) -> bool:
    return re.search(".*".join(map(re.escape, entry.split(VALUE))), message, re.DOTALL) is not None


SHORTEST = 7  # letters of an entry
ENTRIES, KEYS = first_cells("message"), first_cells("key")


def is_found_by_its_key(error: Raised) -> bool:
    keys = error.arguments[0] if error.kind == "ConfigError" else ()
    return any(key in KEYS or key.partition(".")[0] in KEYS for key in keys)


def test_the_errors_of_the_code_are_found() -> None:
    never_made_by_name = {"WorkerError", "PayloadLostError"}  # bases, and what a worker's own error becomes
    assert {error.kind for error in RAISED} >= errors() - never_made_by_name
    assert len(RAISED) > 250


def test_no_entry_is_so_short_that_it_matches_everything() -> None:
    vague = {entry for entry in ENTRIES if len(re.findall("[A-Za-z]", entry)) < SHORTEST}
    assert not vague


def test_every_message_of_the_program_has_an_entry() -> None:
    lacking = {
        f"{error.place}: {message}"
        for error in RAISED
        if not is_found_by_its_key(error)
        for message in error.messages
        if not any(matches(entry, message) for entry in ENTRIES)
    }
    assert not lacking, "docs/troubleshooting.md has no entry for\n" + "\n".join(sorted(lacking))


def test_every_entry_is_of_a_message_that_the_program_has() -> None:
    messages = [text for error in RAISED for argument in error.arguments for text in argument]
    stale = {entry for entry in ENTRIES if not any(matches(entry, message) for message in messages)}
    assert not stale, f"docs/troubleshooting.md has messages that nothing writes: {sorted(stale)}"


def test_every_key_with_an_entry_is_refused_somewhere() -> None:
    refused = {key for error in RAISED if error.kind == "ConfigError" for key in error.arguments[0]}
    assert set(KEYS) <= refused | {key.partition(".")[0] for key in refused}


def test_every_alarm_has_an_entry() -> None:
    rules = [*mean_rules(AlarmsConfig()), *step_rules(AlarmsConfig())]
    assert set(first_cells("alarm")) == {rule.name for rule in rules}
