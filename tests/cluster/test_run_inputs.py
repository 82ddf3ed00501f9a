"""What a run reads before it starts a process, from the settings as a user gives them."""

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file, save_file

from sdft_ray.cluster.run_inputs import RunInputs, read_inputs
from sdft_ray.errors import ConfigError, SdftError
from sdft_ray.launch import CONF, typed_config
from sdft_ray.models.folder import load_tokenizer
from tests.data.families import QWEN_3
from tests.tiny import END, PAD, make_tiny_model

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def model(tmp_path: Path) -> str:
    return make_tiny_model(tmp_path / "model")


@pytest.fixture
def own_data(tmp_path: Path) -> list[str]:
    """As README shows it: 12 rows to train on, and a set of prompts and answers."""
    row = {"prompt": "Which port does the service use?", "demonstration": "It listens on port 7443.", "answer": "7443"}
    write(tmp_path / "train.jsonl", *[row | {"prompt": f"{number}. {row['prompt']}"} for number in range(12)])
    write(tmp_path / "test.jsonl", {"prompt": "Which port?", "answer": "7443"})
    return ["data=jsonl", f"data.source={tmp_path}/train.jsonl", f"+evaluation.sets.mine={tmp_path}/test.jsonl"]


def write(path: Path, *rows: dict[str, str]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(model: str, *overrides: str) -> RunInputs:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        settings = ["+cluster=local", "model=custom", f"model.path={model}", "model.dtype=FLOAT32", *overrides]
        return read_inputs(typed_config(compose("config", [*settings, "rollout.max_new_tokens=8"])))


@pytest.mark.parametrize("adapter", ["LORA", "NONE"])
@pytest.mark.parametrize("quant_method", ["bitsandbytes", "torchao", "gptq"])
def test_a_quantised_base_is_refused_by_name_before_its_quantiser_is_asked_for(
    model: str, own_data: list[str], quant_method: str, adapter: str
) -> None:
    config = Path(model) / "config.json"
    settings = {"quant_method": quant_method, "load_in_4bit": True, "quant_type": "int4_weight_only", "bits": 4}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": settings}))
    with pytest.raises(
        ConfigError, match=rf"^model\.path={model}: is quantised \(quant_method={quant_method}\)"
    ) as said:
        read(model, *own_data, f"model.adapter.kind={adapter}")
    assert "before it was quantised" in str(said.value)
    assert read(model, *own_data, "mode=check_teacher", "batch_size=12").num_steps == 2, "which trains nothing"


def test_own_data_of_fewer_rows_than_a_batch_are_refused_with_the_setting_that_works(
    model: str, own_data: list[str]
) -> None:
    with pytest.raises(
        ConfigError, match=r"batch_size=16: the data has only 12 examples.*set batch_size=12 or smaller"
    ):
        read(model, *own_data)
    inputs = read(model, *own_data, "batch_size=12")
    assert inputs.num_steps == 2
    assert [question.answer for question in inputs.evaluation_sets["mine"]] == ["7443"]
    assert inputs.notes == ()


@pytest.mark.parametrize(("method", "num_examples"), [("sft", 0), ("dft", 0), ("sdft", 8)])
def test_no_gap_is_measured_where_no_teacher_reads_anything(
    model: str, own_data: list[str], method: str, num_examples: int
) -> None:
    inputs = read(model, *own_data, "batch_size=4", f"method={method}")
    assert len(inputs.probes.gap_examples) == num_examples


def test_a_base_model_with_a_chat_template_stops_where_its_demonstrations_end(
    tmp_path: Path, model: str, own_data: list[str]
) -> None:
    for name in ("config.json", "generation_config.json"):
        path = Path(model) / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 3}))
    tokenizer = load_tokenizer(model, CHATML)
    tokenizer.eos_token = PAD
    tokenizer.save_pretrained(model)
    inputs = read(model, *own_data, "batch_size=4", "method=sft")
    end = tokenizer.convert_tokens_to_ids(END)
    assert next(inputs.examples).demonstration_tokens[-1] == end
    assert inputs.facts.eos_token_ids == (3, end)
    assert inputs.notes == (f"sampling stops at '{END}', with which the chat template ends a turn, besides '{PAD}'",)


def test_what_is_odd_about_the_data_or_a_set_is_told(model: str, own_data: list[str]) -> None:
    inputs = read(model, *own_data, "batch_size=4", "data.num_examples=99", "data.on_bad_row=SKIP")
    [note] = inputs.notes
    assert note.startswith("data.num_examples=99: ") and note.endswith("has 12 rows, all are taken")


@pytest.mark.parametrize("method", ["sft", "sdft"])
def test_demonstrations_that_carry_no_loss_are_counted(
    tmp_path: Path, model: str, own_data: list[str], method: str
) -> None:
    rows = [{"prompt": f"{n}?", "demonstration": "A" if n < 3 else "It listens on port 7443."} for n in range(4)]
    write(tmp_path / "train.jsonl", *rows)
    [note] = read(model, *own_data, "batch_size=4", f"method={method}", "loss.skip_first_tokens=3").notes
    assert note.startswith("3 of 4 demonstrations carry no loss under loss.skip_first_tokens=3: ")
    assert read(model, *own_data, "batch_size=4", f"method={method}", "loss.skip_first_tokens=0").notes == ()


def test_demonstrations_without_the_mark_are_counted_where_they_are_learned(
    tmp_path: Path, model: str, own_data: list[str]
) -> None:
    rows = [{"prompt": f"{n}?", "demonstration": "I think. So: it is so." if n else "It is so."} for n in range(4)]
    write(tmp_path / "train.jsonl", *rows)
    settings = [*own_data, "batch_size=4", "loss.skip_until='So:'", "evaluation.skip_until=''"]
    [note] = read(model, *settings, "method=sft").notes
    assert note.startswith("1 of 4 demonstrations carry no loss under loss.skip_first_tokens=")
    assert note.endswith("loss.skip_until=So:: nothing of them is learned")
    assert read(model, *settings, "method=sdft").notes == ()


def test_what_is_odd_about_the_prior_is_told(tmp_path: Path, model: str, own_data: list[str]) -> None:
    write(tmp_path / "prior.jsonl", {"prompt": "9 + 9?", "answer": "9 + 9 = 18 #### 18"})
    [note] = read(model, *own_data, "batch_size=4", f"evaluation.prior={tmp_path}/prior.jsonl").notes
    assert note.startswith("evaluation.prior: 1 of 1 answers hold ####")


def test_settings_of_a_pool_that_nothing_asks_are_told(tmp_path: Path, model: str, own_data: list[str]) -> None:
    pool = ["teacher.pool.num=2", "teacher.pool.retriever=RANDOM"]
    [note] = read(model, *own_data, "batch_size=4", *pool).notes
    assert note.startswith("teacher.pool.retriever=RANDOM, teacher.pool.num=2: of no account, since teacher.demonstr")
    asking = [f"+evaluation.sets.rag={{source: {tmp_path}/test.jsonl, context: POOL}}"]
    for used in (["teacher.demonstrations=POOL"], asking):
        notes = read(model, *own_data, "batch_size=4", *pool, *used).notes
        assert notes and not any("of no account" in told for told in notes)


def test_prompts_that_are_both_taught_and_rehearsed_are_counted(
    tmp_path: Path, model: str, own_data: list[str]
) -> None:
    settings = [*own_data, "batch_size=4", "data.rehearsal.share=0.25"]
    write(tmp_path / "old.jsonl", {"prompt": "Who?"}, {"prompt": "3. Which port does the service use?"})
    notes = read(model, *settings, f"data.rehearsal.source={tmp_path}/old.jsonl").notes
    assert any(note.startswith("rehearsal: 1 of the 2 different prompts of ") for note in notes)
    notes = read(model, *settings, f"data.rehearsal.source={tmp_path}/train.jsonl").notes
    assert any(note.startswith("rehearsal: 12 of the 12 different prompts of ") for note in notes)
    assert not any("also taught" in note for note in read(model, *settings).notes)


def test_special_tokens_in_rows_are_text_unless_asked_for(tmp_path: Path, model: str, own_data: list[str]) -> None:
    write(tmp_path / "train.jsonl", *[{"prompt": f"{n}. {END}", "demonstration": "A."} for n in range(4)])
    end = load_tokenizer(model).eos_token_id
    for setting, more in (("false", 0), ("true", 1)):
        inputs = read(model, *own_data, "batch_size=4", f"data.special_tokens={setting}")
        assert next(inputs.examples).prompt_tokens.count(end) == 1 + more


@pytest.mark.parametrize("method", ["sft", "sdft"])
def test_a_run_in_which_no_token_could_carry_loss_is_refused(model: str, own_data: list[str], method: str) -> None:
    with pytest.raises(ConfigError, match=r"loss\.skip_first_tokens=99: leaves nothing to train on.*0 counts every"):
        read(model, *own_data, "batch_size=4", f"method={method}", "loss.skip_first_tokens=99")


def test_a_run_in_which_no_completion_could_have_the_mark_is_refused(
    tmp_path: Path, model: str, own_data: list[str]
) -> None:
    settings = [*own_data, "batch_size=4"]
    with pytest.raises(ConfigError, match=r"loss\.skip_until=</think>: leaves nothing to train on: no demonstration"):
        read(model, *settings, "method=sft", "loss.skip_until='</think>'")
    (tmp_path / "own.jinja").write_text(QWEN_3)
    settings += [f"model.chat_template={tmp_path}/own.jinja", "+model.template_switches.enable_thinking=false"]
    for key in ("loss", "evaluation"):
        with pytest.raises(ConfigError, match=rf"{key}\.skip_until=</think>: the chat template ends prompts with"):
            read(model, *settings, f"{key}.skip_until='</think>'")


def test_switches_reach_both_prompts_of_a_run(tmp_path: Path, model: str, own_data: list[str]) -> None:
    (tmp_path / "own.jinja").write_text(QWEN_3)
    off = "template_switches.enable_thinking=false"
    settings = [*own_data, "batch_size=4", f"model.chat_template={tmp_path}/own.jinja"]
    tokenizer = load_tokenizer(model)

    def are_off(*more: str) -> list[bool]:
        row = next(read(model, *settings, *more).examples)
        prompts = map(tokenizer.decode, (row.prompt_tokens, row.teacher_prompt_tokens))
        return [prompt.endswith("</think>\n\n") for prompt in prompts]

    assert are_off() == [False, False]
    assert are_off(f"+model.{off}") == [True, True]
    assert are_off(f"+teacher.{off}") == [False, True]
    with pytest.raises(ConfigError, match=r"model\.template_switches\.thinking=False: .* reads enable_thinking"):
        read(model, *settings, "+model.template_switches.thinking=false")
    with pytest.raises(ConfigError, match=r"model\.template_switches\.tools=\[\]: is no switch"):
        read(model, *settings, "+model.template_switches.tools=[]")


def spoil(folder: str) -> str:
    weights = Path(folder) / "model.safetensors"
    save_file(load_file(weights) | {"model.norm.weight": torch.full([64], torch.nan)}, weights, {"format": "pt"})
    return folder


OWN_TEACHER = ["teacher.weights=FROZEN", "teacher.path=TEACHER"]
REFUSED = {
    "weights of the student": ([], "model.path=.*model: the folder holds no weights"),
    "weights of the teacher": (OWN_TEACHER, "teacher.path=.*teacher: the folder holds no weights"),
    "attention": (["model.attention=foo"], "model.attention=foo: there is no such implementation; take one of eager"),
    "values that no learner sees": (["mode=evaluate"], "model.path=.*model.norm.weight holds NaN or infinite values"),
    "values that only an engine sees": (
        [*OWN_TEACHER, "teacher.backend=VLLM"],
        "teacher.path=.*model.norm.weight holds NaN or infinite values",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_model_that_no_worker_could_use_is_refused_before_there_are_any(
    model: str, own_data: list[str], tmp_path: Path, what: str
) -> None:
    settings, message = REFUSED[what]
    teacher = make_tiny_model(tmp_path / "teacher")
    wrong = teacher if "teacher" in message else model
    if "NaN" in message:
        spoil(wrong)
    elif "weights" in message:
        (Path(wrong) / "model.safetensors").unlink()
    given = [setting.replace("TEACHER", teacher) for setting in settings]
    with pytest.raises(SdftError, match=message):
        read(model, *own_data, "batch_size=4", *given)
