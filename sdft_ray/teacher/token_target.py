"""A target without a teacher: the token itself, for supervised methods."""

from sdft_ray.examples import TokenizedExample
from sdft_ray.records import Rollout, TeacherScores


class TokenTarget:
    """Implements roles.Teacher. With nothing to score the payload is None and no version is ever stale."""

    def __init__(self, weight_version: int = 0):
        self._weight_version = weight_version

    async def score(self, example: TokenizedExample, rollout: Rollout) -> TeacherScores:
        """No scores: the learner reads the target off the completion."""
        return TeacherScores(
            payload=None, num_tokens=len(rollout.completion_tokens), teacher_version=self._weight_version
        )

    async def load_weights(self, version: int) -> None:
        """Remembers `version`: a token depends on no weights."""
        self._weight_version = version
