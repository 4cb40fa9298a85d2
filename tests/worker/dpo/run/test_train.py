"""Training from the command line: what it learns, prints, writes, and how it ends."""

import json
import math

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, get_scheduler

from tests.worker.dpo.pairs_for_tests import events_of, run_folder, train_arguments
from tests.worker.dpo.tiny import save_tiny, tiny_tokenizer, toy_pairs, write_pairs
from worker.dpo.ground.config_file import load_config
from worker.dpo.ground.values import ConfigError
from worker.dpo.loss.metrics import wilson_interval
from worker.dpo.run import step
from worker.dpo.run.optimizer import learning_rate


def losses(events):
    return [event["loss"] for event in events_of(events, "step")]


def test_a_run_learns_reports_and_publishes_an_adapter_that_peft_loads(tmp_path, engine):
    files = run_folder(tmp_path)
    out = tmp_path / "out"
    code, events = engine(
        *train_arguments(files, out, "num_train_epochs=3", "sample_prompts=1", "sample_tokens=4", evaluate=True)
    )
    assert code == 0
    steps = events_of(events, "step")
    assert [event["step"] for event in steps] == list(range(1, 13))
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert steps[-1]["loss"] < 0.2
    assert steps[-1]["rewards/accuracies"] == 1.0
    assert {"rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected", "grad_norm", "learning_rate",
            "total_steps", "eta_seconds", "epoch"} <= set(steps[0])  # fmt: skip
    stages = [event["stage"] for event in events_of(events, "state")]
    assert [stage for number, stage in enumerate(stages) if stage not in stages[:number]] == [
        "loading", "reference", "evaluating", "training", "exporting",
    ]  # fmt: skip
    evals = events_of(events, "eval")
    assert evals[0]["step"] == 0 and evals[-1]["step"] == 12
    assert evals[0]["eval_loss"] == pytest.approx(math.log(2), abs=1e-6) and evals[0]["eval_kl"] == pytest.approx(
        0, abs=1e-6
    )
    assert (
        evals[-1]["eval_rewards/accuracies_low"]
        <= evals[-1]["eval_rewards/accuracies"]
        <= evals[-1]["eval_rewards/accuracies_high"]
    )
    samples = events_of(events, "sample")
    assert {(event["phase"], event["decoding"]) for event in samples} == {
        (phase, decoding) for phase in ("before", "after") for decoding in ("greedy", "sampled")
    }
    greedy = {event["phase"]: event for event in samples if event["decoding"] == "greedy"}
    assert events[-1]["event"] == "done" and events[-1]["path"] == str(out)

    base = AutoModelForCausalLM.from_pretrained(files["model"])
    adapted = PeftModel.from_pretrained(base, out)
    assert any(weight.abs().sum() > 0 for name, weight in adapted.named_parameters() if "lora_B" in name)
    assert AutoTokenizer.from_pretrained(out).chat_template
    facts = json.loads((out / "prefloop.json").read_text())
    assert (
        facts["data"]["train_pairs"] == 16 and facts["seed"] == 42 and facts["versions"]["torch"] == torch.__version__
    )
    answers = facts["metrics"]["answers"]
    assert answers["prompts"] == 1
    assert answers["changed"] == (greedy["before"]["completion"] != greedy["after"]["completion"])
    assert answers["after"]["ended"] == greedy["after"]["ended"] and answers["after"]["tokens"] <= 4
    assert "greedy answers to evaluation prompts differ" in (out / "README.md").read_text()
    assert not list(out.glob("*.bin")) and not list(out.rglob("*.pt")) and not list(out.rglob("*.pkl"))


def test_full_fine_tuning_publishes_a_whole_model(tmp_path, engine):
    files = run_folder(tmp_path)
    out = tmp_path / "out"
    code, events = engine(*train_arguments(files, out, "lora_r=0", "max_steps=4"))
    assert code == 0
    assert losses(events)[-1] < math.log(2)
    trained, base = AutoModelForCausalLM.from_pretrained(out), AutoModelForCausalLM.from_pretrained(files["model"])
    assert trained.config._attn_implementation == base.config._attn_implementation
    moved = [
        name
        for (name, left), right in zip(trained.named_parameters(), base.parameters(), strict=True)
        if not torch.equal(left, right)
    ]
    assert len(moved) == len(list(base.parameters()))


@pytest.mark.parametrize(
    "settings", [[], ["lora_dropout=0.3"], ["lora_r=0"], ["dtype=bfloat16"], ["mixed_precision=bf16"]]
)
def test_the_same_seed_gives_the_same_weights_bit_for_bit(settings, tmp_path, engine):
    files = run_folder(tmp_path)
    weights = []
    for name in ("first", "second"):
        assert engine(*train_arguments(files, tmp_path / name, "max_steps=3", *settings))[0] == 0
        (file,) = (tmp_path / name).glob("*model.safetensors")
        weights.append(load_file(file))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_another_seed_gives_another_order_of_the_same_pairs(tmp_path, engine):
    files = run_folder(tmp_path)
    # Weights that stay as they are: what a step reports depends on its pairs alone.
    runs = [
        events_of(engine(*train_arguments(files, tmp_path / seed, "learning_rate=0", f"seed={seed}"))[1], "step")
        for seed in ("1", "2")
    ]
    first, second = ([event["logps/chosen"] for event in run] for run in runs)
    assert len(first) == 4
    assert sum(first) == pytest.approx(sum(second)), "an epoch holds every pair once, whatever the seed"
    assert all(left != pytest.approx(right, rel=1e-4) for left, right in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        ["token_budget=1"],
        ["gradient_checkpointing=on"],
        ["share_prefix=off"],
        ["head_chunk_mb=0.01"],
        ["share_prefix=off", "token_budget=1"],
    ],
)
def test_how_the_work_is_cut_does_not_change_the_losses(settings, tmp_path, engine):
    files = run_folder(tmp_path)
    expected = losses(engine(*train_arguments(files, tmp_path / "a", "max_steps=4"))[1])
    cut = losses(engine(*train_arguments(files, tmp_path / "b", "max_steps=4", *settings))[1])
    assert cut == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "settings", [["use_dora=true"], ["use_rslora=true"], ["lora_target_modules=[q_proj, v_proj]"], ["lora_dropout=0.2"]]
)
def test_kinds_of_lora_train_and_load(settings, tmp_path, engine):
    files = run_folder(tmp_path)
    code, events = engine(*train_arguments(files, tmp_path / "out", "num_train_epochs=2", *settings))
    assert code == 0
    assert losses(events)[-1] < 0.6
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(files["model"]), tmp_path / "out")


@pytest.mark.parametrize(
    "loss",
    [
        "sigmoid",
        "robust",
        "hinge",
        "ipo",
        "apo_zero",
        "exo_pair",
        "bco_pair_shifted",
        "simpo",
        "orpo",
        "[[sigmoid, 0.8], [bco_pair, 0.2]]",
    ],
)
def test_every_kind_of_loss_trains(loss, tmp_path, engine):
    files = run_folder(tmp_path)
    code, events = engine(*train_arguments(files, tmp_path / "out", "num_train_epochs=2", f"loss_type={loss}"))
    assert code == 0
    margins = [event["rewards/margins"] for event in events_of(events, "step")]
    assert margins[-1] > margins[0]


def test_weights_and_soft_labels_of_the_file_change_the_loss(tmp_path, engine):
    files = run_folder(tmp_path)
    rows = toy_pairs(16)
    expected = losses(engine(*train_arguments(files, tmp_path / "a", "max_steps=3"))[1])
    write_pairs(files["data"], [row | {"weight": 2.0} for row in rows])
    doubled = losses(engine(*train_arguments(files, tmp_path / "b", "max_steps=3"))[1])
    assert doubled[0] == pytest.approx(2 * expected[0], rel=1e-5)
    write_pairs(files["data"], [row | {"p_chosen": 0.5} for row in rows])
    undecided = events_of(engine(*train_arguments(files, tmp_path / "c", "max_steps=3"))[1], "step")
    assert undecided[0]["grad_norm"] == pytest.approx(0, abs=1e-4)
    ignored = losses(engine(*train_arguments(files, tmp_path / "d", "max_steps=3", "use_soft_labels=false"))[1])
    assert ignored == pytest.approx(expected)


@pytest.mark.parametrize("loss", ["sigmoid", "[[sigmoid_norm, 1.0]]", "ipo", "[[sigmoid, 0.5], [hinge, 0.5]]"])
def test_log_ratios_are_printed_as_they_are_whatever_scales_the_rewards(loss, tmp_path, engine):
    files = run_folder(tmp_path)
    code, events = engine(*train_arguments(files, tmp_path / "out", f"loss_type={loss}", "max_steps=3", evaluate=True))
    assert code == 0
    beta = json.loads((tmp_path / "out" / "prefloop.json").read_text())["beta"]
    _, scores = engine("score", "--model", files["model"], "--adapter", tmp_path / "out", "--data", files["eval"])
    last = events_of(events, "eval")[-1]
    for side in ("chosen", "rejected"):
        ratios = [score[f"logps_{side}"] - score[f"ref_logps_{side}"] for score in scores]
        assert last[f"eval_log_ratios/{side}"] == pytest.approx(sum(ratios) / len(ratios), rel=1e-3, abs=1e-4)
        for event in events_of(events, "step"):
            assert beta * event[f"log_ratios/{side}"] == pytest.approx(event[f"rewards/{side}"], rel=1e-5, abs=1e-7)


def test_losses_without_a_reference_print_no_log_ratios(tmp_path, engine):
    _, events = engine(*train_arguments(run_folder(tmp_path), tmp_path / "out", "loss_type=simpo", "max_steps=1"))
    assert not [name for event in events for name in event if "log_ratios" in name]


def test_early_stopping_publishes_the_best_weights(tmp_path, engine):
    files = run_folder(tmp_path)
    flipped = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in toy_pairs(4)]
    write_pairs(files["eval"], flipped)
    out = tmp_path / "out"
    arguments = train_arguments(
        files, out, "num_train_epochs=5", "eval_steps=1", "early_stopping_patience=2", evaluate=True
    )
    code, events = engine(*arguments)
    assert code == 0
    # What training does makes the flipped pairs worse at once, so the first weights are the best.
    assert [event["step"] for event in events_of(events, "eval")] == [0, 1, 2]
    assert events_of(events, "checkpoint")[-1]["kind"] == "best"
    adapter = load_file(out / "adapter_model.safetensors")
    assert all(tensor.abs().sum() == 0 for name, tensor in adapter.items() if "lora_B" in name)


def test_training_on_from_an_adapter_starts_at_log_2_and_keeps_its_shape(tmp_path, engine):
    files = run_folder(tmp_path)
    engine(*train_arguments(files, tmp_path / "first", "num_train_epochs=2", "lora_r=3"))
    code, events = engine(*train_arguments(files, tmp_path / "second", "max_steps=3", f"adapter={tmp_path / 'first'}"))
    assert code == 0
    assert losses(events)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses(events)[-1] < math.log(2)
    assert json.loads((tmp_path / "second" / "adapter_config.json").read_text())["r"] == 3
    assert json.loads((tmp_path / "second" / "prefloop.json").read_text())["parent_adapter"] == str(tmp_path / "first")


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        (["learning_rte=1"], 2, "Did you mean 'learning_rate'?"),
        (["beta=lots"], 2, "'beta' must be a number above 0"),
        (["loss_type=ipo", "label_smoothing=0.1"], 2, "doesn't use 'label_smoothing'"),
        (["report_to=[nothing]"], 2, "'report_to' must be a list of tensorboard"),
        (["load_in_4bit=true"], 2, "needs a CUDA GPU"),
        (["mixed_precision=fp16"], 2, "fp16 needs a CUDA GPU"),
        (["dtype=float16", "lora_r=0"], 2, "loses small steps"),
        (["device=cuda"], 2, "no usable CUDA device"),
        (["lora_target_modules=[nowhere]"], 2, "Cannot put LoRA on this model"),
        (["adapter=/nowhere/at/all"], 2, "Cannot load the adapter"),
        (["max_length=100000"], 3, "reads at most 512 tokens"),
        (["max_length=3"], 3, "no pair that fits in 3 tokens"),
        (["loss_type=sppo_hard", "beta=1e-30"], 5, "Lower learning_rate"),
    ],
)
def test_a_run_that_cannot_be_done_says_what_to_change(settings, code, said, tmp_path, engine):
    status, events = engine(*train_arguments(run_folder(tmp_path), tmp_path / "out", *settings))
    assert status == code
    assert events[-1]["event"] == "error" and events[-1]["exit_code"] == code
    assert said in events[-1]["message"]
    assert not (tmp_path / "out" / "prefloop.json").exists()


@pytest.mark.parametrize(("missing", "code"), [("model", 2), ("data", 3)])
def test_a_missing_model_or_file_is_named(missing, code, tmp_path, engine):
    files = run_folder(tmp_path) | {missing: tmp_path / "nowhere"}
    status, events = engine(*train_arguments(files, tmp_path / "out"))
    assert status == code
    assert "nowhere" in events[-1]["message"]


def test_pickled_weights_are_never_loaded(tmp_path, engine):
    files = run_folder(tmp_path)
    (weights,) = files["model"].glob("*.safetensors")
    torch.save(load_file(weights), files["model"] / "pytorch_model.bin")
    weights.unlink()
    code, events = engine(*train_arguments(files, tmp_path / "out"))
    assert code == 2
    assert "Cannot load the model" in events[-1]["message"]


def test_a_model_without_a_chat_template_gets_the_stated_fallback_and_publishes_it(tmp_path, engine):
    files = run_folder(tmp_path)
    tiny_tokenizer(chat_template=None).save_pretrained(files["model"])
    (files["model"] / "chat_template.jinja").unlink(missing_ok=True)
    code, events = engine(*train_arguments(files, tmp_path / "out", "max_steps=1"))
    assert code == 0
    assert any("chatml (fallback)" in event.get("message", "") for event in events)
    assert "<|im_start|>" in AutoTokenizer.from_pretrained(tmp_path / "out").chat_template


def test_nan_weights_end_the_run_with_its_own_code_and_the_lines_at_fault(tmp_path, engine, monkeypatch):
    files = run_folder(tmp_path)
    real = step.losses_of

    def poisoned(*arguments, **options):
        losses = real(*arguments, **options)
        losses.loss.data.fill_(float("nan"))
        return losses

    monkeypatch.setattr(step, "losses_of", poisoned)
    code, events = engine(*train_arguments(files, tmp_path / "out"))
    assert code == 5
    assert "The loss became nan at step 1 (data lines" in events[-1]["message"]


def test_settings_come_from_a_file_and_single_ones_win(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("beta: 0.3\nlearning_rate: 5e-6\ngradient_checkpointing: off\n")
    config = load_config(file, ["beta=0.4"])
    assert (config.beta, config.learning_rate, config.gradient_checkpointing) == (0.4, 5e-6, "off")


@pytest.mark.parametrize("text", ["- a list", "{unclosed", "beta: [1]"])
def test_a_file_that_is_no_configuration_is_refused(text, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load_config(file)


@pytest.mark.parametrize("total", [7, 40, 101])
@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
def test_the_rate_is_that_of_the_scheduler_of_the_same_name_in_transformers(name, total):
    config = load_config(None, ["learning_rate=1.0", "warmup_ratio=0.1", f"lr_scheduler_type={name}"])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = "constant_with_warmup" if name == "constant" else name
    scheduler = get_scheduler(theirs, optimizer, num_warmup_steps=math.ceil(0.1 * total), num_training_steps=total)
    for done in range(total):
        assert learning_rate(config, done, total) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_a_warm_up_never_takes_the_only_step():
    assert learning_rate(load_config(None, ["learning_rate=1.0", "warmup_ratio=1.0"]), 0, 1) == 1.0


def test_the_wilson_interval_is_that_of_the_textbook():
    # Wilson 1927 as tabulated by Newcombe 1998, table I: 81 of 263.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 10)[0] == 0.0 and wilson_interval(10, 10)[1] == 1.0
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_score_gives_the_rewards_of_the_published_adapter(tmp_path, engine):
    files = run_folder(tmp_path)
    _, events = engine(*train_arguments(files, tmp_path / "out", "num_train_epochs=2", evaluate=True))
    code, records = engine("score", "--model", files["model"], "--adapter", tmp_path / "out", "--data", files["eval"])
    assert code == 0
    margins = [record["reward_chosen"] - record["reward_rejected"] for record in records]
    assert sum(margins) / len(margins) == pytest.approx(events_of(events, "eval")[-1]["eval_rewards/margins"], rel=1e-4)
    assert records[0]["reward_chosen"] == pytest.approx(
        0.1 * (records[0]["logps_chosen"] - records[0]["ref_logps_chosen"])
    )
    kept = json.loads((tmp_path / "out" / "eval_margins.json").read_text())
    assert kept["lines"] == list(range(1, len(margins) + 1)) and kept["margins"] == pytest.approx(margins, abs=1e-4)


def test_score_of_a_fully_trained_model_is_against_its_base(tmp_path, engine):
    files = run_folder(tmp_path)
    engine(*train_arguments(files, tmp_path / "out", "lora_r=0", "max_steps=4"))
    code, records = engine("score", "--model", files["model"], "--policy", tmp_path / "out", "--data", files["eval"])
    assert code == 0
    assert sum(record["reward_chosen"] - record["reward_rejected"] for record in records) > 0


def test_score_refuses_what_it_cannot_do(tmp_path, engine, capsys):
    files = run_folder(tmp_path)
    assert engine("score", "--model", files["model"], "--adapter", tmp_path, "--data", files["eval"])[0] == 2
    assert engine("score", "--model", files["model"], "--data", tmp_path / "nowhere.jsonl")[0] == 3


def test_untied_heads_and_biases_train_too(tmp_path, engine):
    files = run_folder(tmp_path)
    files["model"] = save_tiny(tmp_path / "untied", tie_word_embeddings=False, attention_bias=True, mlp_bias=True)
    for settings in (["lora_r=0"], ["lora_target_modules=[q_proj, lm_head]"]):
        code, events = engine(*train_arguments(files, tmp_path / settings[0][:8], "num_train_epochs=2", *settings))
        assert code == 0
        assert losses(events)[-1] < math.log(2)


@pytest.mark.parametrize("lora_r", [4, 0], ids=["lora", "full"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_answers_its_sample_prompts_in_each_number_type(dtype, lora_r, tmp_path, engine):
    settings = [f"dtype={dtype}", f"lora_r={lora_r}", "max_steps=2", "sample_prompts=2", "sample_tokens=8"]
    code, events = engine(*train_arguments(run_folder(tmp_path), tmp_path / "out", *settings, evaluate=True))
    assert code == 0
    assert {(event["phase"], event["decoding"]) for event in events_of(events, "sample")} == {
        (phase, decoding) for phase in ("before", "after") for decoding in ("greedy", "sampled")
    }
