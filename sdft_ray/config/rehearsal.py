"""Settings of rehearsal: prompts without a demonstration, on which the student stays what it was."""

from dataclasses import dataclass, field

from sdft_ray.config.method import MethodConfig, Target
from sdft_ray.config.teacher import TeacherBackend, TeacherConfig, TeacherWeights
from sdft_ray.config.validation import at_least, require

BUILTIN_PROMPTS = "builtin:general"


@dataclass(kw_only=True)
class RehearsalConfig:
    """Prompts that every batch rehearses besides its examples; off as long as `share` is 0.

    Rehearsal rows have no demonstration. Their teacher sees the plain prompt, with the weights the run began with.
    """

    share: float = 0.0  # of every batch, in [0, 1), rounded to whole rows; 0 rehearses nothing
    source: str = ""  # as data.source, of which only the prompts are read; "" is builtin:general
    split: str = "train"  # of the source
    columns: dict[str, str] = field(default_factory=dict)  # our key (prompt, id) -> the source's column
    max_new_tokens: int = 0  # of a rehearsed completion; 0 takes rollout.max_new_tokens

    def __post_init__(self) -> None:
        require(
            0 <= self.share < 1,
            "data.rehearsal.share",
            self.share,
            "must lie in [0, 1): the rest of a batch is what is taught",
            "set it to 0.25 for a quarter of every batch, or to 0 for none",
        )
        require(
            self.share > 0 or not self.source,
            "data.rehearsal.source",
            self.source,
            "names prompts to rehearse, but data.rehearsal.share=0 rehearses none",
            "set data.rehearsal.share=0.25 as well",
        )
        at_least(0, "data.rehearsal.max_new_tokens", self.max_new_tokens)

    @property
    def is_on(self) -> bool:
        """True when every batch has rehearsal rows."""
        return self.share > 0

    @property
    def prompts(self) -> str:
        """The source that is read."""
        return self.source or BUILTIN_PROMPTS

    def rows_of(self, batch_size: int) -> int:
        """Rehearsal rows of a batch: its share, rounded to the nearest whole row.

        Raises:
            ConfigError: nothing is left to rehearse, or nothing else.
        """
        rows = int(self.share * batch_size + 0.5)
        require(
            rows > 0 or not self.is_on,
            "data.rehearsal.share",
            self.share,
            f"is less than half a row of batch_size={batch_size}",
            f"set it to {1 / batch_size:g} or more, or raise batch_size",
        )
        require(
            rows < batch_size,
            "data.rehearsal.share",
            self.share,
            f"rounds to all {batch_size} rows of a batch, so that nothing would be taught",
            "lower it, or raise batch_size",
        )
        return rows

    def check_fit(self, batch_size: int, method: MethodConfig, teacher: TeacherConfig) -> None:
        """Refuses a batch that cannot be shared, and a teacher that cannot also score with the initial weights.

        Raises:
            ConfigError: as `rows_of`, or the teacher is another model or has no room for a second set of weights.
        """
        self.rows_of(batch_size)
        if not self.is_on or method.target is not Target.TEACHER:
            return
        require(
            not teacher.path,
            "data.rehearsal.share",
            self.share,
            f"is taught by model.path as the run finds it, but teacher workers hold teacher.path={teacher.path}",
            "leave teacher.path empty, or set data.rehearsal.share=0",
        )
        require(
            teacher.weights is TeacherWeights.FROZEN or teacher.backend is TeacherBackend.TRANSFORMERS,
            "teacher.backend",
            teacher.backend.name,
            f"holds one set of weights, but with teacher.weights={teacher.weights.name} rehearsal needs the initial "
            "ones as well",
            "set teacher.backend=TRANSFORMERS, teacher.weights=FROZEN, or data.rehearsal.share=0",
        )
