"""Settings of the model and the examples."""

from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

from sdft_ray.config.adapter import AdapterConfig
from sdft_ray.config.learner import Precision
from sdft_ray.config.mix import MixSourceConfig, mix_source
from sdft_ray.config.rehearsal import RehearsalConfig
from sdft_ray.config.validation import at_least, check_switches, require


class TooLong(Enum):
    """What happens to an example whose teacher prompt exceeds its budget. It is never cut silently."""

    REFUSE = auto()  # end the run before it starts
    SKIP = auto()  # leave it out and count it


class OnBadRow(Enum):
    """What happens to a row that is malformed, or lacks what it is read for."""

    ERROR = auto()  # end the run before it starts
    SKIP = auto()  # leave it out; how many, and the first of them, are said


@dataclass(kw_only=True)
class ModelConfig:
    """Which network is taught."""

    path: str = "smollm2-135m"  # a hub id, a folder, or the embedded "smollm2-135m"
    dtype: Precision = Precision.AUTO  # of the weights in rollout and teacher workers; masters are fp32
    chat_template: str = ""  # a Jinja template that replaces the tokenizer's own, the same for student and teacher
    template_switches: dict[str, Any] = field(
        default_factory=dict
    )  # variables of the chat template, for student and teacher: {enable_thinking: false}
    attention: str = "packed"  # of learner and teachers: packed, flash_attention_2 on GPUs, or sdpa (slower) anywhere

    dropout: bool = False  # true trains with the dropout and router noise of the model's configuration, if any
    adapter: AdapterConfig = field(default_factory=AdapterConfig)

    def __post_init__(self) -> None:
        require(bool(self.path), "model.path", self.path, "names no model", "set it to a hub id or a model folder")
        check_switches("model.template_switches", self.template_switches)


@dataclass(kw_only=True)
class DataConfig:
    """Where examples come from and how long they may be."""

    source: str = "builtin:facts"  # builtin:NAME, files (docs/data.md), a folder of save_to_disk, or a hub name
    mix: dict[str, Any] = field(default_factory=dict)  # name -> a source, or its settings; data.source is '' then
    split: str = "train"
    config_name: str = ""  # of a hub data set that has several configurations
    revision: str = ""  # of a hub data set: a branch, tag or commit
    filter: dict[str, Any] = field(default_factory=dict)  # column -> the value that rows to be taken have there
    num_examples: int = 0  # take only the first N of them; 0 takes all
    columns: dict[str, str] = field(
        default_factory=dict
    )  # our key (prompt, demonstration, ...) -> the data's column; '' reads none
    system: str = ""  # system message of every prompt, refused where a prompt has its own; "" leaves it to the template
    max_prompt_tokens: int = 1024  # of the student's prompt
    max_teacher_prompt_tokens: int = 4096  # its own, larger budget: it also holds the demonstration
    max_text_tokens: int = 1024  # method.completion=TEXT: a longer text is learned in pieces of about one length
    too_long: TooLong = TooLong.REFUSE
    on_bad_row: OnBadRow = OnBadRow.ERROR
    special_tokens: bool = False  # whether a special token's text in a row, such as <|im_end|>, becomes that token
    cache: bool = True  # whether 2,000 rows or more are kept tokenised in the user's cache folder (docs/data.md)
    shuffle: bool = True  # a new order every epoch, derived from the run's seed
    rehearsal: RehearsalConfig = field(default_factory=RehearsalConfig)

    def __post_init__(self) -> None:
        require(
            bool(self.source or self.mix),
            "data.source",
            self.source,
            "names no data",
            "set it to a file, a folder or a hub name, or name several in data.mix",
        )
        require(
            not (self.source and self.mix),
            "data.source",
            self.source,
            f"stands beside data.mix, whose sources are {', '.join(self.mix)}",
            "choose data=mix, which has no source of its own, or leave data.mix out",
        )
        self._check_mix()
        require(
            "\\" not in self.source,
            "data.source",
            self.source,
            "is written as Windows writes paths, which is no path and no hub name here",
            "write it with / as this machine sees the file",
        )
        at_least(0, "data.num_examples", self.num_examples)
        at_least(1, "data.max_prompt_tokens", self.max_prompt_tokens)
        at_least(1, "data.max_text_tokens", self.max_text_tokens)
        require(
            self.max_teacher_prompt_tokens >= self.max_prompt_tokens,
            "data.max_teacher_prompt_tokens",
            self.max_teacher_prompt_tokens,
            f"is below data.max_prompt_tokens={self.max_prompt_tokens}, though the teacher reads more than the student",
            "raise it",
        )

    def _check_mix(self) -> None:
        """Refuses what would be said of a single source, and a source of the mix that cannot be used."""
        defaults = MixSourceConfig()
        for key in ("split", "config_name", "revision", "filter", "num_examples"):
            value = getattr(self, key)
            require(
                not self.mix or value == getattr(defaults, key),
                f"data.{key}",
                value,
                "is said of data.source, but data.mix has several sources",
                f"set data.mix.NAME.{key} for the source that is meant",
            )
        self.mix_sources()

    def mix_sources(self) -> dict[str, MixSourceConfig]:
        """Every source of the mix by its name, complete and checked.

        OmegaConf has no field that is either a string or a dataclass, so `mix` holds what was written.
        """
        return {name: mix_source(f"data.mix.{name}", value) for name, value in self.mix.items()}

    def of_source(self, source: MixSourceConfig) -> "DataConfig":
        """The settings of one source of the mix, as if it were the only one."""
        return replace(
            self,
            mix={},
            source=source.source,
            split=source.split,
            config_name=source.config_name,
            revision=source.revision,
            filter=source.filter,
            num_examples=source.num_examples,
            columns=self.columns if source.columns is None else source.columns,
        )

    @property
    def origin(self) -> str:
        """Where the examples come from, for people."""
        named = [f"{source.weight:g} {name} ({source.source})" for name, source in self.mix_sources().items()]
        return " : ".join(named) if named else self.source
