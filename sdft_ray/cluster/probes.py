"""What the probes of an evaluation read, and the probes themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdft_ray.cluster.run_folder import RunFolder
from sdft_ray.config import RunConfig
from sdft_ray.data.prompts import PromptBuilder
from sdft_ray.data.readers import Selection
from sdft_ray.data.rows import RowRules
from sdft_ray.data.sources import load_rows
from sdft_ray.data.tokenized import TokenizedRow
from sdft_ray.errors import ConfigError
from sdft_ray.evaluation.context_gap import ContextGap, choose_examples
from sdft_ray.evaluation.probes import Probe
from sdft_ray.evaluation.progress import CountedRespondent
from sdft_ray.evaluation.retention import MAX_NEW_TOKENS, GeneralPrompt, Retention, read_base


@dataclass(frozen=True, slots=True)
class ProbeInputs:
    """Token ids for the probes."""

    general: list[GeneralPrompt]
    gap_examples: list[TokenizedRow]

    @property
    def max_model_len(self) -> int:
        """What a rollout worker has to have room for, one more token of `logprobs` included."""
        lengths = [len(prompt.prompt_tokens) + MAX_NEW_TOKENS for prompt in self.general]
        lengths += [len(row.teacher_prompt_tokens) + len(row.demonstration_tokens) for row in self.gap_examples]
        return max(lengths, default=0) + 1


def read_probes(
    cfg: RunConfig, builder: PromptBuilder, rows: Sequence[TokenizedRow], context_length: int
) -> ProbeInputs:
    """Reads the general prompts and chooses the examples of the in-context gap.

    Raises:
        ConfigError, DataError: evaluation.general cannot be read, or not by this model.
    """
    general = []
    if source := cfg.evaluation.general:
        columns = {key: column for key, column in cfg.data.columns.items() if key in ("id", "prompt")}
        rules = RowRules(columns=columns, system=cfg.data.system, required=("prompt",), shared_columns=True)
        examples = load_rows(source, Selection(split="test"), rules).examples
        general = [GeneralPrompt(example.example_id, builder.student(example)) for example in examples]
    for prompt in general:
        if len(prompt.prompt_tokens) + MAX_NEW_TOKENS >= context_length:
            raise ConfigError(
                "evaluation.general",
                source,
                f"prompt {prompt.example_id!r} takes {len(prompt.prompt_tokens)} tokens, {cfg.model.path} reads "
                f"{context_length} together with a completion of {MAX_NEW_TOKENS}",
                "take it out, or set evaluation.general=''",
            )
    return ProbeInputs(general, choose_examples(rows, cfg.evaluation.num_gap_examples, context_length))


def make_probes(inputs: ProbeInputs, folder: RunFolder, respondent: CountedRespondent) -> list[Probe]:
    """The probes that have something to read."""
    probes: list[Probe] = []
    if inputs.gap_examples:
        probes.append(ContextGap(respondent, inputs.gap_examples))
    if inputs.general:
        resumed_dir = _resumed_run(folder)
        probes.append(Retention(respondent, inputs.general, run_dir=folder.path, resumed_dir=resumed_dir))
    return probes


def check_resumable(inputs: ProbeInputs, folder: RunFolder) -> None:
    """Fails before anything starts where a resumed run has lost what its base model wrote.

    Raises:
        CheckpointError: see `retention.read_base`.
    """
    resumed_dir = _resumed_run(folder)
    if inputs.general and resumed_dir is not None:
        read_base(resumed_dir, inputs.general)


def _resumed_run(folder: RunFolder) -> Path | None:
    """The folder of the run whose checkpoint is resumed."""
    return folder.resumed.parents[1] if folder.resumed is not None else None
