"""What the loop may ask of each role. Five words: examples, completions, teacher, learner, evaluator (and a tracker).

Implementations live one vendor to a folder (rollout/, teacher/, learner/); tests/fakes.py has all of them in memory.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from sdft_ray.examples import TokenizedExample
from sdft_ray.records import Rollout, Sample, StepReport, TeacherScores


class Examples(Protocol):
    """An endless, seeded, shuffled stream of examples."""

    def __next__(self) -> TokenizedExample:
        """The next example; a new epoch starts by itself."""
        ...

    def state_at(self, num_examples: int) -> dict[str, Any]:
        """The state from which the stream goes on after its first `num_examples` examples."""
        ...


class Completions(Protocol):
    """Whose completions are trained on: the student's samples, or the demonstrations themselves."""

    async def complete(self, example: TokenizedExample) -> Rollout:
        """One completion of the example's prompt."""
        ...

    async def load_weights(self, version: int) -> None:
        """Returns when every worker samples with the student's weights of `version`."""
        ...


class Teacher(Protocol):
    """What the target at each token is: the teacher's distribution, or the token itself."""

    async def score(self, example: TokenizedExample, rollout: Rollout) -> TeacherScores:
        """The teacher's view of the completion, teacher-forced on the sampled ids under the teacher prompt."""
        ...

    async def load_weights(self, version: int) -> None:
        """Returns when every worker scores with the teacher's weights of `version`."""
        ...


class Learner(Protocol):
    """The student in training and its moving average."""

    @property
    def weight_version(self) -> int:
        """Number of optimizer steps taken: the version of the weights it now holds."""
        ...

    async def step(self, samples: AsyncIterator[Sample]) -> StepReport:
        """One optimizer step on the samples of one batch, then one EMA step.

        It may train on the first samples while it waits for the last; the result is that of the whole batch at once.
        Keeps no sample's payload longer than it needs.

        Raises:
            NonFiniteError: before bad weights spread, and at once, also while samples are still to come.
        """
        ...

    async def save_checkpoint(self, data_state: Mapping[str, Any], *, wait: bool) -> None:
        """Writes everything a resumed run needs; the checkpoint counts only when it is complete.

        It may still be being written when this returns, unless `wait` is True.
        """
        ...


class Evaluator(Protocol):
    """Greedy answers and logprobs of the student as it is now."""

    async def evaluate(self, version: int) -> dict[str, float]:
        """Metrics of the student's weights of `version`."""
        ...


class Tracker(Protocol):
    """Where metrics and samples go."""

    def log_step(self, step: int, metrics: Mapping[str, float], report: StepReport) -> None:
        """Records one optimizer step."""
        ...

    def log_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records one evaluation of the weights after `step` steps."""
        ...
