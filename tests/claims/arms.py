"""The arms that the claims compare: settings on top of conf/experiment/claims.yaml, each with two seeds."""

from dataclasses import dataclass

SEEDS = (0, 1)

FORWARD_KL = "loss.divergence=FORWARD_KL"  # as in the paper's own runs; reverse KL is the arm `sdft`
SHORT = "num_steps=16"
# A shorter run than the paper's takes a faster average, else EMA would hardly differ from FROZEN.
SHORT_EMA = "teacher.ema_decay=0.95"
TOOLS = (
    "tools num_steps=10 data.split=train teacher.template=turns rollout.max_new_tokens=48",
    'evaluation.sets.tools.source="builtin:tools:test[:12]" evaluation.sets.tools.max_new_tokens=48',
)
STAGES = f"stages=['facts num_steps=20','{' '.join(TOOLS)}']"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of training."""

    name: str
    settings: tuple[str, ...]


# In the order in which they run: what the most claims need comes first.
ARMS = (
    Arm("sdft_paper", ("method=sdft_paper",)),
    Arm("sft", ("method=sft",)),
    Arm("dft", ("method=dft",)),
    Arm("teacher_sft", ("method=teacher_sft",)),
    Arm("offline_distillation", ("method=offline_distillation", FORWARD_KL)),
    Arm("sdft", ("method=sdft",)),
    Arm("stages_sdft", ("method=sdft_paper", STAGES)),
    Arm("stages_sft", ("method=sft", STAGES)),
    Arm("ema", ("method=sdft_paper", SHORT, SHORT_EMA)),
    Arm("frozen", ("method=sdft_paper", SHORT, "teacher.weights=FROZEN")),
    Arm("live", ("method=sdft_paper", SHORT, "teacher.weights=LIVE")),
    Arm("text", ("method=sdft_paper", SHORT, SHORT_EMA, "teacher.context=TEXT")),
    Arm("both", ("method=sdft_paper", SHORT, SHORT_EMA, "teacher.context=TEXT_AND_DEMONSTRATION")),
)
