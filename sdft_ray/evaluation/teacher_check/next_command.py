"""The command to run after a check: one line for a shell, with what the user had set and what the check has found."""

import math
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sdft_ray.config import Match
from sdft_ray.evaluation.teacher_check.advice import ALREADY_RIGHT, Current, settings
from sdft_ray.evaluation.teacher_check.measure import Comparison
from sdft_ray.evaluation.teacher_check.verdict import Usable, Verdict

PLAIN_VALUE = re.compile(r"[\w./:+-]+")  # what Hydra reads as it stands
# Of the check's own command, what training has no use for.
OF_THE_CHECK = re.compile(r"\+{0,2}(mode|name|resume|check\..*|teacher\.template)=")
FORM_MATCHES = (Match.TOOL_CALL, Match.CHOICE, Match.YES_NO_MAYBE)  # answers that are right in one form only


class Recipe(NamedTuple):
    """What conf/recipe/NAME.yaml sets that a data set may be too small or too long for."""

    name: str
    batch_size: int
    max_new_tokens: int


SKILLS_TEMPLATE = "turns"
ROOM, MOST_ROOM = 1.25, 4  # tokens of a completion over those of the longest demonstration
FACTS = Recipe("facts", batch_size=6, max_new_tokens=32)
SKILLS = Recipe("skills", batch_size=4, max_new_tokens=64)


def next_command(comparison: Comparison, verdict: Verdict, now: Current, *, match: Match, given: Sequence[str]) -> str:
    """The command, quoted for a shell; "" where there is little left to teach.

    A usable teacher trains with a recipe. While it is undecided and examples are left, more of them are asked.
    Otherwise the demonstrations are learned without a teacher.

    Args:
        comparison: what was measured.
        verdict: what follows from it.
        now: the settings of the check.
        match: when an answer is right.
        given: the overrides of the check's own command.
    """
    student = comparison.student
    if student.right and student.accuracy.mean >= ALREADY_RIGHT:
        return ""
    found = settings(comparison, verdict, now)
    if any(one.startswith("check.num_examples=") for one in found):
        return _command(_merged(given, found))
    changes = [f"teacher.template={verdict.best}", *(one for one in found if not OF_THE_CHECK.match(one))]
    if verdict.usable is not Usable.YES:
        changes.append("method=sft")
    carried = [one for one in given if not OF_THE_CHECK.match(one)]
    if not any(one.startswith(("+recipe=", "+experiment=")) for one in carried):
        recipe = recipe_for(comparison, match)
        changes = [f"+recipe={recipe.name}", *changes, *_sizes(recipe, comparison, carried)]
    return _command(_merged(carried, changes))


def recipe_for(comparison: Comparison, match: Match) -> Recipe:
    """SKILLS where an answer has to have a form, which `turns` shows best, or demonstrations are too long for facts."""
    is_form = match in FORM_MATCHES or comparison.best == SKILLS_TEMPLATE
    return SKILLS if is_form or _longest(comparison) > FACTS.max_new_tokens else FACTS


def _sizes(recipe: Recipe, comparison: Comparison, carried: Sequence[str]) -> list[str]:
    """The recipe's sizes that do not suit the data, unless the user has set them."""
    num_rows, longest = comparison.sample.num_available, _longest(comparison)
    sizes = {}
    if num_rows < recipe.batch_size:
        sizes["batch_size"] = num_rows
    # What a completion rambles on for dilutes its beginning, since the loss is a mean over its tokens.
    if not longest <= recipe.max_new_tokens <= MOST_ROOM * longest:
        sizes["rollout.max_new_tokens"] = math.ceil(ROOM * longest)
    given = {_key(one) for one in carried}
    return [f"{key}={value}" for key, value in sizes.items() if key not in given]


def _longest(comparison: Comparison) -> int:
    return max(len(probe.demonstration_tokens) for probe in comparison.sample.probes)


def _merged(given: Sequence[str], changes: Sequence[str]) -> list[str]:
    """What was given without the keys that change, then the changes, with values as Hydra reads them."""
    keys = {_key(one) for one in changes}
    return [*(one for one in given if _key(one) not in keys), *map(_for_hydra, changes)]


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _for_hydra(override: str) -> str:
    key, _, value = override.partition("=")
    if PLAIN_VALUE.fullmatch(value):
        return override
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", value).replace("'", "\\'")  # Hydra reads backslashes before quotes alone
    return f"{key}='{escaped}'"


def _command(overrides: Sequence[str]) -> str:
    """For the shell, with the Python that runs this, by a path relative to here where it lies below."""
    python = Path(sys.executable)
    shown = os.path.relpath(python) if python.is_relative_to(Path.cwd()) else str(python)
    return shlex.join([shown, "-m", "sdft_ray.launch", *overrides])
