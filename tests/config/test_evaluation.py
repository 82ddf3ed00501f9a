"""Evaluation sets: a source alone, or settings of their own."""

import re
from typing import Any

import pytest
from omegaconf import OmegaConf

from sdft_ray.config import EvaluationConfig, Match
from sdft_ray.errors import ConfigError


def made(settings: dict[str, Any]) -> EvaluationConfig:
    cfg = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(EvaluationConfig), settings))
    assert isinstance(cfg, EvaluationConfig)
    return cfg


def test_a_set_is_its_source_or_settings_and_takes_what_it_names_none_of_from_evaluation() -> None:
    cfg = made(
        {
            "match": "EXACT",
            "max_new_tokens": 5,
            "sets": {
                "short": "a.jsonl",
                "full": {
                    "source": "b.jsonl", "match": "CHOICE", "max_new_tokens": 9, "split": "dev", "num_questions": 3,
                    "columns": {"answer": "key"}, "num_samples": 8, "pass_at": [1, 8],
                },
            },
        }
    )  # fmt: skip
    short, full = cfg.named_sets()["short"], cfg.named_sets()["full"]
    assert (short.source, short.match, short.max_new_tokens, short.split) == ("a.jsonl", Match.EXACT, 5, "test")
    assert (short.columns, short.num_questions, short.num_samples) == (None, 0, 0)
    assert (full.match, full.max_new_tokens, full.split, full.num_questions) == (Match.CHOICE, 9, "dev", 3)
    assert (full.columns, full.num_samples, full.pass_at) == ({"answer": "key"}, 8, [1, 8])


def test_the_prior_is_answered_in_words_whatever_is_taught() -> None:
    prior = made({"match": "TOOL_CALL", "max_new_tokens": 7}).prior_set()
    assert (prior.source, prior.match, prior.max_new_tokens) == ("builtin:prior:test", Match.CONTAINS, 7)


SETS = [
    (
        {"a": {"souce": "x"}},
        "evaluation.sets.a.souce=x: there is no such setting; the nearest is",
    ),
    ({"a": {"split": "x"}}, "missing mandatory value: source; the settings of a set are source, split"),
    ({"a": 3}, "evaluation.sets.a=3: is neither a source nor settings of a set"),
    ({"a": ""}, "evaluation.sets.a.source=: names no data"),
    ({"a": {"source": "x", "match": "NO"}}, "Invalid value 'NO', expected one of [CONTAINS, EXACT"),
    ({"a": {"source": "x", "max_new_tokens": 0}}, "evaluation.sets.a.max_new_tokens=0: must be at least 1"),
    ({"a": {"source": "x", "num_questions": -1}}, "evaluation.sets.a.num_questions=-1"),
    ({"a": {"source": "x", "pass_at": [1]}}, "evaluation.sets.a.pass_at=[1]: does not fit num_samples=0"),
    ({"a": {"source": "x", "num_samples": 4}}, "evaluation.sets.a.pass_at=[]: does not fit num_samples=4"),
    ({"a": {"source": "x", "num_samples": 4, "pass_at": [9]}}, "set evaluation.sets.a.num_samples=9 or more"),
    ({"a": {"source": "x", "num_samples": 4, "pass_at": [0]}}, "name k from 1 on"),
    ({"a": {"source": "x", "top_p": 0}}, "evaluation.sets.a.top_p=0.0: must lie in (0, 1]"),
    ({"a": {"source": "x", "temperature": 0}}, "evaluation.sets.a.temperature=0.0"),
    ({"a": {"source": "x", "match": "JUDGE"}}, "evaluation.sets.a.match=JUDGE: no judge is set; set evaluation.judge."),
    ({"a/b": "x"}, "evaluation.sets.a/b=x: metrics are named after it"),
    ({"a_lenient": "x"}, "no _lenient at its end"),
    ({"prior": "x"}, "evaluation.sets.prior=x: that is the name of evaluation.prior's results"),
]


@pytest.mark.parametrize(("sets", "message"), SETS, ids=lambda value: str(value)[:60])
def test_a_set_that_cannot_be_used_is_refused_by_its_full_key(sets: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        made({"sets": sets})


JUDGES = [
    ({"endpoint": "host:8000"}, "evaluation.judge.endpoint=host:8000: is no http address"),
    ({"endpoint": "file:///etc/passwd"}, "is no http address"),
    ({"endpoint": "http://HOST:PORT/v1"}, "evaluation.judge.endpoint=http://HOST:PORT/v1: is no http address"),
    ({"endpoint": "http:///v1"}, "is no http address"),
    ({"template": "{question} {reference}"}, "lacks {completion}; write {question}, {reference}, {completion}"),
    ({"max_retries": -1}, "evaluation.judge.max_retries=-1"),
    ({"timeout_s": 0}, "evaluation.judge.timeout_s=0"),
    ({"max_concurrent": 0}, "evaluation.judge.max_concurrent=0"),
]


@pytest.mark.parametrize(("judge", "message"), JUDGES, ids=lambda value: str(value)[:60])
def test_a_judge_that_cannot_be_used_is_refused(judge: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        made({"judge": judge})


def test_a_judged_set_needs_an_endpoint_or_a_dry_run() -> None:
    sets = {"a": {"source": "x", "match": "JUDGE"}}
    made({"sets": sets, "judge": {"dry_run": True}})
    cfg = made({"sets": sets, "judge": {"endpoint": "http://host/v1", "model": "m", "parameters": {"seed": 3}}})
    assert cfg.judge.parameters == {"temperature": 0.0, "max_tokens": 1024, "seed": 3}
