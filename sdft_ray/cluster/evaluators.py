"""What a run or mode=evaluate asks the rollout workers, made from the settings."""

from sdft_ray.cluster.probes import make_probes
from sdft_ray.cluster.run_folder import RunFolder
from sdft_ray.cluster.run_inputs import RunInputs
from sdft_ray.config import RunConfig
from sdft_ray.data.reasoning import BehindMark
from sdft_ray.evaluation.evaluator import NoEvaluation, RolloutEvaluator
from sdft_ray.evaluation.harness.evaluator import HarnessEvaluator
from sdft_ray.evaluation.harness.student import Student
from sdft_ray.evaluation.progress import CountedRespondent, Counting, ShownEvaluator
from sdft_ray.roles import Evaluator
from sdft_ray.rollout.pool import RolloutPool


def make_evaluator(
    cfg: RunConfig, inputs: RunInputs, folder: RunFolder, rollouts: RolloutPool, counting: Counting
) -> Evaluator:
    """What evaluates on the run's own sets, where it has something to ask."""
    respondent = CountedRespondent(rollouts)
    probes = make_probes(inputs.probes, folder, respondent)
    if not (inputs.evaluation_sets or inputs.prior or probes):
        return NoEvaluation()
    evaluator = RolloutEvaluator(
        respondent,
        settings=cfg.evaluation,
        sets=inputs.evaluation_sets,
        prior=inputs.prior,
        decode=inputs.decode(keep_special=False),
        run_dir=folder.path,
        seed=cfg.seed,
        probes=probes,
        answer_start=BehindMark(cfg.answer_mark, inputs.decode(keep_special=True)),
    )
    return ShownEvaluator(evaluator, respondent, counting, "evaluating")


def make_harness(
    cfg: RunConfig, inputs: RunInputs, folder: RunFolder, rollouts: RolloutPool, counting: Counting
) -> Evaluator:
    """What evaluates prior capabilities through lm_eval, where the run names tasks."""
    if not cfg.harness.tasks:
        return NoEvaluation()
    respondent = CountedRespondent(rollouts)
    student = Student(
        respondent,
        tokenizer=inputs.tokenizer,
        eos_token_ids=inputs.facts.eos_token_ids,
        max_tokens=min(cfg.harness.max_tokens, inputs.max_model_len - 1),
        max_open=2 * cfg.rollout.max_concurrent * cfg.cluster.rollout.most_workers,  # no engine waits for questions
    )
    evaluator = HarnessEvaluator(student, cfg.harness, run_dir=folder.path)
    return ShownEvaluator(evaluator, respondent, counting, "measuring prior capabilities")
