"""Settings of mode=check_teacher."""

from dataclasses import dataclass, field

from sdft_ray.config.evaluation import Match
from sdft_ray.config.validation import at_least, require


@dataclass(kw_only=True)
class CheckConfig:
    """What mode=check_teacher asks the model before anything is trained."""

    num_examples: int = 32  # a sample of the data, drawn with the run's seed; more than there are takes all
    templates: list[str] = field(default_factory=list)  # as teacher.template; [] takes that one and all built-in ones
    match: Match | None = None  # when an answer is right; null takes evaluation.match
    max_new_tokens: int | None = None  # of a greedy answer; null takes evaluation.max_new_tokens

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None:
            at_least(1, "check.max_new_tokens", self.max_new_tokens)
        require(
            self.num_examples >= 2,
            "check.num_examples",
            self.num_examples,
            "leaves no other example to take a wrong demonstration from",
            "set check.num_examples=2 or more; below about 20 hardly anything can be told",
        )
