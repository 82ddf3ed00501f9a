"""Settings of what is measured before, during and after training: evaluation sets and the judge."""

import re
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any
from urllib.parse import urlsplit

from omegaconf import MISSING

from sdft_ray.config.data import OnBadRow
from sdft_ray.config.named_sources import named_source
from sdft_ray.config.validation import at_least, positive, require

PRIOR = "prior"  # the name under which the results of evaluation.prior stand
PLACEHOLDERS = ("{question}", "{reference}", "{completion}")


class Match(Enum):
    """When a completion counts as right; sdft_ray/evaluation/scorers/ says in full how each is read."""

    CONTAINS = auto()  # the answer's words occur in it, in order, ignoring case and punctuation
    EXACT = auto()  # it equals the answer, ignoring case, punctuation and surrounding space
    TOOL_CALL = auto()  # its Action / Action Input pairs are the answer's calls, in any order and with any key order
    CHOICE = auto()  # its letter, in the last <answer> tag or a common variant of one, is the answer
    YES_NO_MAYBE = auto()  # it decides as the answer does
    KNOWLEDGE = auto()  # it states every key fact of the answer; leniently: one of them, and none contradicted
    JUDGE = auto()  # a judge model finds every detail of the answer in it; leniently: one of them, and nothing wrong


class EvaluationContext(Enum):
    """What the evaluated model is given besides the question."""

    NONE = auto()
    TEXT = auto()  # the row's article: retrieval that is always right, the upper bound of knowledge in weights
    DEMONSTRATION = auto()  # the row's own, as turns before the question
    POOL = auto()  # what teacher.pool finds: a row's article, or where it has none its demonstration


@dataclass(kw_only=True)
class EvaluationSetConfig:
    """One evaluation set: `evaluation.sets.NAME` is one of these, or its source alone."""

    source: str = MISSING  # as data.source; a ":SPLIT" at its end overrides split
    split: str = "test"
    config_name: str = ""  # as data.config_name
    revision: str = ""  # as data.revision
    filter: dict[str, Any] = field(default_factory=dict)  # as data.filter
    match: Match = MISSING  # evaluation.match where the set names none
    max_new_tokens: int = MISSING  # of a completion; evaluation.max_new_tokens where the set names none
    context: EvaluationContext = EvaluationContext.NONE
    num_questions: int = 0  # take only the first N; 0 takes all
    columns: dict[str, str] | None = None  # our key -> the set's column; null takes data.columns
    system: str | None = None  # system message of every prompt; null takes data.system
    on_bad_row: OnBadRow | None = None  # null takes data.on_bad_row
    num_samples: int = 0  # sampled completions a question besides the greedy one, for pass@k
    pass_at: list[int] = field(default_factory=list)  # the k of pass@k, each in 1..num_samples
    temperature: float = 1.0  # of the sampled completions
    top_p: float = 0.95  # of the sampled completions; 1 samples from the whole distribution

    def check(self, key: str) -> None:
        """Refuses values that cannot be used; `key` is where the set stands."""
        require(bool(self.source), f"{key}.source", "", "names no data", "set it to a file, a folder or a hub name")
        at_least(1, f"{key}.max_new_tokens", self.max_new_tokens)
        at_least(0, f"{key}.num_questions", self.num_questions)
        at_least(0, f"{key}.num_samples", self.num_samples)
        positive(f"{key}.temperature", self.temperature)
        require(0 < self.top_p <= 1, f"{key}.top_p", self.top_p, "must lie in (0, 1]", "set it to 1 to cut nothing")
        require(
            bool(self.pass_at) == (self.num_samples > 0),
            f"{key}.pass_at",
            self.pass_at,
            f"does not fit num_samples={self.num_samples}: pass@k needs both the k and the samples",
            "set both, such as num_samples=8 pass_at=[1,8], or neither",
        )
        for k in self.pass_at:
            remedy = f"set {key}.num_samples={k} or more" if k > 0 else "name k from 1 on"
            require(1 <= k <= self.num_samples, f"{key}.pass_at", k, f"is not in 1..{self.num_samples}", remedy)


@dataclass(kw_only=True)
class JudgeConfig:
    """The model that judges completions where match is JUDGE, behind any OpenAI-compatible chat endpoint."""

    endpoint: str = ""  # such as http://HOST:8000/v1; requests go to ENDPOINT/chat/completions
    model: str = ""  # as the endpoint names it
    api_key_variable: str = ""  # the environment variable that holds the key; "" sends none
    template: str = ""  # {question}, {reference}, {completion}; asks for VERDICT: CORRECT, PARTIAL or INCORRECT
    parameters: dict[str, Any] = field(
        default_factory=lambda: {"temperature": 0.0, "max_tokens": 1024}
    )  # of every request, sent as they are
    max_retries: int = 5  # of a request that failed on the way, was refused as one too many, or met a server's error
    timeout_s: float = 120.0  # without a byte from the endpoint
    max_concurrent: int = 8  # requests at once
    cache_dir: str = ""  # where replies are kept, by everything that was sent; "" is judge/ in the user's cache
    dry_run: bool = False  # send nothing; write what would be sent to judge_prompts.jsonl in the run folder

    def __post_init__(self) -> None:
        at_least(0, "evaluation.judge.max_retries", self.max_retries)
        positive("evaluation.judge.timeout_s", self.timeout_s)
        at_least(1, "evaluation.judge.max_concurrent", self.max_concurrent)
        require(
            not self.endpoint or _is_http_address(self.endpoint),
            "evaluation.judge.endpoint",
            self.endpoint,
            "is no http address",
            "write it as http://HOST:PORT/v1 or https://HOST/v1",
        )
        lacking = [name for name in PLACEHOLDERS if self.template and name not in self.template]
        require(
            not lacking,
            "evaluation.judge.template",
            repr(self.template),
            f"lacks {', '.join(lacking)}",
            f"write {', '.join(PLACEHOLDERS)} where they belong, or leave it empty for the built-in one",
        )

    def check_usable(self, key: str) -> None:
        """Refuses that the set at `key` is judged by nobody."""
        require(
            self.dry_run or bool(self.endpoint and self.model),
            f"{key}.match",
            Match.JUDGE.name,
            "no judge is set",
            "set evaluation.judge.endpoint and evaluation.judge.model, or evaluation.judge.dry_run=true",
        )


def _is_http_address(address: str) -> bool:
    """True when `address` names a scheme of the web, a host and, if any, a port that is a number."""
    try:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


@dataclass(kw_only=True)
class EvaluationConfig:
    """What is measured before, during and after training, on the rollout workers."""

    sets: dict[str, Any] = field(default_factory=dict)  # name -> its source, or settings (docs/evaluation.md)
    prior: str = "builtin:prior:test"  # held-out questions whose answers must not become less likely; "" for none
    general: str = "builtin:general:test"  # prompts for how far the student is from the model it began as; "" for none
    num_gap_examples: int = 8  # training examples for what context still adds, where there are workers; 0 for none
    every: int = 0  # also every N steps; 0 measures before and after only
    match: Match = Match.CONTAINS  # of the sets that name none
    max_new_tokens: int = 32  # of a greedy answer, in the sets that name none
    skip_until: str | None = None  # answers are read behind this text; null takes loss.skip_until, "" reads all
    judge: JudgeConfig = field(default_factory=JudgeConfig)

    def __post_init__(self) -> None:
        at_least(0, "evaluation.every", self.every)
        at_least(0, "evaluation.num_gap_examples", self.num_gap_examples)
        at_least(1, "evaluation.max_new_tokens", self.max_new_tokens)
        for name, settings in self.named_sets().items():
            if settings.match is Match.JUDGE:
                self.judge.check_usable(f"evaluation.sets.{name}")

    def named_sets(self) -> dict[str, EvaluationSetConfig]:
        """Every set by its name, complete and checked.

        OmegaConf has no field that is either a string or a dataclass, so `sets` holds what was written.
        """
        return {name: self._set(name, value) for name, value in self.sets.items()}

    def prior_set(self) -> EvaluationSetConfig:
        """How the prior's questions are asked: answered in words, whatever format is taught."""
        return EvaluationSetConfig(source=self.prior, match=Match.CONTAINS, max_new_tokens=self.max_new_tokens)

    def _set(self, name: str, value: Any) -> EvaluationSetConfig:
        key = f"evaluation.sets.{name}"
        require(name != PRIOR, key, value, "that is the name of evaluation.prior's results", "choose another name")
        require(
            re.fullmatch(r"[\w-]+", name) is not None and not name.endswith("_lenient"),
            key,
            value,
            "metrics are named after it, which takes letters, digits, - and _, and no _lenient at its end",
            "choose another name",
        )
        defaults = EvaluationSetConfig(match=self.match, max_new_tokens=self.max_new_tokens)
        settings = named_source(key, value, defaults, entry="a set", settings_of="a set")
        settings.check(key)
        return settings
