"""The teacher's completions: written once under its own prompt, kept over a kill, trained on under the plain prompt."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from sdft_ray.examples import TokenizedExample
from sdft_ray.records import Rollout
from sdft_ray.rollout.completions import RECORD_FILE, GivenCompletions, RecordedCompletions, RehearsedCompletions
from tests.fakes import make_example
from tests.full_disk import no_file_beyond


class Writer:
    """Answers every prompt with its last token and an end."""

    def __init__(self) -> None:
        self.prompts: list[tuple[int, ...]] = []

    async def complete(self, example: TokenizedExample) -> Rollout:
        self.prompts.append(example.prompt_tokens)
        return Rollout(
            prompt_tokens=example.prompt_tokens,
            completion_tokens=(example.prompt_tokens[-1], 0),
            logprobs=(-0.5, -0.25),
            weight_version=0,
            truncated=False,
            num_sampled=2,
        )

    async def load_weights(self, version: int) -> None:
        raise AssertionError("a record depends on no weights")


def recorded(
    folder: Path, *examples: TokenizedExample, resumes: bool = False, together: bool = False
) -> tuple[RecordedCompletions, Writer]:
    writer = Writer()
    completions = RecordedCompletions(writer, folder, str, resumes=resumes, together=together)
    asyncio.run(completions.record(examples))
    return completions, writer


def test_the_teacher_prompt_is_answered_and_the_plain_prompt_trained_on(tmp_path: Path) -> None:
    completions, writer = recorded(tmp_path, make_example(5))
    asyncio.run(completions.load_weights(7))
    rollout = asyncio.run(completions.complete(make_example(5)))
    assert writer.prompts == [(1, 9, 2, 5)]
    assert rollout.prompt_tokens == (1, 2, 5)
    assert (rollout.completion_tokens, rollout.logprobs) == ((5, 0), (-0.5, -0.25))
    assert rollout.weight_version == 7
    assert rollout.num_sampled == 0


def test_an_example_is_written_once_whatever_its_epoch(tmp_path: Path) -> None:
    completions, writer = recorded(tmp_path, make_example(1), make_example(2), make_example(1, epoch=1))
    assert len(writer.prompts) == 2
    later = asyncio.run(completions.complete(make_example(1, epoch=3)))
    assert later.completion_tokens == (1, 0)


def test_a_run_that_goes_on_samples_only_what_is_missing(tmp_path: Path) -> None:
    recorded(tmp_path, make_example(1), make_example(2))
    path = tmp_path / RECORD_FILE
    whole = path.read_text()
    path.write_text(whole[:-10])  # a kill in the middle of the last line
    _, writer = recorded(tmp_path, make_example(1), make_example(2), resumes=True)
    assert writer.prompts == [(1, 9, 2, 2)]
    assert sorted(map(json.loads, path.read_text().splitlines()), key=str) == sorted(
        map(json.loads, whole.splitlines()), key=str
    )


def test_a_deterministic_run_that_goes_on_samples_all_of_them_together(tmp_path: Path) -> None:
    examples = [make_example(1), make_example(2)]
    recorded(tmp_path, *examples)
    path = tmp_path / RECORD_FILE
    path.write_text(path.read_text()[:-10])
    _, writer = recorded(tmp_path, *examples, resumes=True, together=True)
    assert writer.prompts == [(1, 9, 2, 1), (1, 9, 2, 2)]
    _, writer = recorded(tmp_path, *examples, resumes=True, together=True)
    assert writer.prompts == [], "a whole record is kept"


def test_a_full_disk_ends_no_recording_and_a_resumed_run_samples_what_was_not_written(tmp_path: Path) -> None:
    examples, said = [make_example(index) for index in range(20)], list[str]()
    completions = RecordedCompletions(Writer(), tmp_path, str, resumes=False)
    with no_file_beyond(600):
        asyncio.run(completions.record(examples, said.append))
    assert "not written" in said[0] and "lost" in said[-1]
    assert all(asyncio.run(completions.complete(example)).num_sampled == 0 for example in examples)
    num_written = len((tmp_path / RECORD_FILE).read_text().splitlines())
    assert 0 < num_written < 20
    _, writer = recorded(tmp_path, *examples, resumes=True)
    assert len(writer.prompts) == 20 - num_written


def test_a_record_made_under_another_teacher_prompt_is_not_used(tmp_path: Path) -> None:
    recorded(tmp_path, make_example(1))
    other = replace(make_example(1), teacher_prompt_tokens=(1, 8, 1))
    completions, writer = recorded(tmp_path, other, resumes=True)
    assert writer.prompts == [(1, 8, 1)]
    with pytest.raises(KeyError):
        asyncio.run(completions.complete(make_example(2)))


def test_a_new_run_begins_a_new_record(tmp_path: Path) -> None:
    recorded(tmp_path, make_example(1))
    _, writer = recorded(tmp_path, make_example(1))
    assert len(writer.prompts) == 1
    assert len((tmp_path / RECORD_FILE).read_text().splitlines()) == 1


def test_supervised_rehearsal_learns_what_the_model_wrote_before_it_was_trained(tmp_path: Path) -> None:
    taught, rehearsed = make_example(1), replace(make_example(2), is_rehearsal=True)
    writer = Writer()
    completions = RehearsedCompletions(GivenCompletions(), RecordedCompletions(writer, tmp_path, str, resumes=False))
    asyncio.run(completions.record([taught, rehearsed]))
    assert len(writer.prompts) == 1, "examples bring their demonstrations"
    asyncio.run(completions.load_weights(4))
    given, remembered = (asyncio.run(completions.complete(example)) for example in (taught, rehearsed))
    assert given.completion_tokens == taught.demonstration_tokens
    assert (remembered.prompt_tokens, remembered.completion_tokens) == (rehearsed.prompt_tokens, (2, 0))
    assert (given.weight_version, remembered.weight_version) == (4, 4)
