"""Settings of what happens where one stage of a run ends and the next begins."""

from dataclasses import dataclass

from sdft_ray.config.teacher import TeacherConfig, TeacherWeights
from sdft_ray.config.validation import require
from sdft_ray.config.weights import TeacherEma, WeightsConfig


@dataclass(kw_only=True)
class StageBoundaryConfig:
    """What begins anew at the boundary between two stages; by default all that a new run would begin with."""

    reset_optimizer: bool = True  # Adam's moments; the learning rate's schedule is always the stage's own
    rebase_teacher: bool = True  # an EMA teacher becomes the student as it is there

    def check_fit(self, teacher: TeacherConfig, weights: WeightsConfig) -> None:
        """Refuses to move a teacher that cannot be moved."""
        remedy = "set stage_boundary.rebase_teacher=false, or train the stages one run after the other with model.path"
        require(
            not self.rebase_teacher or teacher.weights is not TeacherWeights.FROZEN,
            "stage_boundary.rebase_teacher",
            self.rebase_teacher,
            "moves a teacher whose weights are FROZEN",
            remedy,
        )
        require(
            not self.rebase_teacher or weights.teacher_ema is TeacherEma.LEARNER,
            "stage_boundary.rebase_teacher",
            self.rebase_teacher,
            "is the learner's doing, but with weights.teacher_ema=RECEIVER the teacher workers average",
            remedy + ", or weights.teacher_ema=LEARNER",
        )
