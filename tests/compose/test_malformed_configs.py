"""Every wrong config ends in one line that names the key, exit code 2, nothing written."""

from __future__ import annotations

import pytest

from ffalora_cli.cli.main import main
from ffalora_cli.compose.jobs import plan

# typed words -> what the line must say: the key, then the nearest name or the remedy
CASES = {
    "tsk=sst2": ("tsk", "'task'"),
    "task=sst": ("task", "'sst2'"),
    "task=null": ("task", "needs one"),
    "task=[sst2,qnli]": ("task", "one option"),
    "task@other=sst2": ("task@other", "task=NAME"),
    "model=robert_large": ("model", "'roberta_large'"),
    "method=ffalora": ("method", "'ffa_lora'"),
    "partition=dirichlett": ("partition", "'dirichlet'"),
    "privacy=exampel": ("privacy", "'example'"),
    "federation=papre": ("federation", "'paper'"),
    "engine=stack": ("engine", "'stacked'"),
    "tracking=wandbb": ("tracking", "'wandb'"),
    "experiment=glue_sst": ("experiment", "'glue_sst2'"),
    "debug=smoek": ("debug", "'smoke'"),
    "rounds=3": ("rounds", "'federation.rounds'"),
    "federation.round=3": ("federation.round", "'federation.rounds'"),
    "federation.server_optimizer.nam=sgd": ("nam", "'federation.server_optimizer.name'"),
    "+foo=1": ("foo", "seed"),
    "++adapter.rnk=4": ("adapter.rnk", "'adapter.rank'"),
    "model.local_lr.sgd.one=1": ("model.local_lr.sgd.one", "one_factor'"),
    "federation.rounds=ten": ("federation.rounds", "whole number"),
    "federation.rounds=1.5": ("federation.rounds", "whole number"),
    "federation.rounds=true": ("federation.rounds", "whole number"),
    "federation.rounds=null": ("federation.rounds", "whole number"),
    "federation.rounds=0": ("federation.rounds", "1 or more"),
    "federation.num_clients=0": ("federation.num_clients", "1 or more"),
    "federation.local_steps=-1": ("federation.local_steps", "1 or more"),
    "federation.local_batch_size=0": ("federation.local_batch_size", "1 or more"),
    "federation.eval_every=0": ("federation.eval_every", "1 or more"),
    "federation.local_lr=0": ("federation.local_lr", "above 0"),
    "federation.local_lr=nan": ("federation.local_lr", "finite"),
    "federation.local_lr=interval(0,1)": ("federation.local_lr", "-m"),
    "federation.local_lr=${federation.lr}": ("federation.lr", "local_lr"),
    "adapter.layers=0": ("adapter.layers", "1 or more"),
    "adapter.layers=[]": ("adapter.layers", "numbers of layers"),
    "adapter.layers=last": ("adapter.layers", "whole number"),
    "adapter.layers=[a]": ("adapter.layers[0]", "whole number"),
    "model.max_grad_norm=0.5": ("model.max_grad_norm", "mapping"),
    "federation.lr_schedule=cosin": ("federation.lr_schedule", "'cosine'"),
    "federation.warmup_rounds=-1": ("federation.warmup_rounds", "0 or more"),
    "federation.warmup_rounds=20": ("federation.warmup_rounds", "federation.warmup_rounds=19"),
    "federation.lr_end=2": ("federation.lr_end", "0 to 1"),
    "federation.lr_end=0.5": ("federation.lr_end", "cosine or linear"),
    "federation.local_optimizer=adam": ("federation.local_optimizer", "'adamw'"),
    "federation.local_momentum=1": ("federation.local_momentum", "below 1"),
    "federation.server_optimizer.name=adm": ("federation.server_optimizer.name", "'adam'"),
    "federation.server_optimizer.lr=0": ("federation.server_optimizer.lr", "above 0"),
    "federation.server_optimizer=sgd": ("federation.server_optimizer", "section"),
    "federation.weights=bysize": ("federation.weights", "'size'"),
    "federation.cohort_size=5": ("federation.cohort_size", "num_clients=3"),
    "federation.cohort_size=2": ("federation.cohort_size", "cohort_sampling"),
    "federation.cohort_sampling=poisson": ("federation.cohort_size", "needs a number"),
    "federation.dropout_rate=1": ("federation.dropout_rate", "below 1"),
    "federation.straggler_rate=-0.1": ("federation.straggler_rate", "at least 0"),
    "federation.dropout_rate=often": ("federation.dropout_rate", "number"),
    "federation.min_clients=4": ("federation.min_clients", "to 3"),
    "federation.min_clients=-1": ("federation.min_clients", "0 (never"),
    "federation.max_upload_norm=0": ("federation.max_upload_norm", "null"),
    "federation.max_upload_norm=inf": ("federation.max_upload_norm", "finite"),
    "federation.combination=medain": ("federation.combination", "'median'"),
    "federation.combination=krum": ("federation.assumed_bad", "at most 0 of 3"),
    "federation.combination=krum federation.assumed_bad=1": (
        "federation.assumed_bad=1",
        "assumed_bad=0, or combination=median",
    ),
    "federation=small federation.combination=multi_krum federation.assumed_bad=4": (
        "federation.assumed_bad=4",
        "assumed_bad=3",
    ),
    "federation.combination=trimmed_mean federation.assumed_bad=2": (
        "federation.assumed_bad=2",
        "assumed_bad=1",
    ),
    "federation.num_clients=2 federation.combination=krum federation.assumed_bad=0": (
        "federation.combination",
        "combination=median",
    ),
    "federation.assumed_bad=1.5": ("federation.assumed_bad", "whole number"),
    "method=fedex_lora federation.combination=median": ("fedex_lora", "combination=mean"),
    "privacy=client federation.weights=uniform federation.combination=median": (
        "federation.combination",
        "combination=mean",
    ),
    "privacy=client federation.weights=uniform federation.max_upload_norm=1": (
        "federation.max_upload_norm",
        "null",
    ),
    "seed=1,2": ("seed", "-m"),
    "seed": ("seed", "seed=VALUE"),
    "seed=a(b": ("seed", "quote"),
    "seed=-1": ("seed", "0 or more"),
    "~seed": ("seed", "set it"),
    "hydra.run.dir=here": ("hydra.run.dir", "paths.runs"),
    "head=trained": ("head", "head.mode"),
    "head.mode=trainde": ("head.mode", "'trained'"),
    "head.scale=0": ("head.scale", "above 0"),
    "adapter.rank=0": ("adapter.rank", "1 or more"),
    "adapter.rank=8.0": ("adapter.rank", "whole number"),
    "adapter.alpha=-1": ("adapter.alpha", "above 0"),
    "adapter.dropout=1": ("adapter.dropout", "below 1"),
    "adapter.init=kaimin": ("adapter.init", "'kaiming'"),
    "adapter.targets=query_values": ("adapter.targets", "'query_value'"),
    "privacy.epsilon_target=null": ("privacy.epsilon_target", "privacy=none"),
    "privacy.epsilon_target=-3": ("privacy.epsilon_target", "above 0"),
    "privacy.delta=null": ("privacy.delta", "1e-5"),
    "privacy.delta=2": ("privacy.delta", "1e-5"),
    "privacy.sampling=fixed": ("privacy.sampling", "privacy.accountant=rdp"),
    "privacy.sampling=shufled": ("privacy.sampling", "'shuffled'"),
    "privacy=client federation.weights=uniform privacy.sampling=shuffled": (
        "privacy.sampling",
        "poisson",
    ),
    "privacy.trials=0": ("privacy.trials", "1 (no tuning)"),
    "privacy.trial_distribution=uniform": ("privacy.trial_distribution", "geometric"),
    "privacy.max_grad_norm=null": ("privacy.max_grad_norm", "model.max_grad_norm"),
    "privacy.accountant=gdp": ("privacy.accountant", "pld"),
    "privacy.unit=none": ("privacy.epsilon_target", "privacy=text"),
    "privacy=none privacy.epsilon_target=3": ("privacy.epsilon_target", "privacy=text"),
    "privacy=none privacy.trial_runs=[nope]": ("privacy.trial_runs", "privacy.trial_runs=[]"),
    "privacy=client federation.weights=uniform diagnostics=mechanism": (
        "diagnostics",
        "privacy.client_noise=local",
    ),
    "diagnostics=mechanisms": ("diagnostics", "'mechanism'"),
    "privacy=client federation.weights=size": ("federation.weights", "uniform"),
    "privacy=client federation.weights=uniform federation.cohort_sampling=fixed "
    "federation.cohort_size=2": ("federation.cohort_sampling", "poisson"),
    "privacy=client federation.weights=uniform method=fedex_lora": ("privacy.unit", "text"),
    "method=fedex_lora federation.server_optimizer.name=adam": (
        "federation.server_optimizer.name",
        "sgd",
    ),
    "partition=dirichlet partition.dirichlet_alpha=0": ("partition.dirichlet_alpha", "above 0"),
    "partition=dirichlet partition.dirichlet_alpha=null": ("partition.dirichlet_alpha", "0.5"),
    "partition=severe": ("partition", "dirichlet"),
    "task=sst2 partition=severe federation.num_clients=4": ("partition", "dirichlet"),
    "partition=natural": ("partition", "client_column"),
    "partition=shards partition.shards_per_client=0": ("partition.shards_per_client", "1 or more"),
    "paths.data=no/such/folder": ("paths.data", "bbc_news/"),
    "paths.runs=": ("paths.runs", "folder"),
    "paths.runs=~nosuchuser/x": ("paths.runs", "no such user"),
    "paths.data=~nosuchuser": ("paths.data", "no such user"),
    "model.source=~nosuchuser/x": ("model.source", "no such user"),
    "paths.runs=/dev/null": ("paths.runs", "is a file"),
    "paths.cache=/dev/null/deeper/still": ("paths.cache", "is a file or in one"),
    "name=a/b": ("name", "letters"),
    "name=..": ("name", "letters"),
    "name=${${seed}": ("name", "${section.key}"),
    "engine.max_tokens=16": ("engine.max_tokens", "task.max_length=128"),
    "engine.device=gpu": ("engine.device", "auto"),
    "engine.precision=fp16": ("engine.precision", "'bf16'"),
    "engine.threads=0": ("engine.threads", "1 or more"),
    "tracking.tags=a": ("tracking.tags", "list"),
    "model=auto": ("model.source", "model.source=VALUE"),
    "model.targets.query_value=[]": ("model.targets.query_value", "layer"),
    "model.local_lr.sgd=1": ("model.local_lr.sgd", "one_factor"),
    "+model._target_=os.system": ("model._target_", "remove"),
    "method.options={_target_:os.system}": ("method.options._target_", "remove"),
    "model.source=${oc.env:WANDB_API_KEY}": ("model.source", "allowed are"),
    "model.source=${${adapter.targets}:HOME}": ("model.source", "cannot be read"),
    "model.source=\"${oc.decode:'${oc.env:HOSTNAME}'}\"": ("model.source", "allowed are"),
    "task.metrics=[acuracy]": ("task.metrics", "'accuracy'"),
    "task.eval_on=dev": ("task.eval_on", "eval"),
    "task.eval_on=test": ("task.eval_on", "tune"),
    "task.classes=business": ("task.classes", "list"),
    "task.classes=[1,2]": ("task.classes[0]", "text"),
    "task.holdout_fraction=1.0": ("task.holdout_fraction", "between"),
    "-m task=sst2,qnl": ("task", "'qnli'"),
    "-m adapter.rank=4,0": ("adapter.rank", "job 2 of 2"),
    "-m task=glob(x*)": ("task", "matches none"),
    "-m seed=interval(0,1)": ("seed", "range"),
    "-m seed=range(200) federation.rounds=range(1,200)": ("-m", "sweep less"),
    "method=ffa-lora": ("method", "'ffa_lora'"),
    "partition=seveer": ("partition", "'severe'"),
    "federation=": ("federation", "default"),
    "task=''": ("task", "bbc_news"),
    "modle=minilm": ("modle", "'model'"),
    "trackng=wandb": ("trackng", "'tracking'"),
    "enginee=stacked": ("enginee", "'engine'"),
    "privcy=none": ("privcy", "'privacy'"),
    "adapter.rnk=8": ("adapter.rnk", "'adapter.rank'"),
    "head.mod=trained": ("head.mod", "'head.mode'"),
    "engine.divice=cpu": ("engine.divice", "'engine.device'"),
    "tracking.projct=a": ("tracking.projct", "'tracking.project'"),
    "paths.run=a": ("paths.run", "'paths.runs'"),
    "partition.dirichlet=1": ("partition.dirichlet", "'partition.dirichlet_alpha'"),
    "privacy.epsilon=3": ("privacy.epsilon", "'privacy.epsilon_target'"),
    "task.max_len=9": ("task.max_len", "'task.max_length'"),
    "model.sorce=a": ("model.sorce", "'model.source'"),
    "adapter.rank=": ("adapter.rank", "whole number"),
    "adapter.rank=eight": ("adapter.rank", "whole number"),
    "adapter.alpha=inf": ("adapter.alpha", "finite"),
    "adapter.seed=-1": ("adapter.seed", "0 or more"),
    "adapter=8": ("adapter", "section"),
    "partition.seed=1.5": ("partition.seed", "whole number"),
    "partition.min_client_size=0": ("partition.min_client_size", "1 or more"),
    "partition.max_tries=0": ("partition.max_tries", "1 or more"),
    "privacy.noise=secret": ("privacy.noise", "'secure'"),
    "privacy.clip=flatt": ("privacy.clip", "'flat'"),
    "privacy.clip_quantile=1": ("privacy.clip_quantile", "between"),
    "privacy.clip_lr=0": ("privacy.clip_lr", "above 0"),
    "privacy.client_noise=local": ("privacy.client_noise", "central"),
    "federation.local_weight_decay=-1": ("federation.local_weight_decay", "0 or more"),
    "federation.wire_dtype=float16": ("federation.wire_dtype", "'bfloat16'"),
    "federation.downlink=cache": ("federation.downlink", "'cached'"),
    "federation.server_optimizer.beta2=1": ("federation.server_optimizer.beta2", "below 1"),
    "federation.server_optimizer.tau=0": ("federation.server_optimizer.tau", "above 0"),
    "federation.eval_clients=1": ("federation.eval_clients", "true or false"),
    "tracking.mode=onlin": ("tracking.mode", "'online'"),
    "tracking.project=": ("tracking.project", "ffalora"),
    "tracking.tags=[1]": ("tracking.tags[0]", "text"),
    "task.name=../bbc": ("task.name", "letters"),
    "task.name=büro": ("task.name", "'buro'"),
    "name=日本": ("name", "letters"),
    "name=été": ("name", "'ete'"),
    "sèed=1": ("sèed", "'seed'"),
    "mödel=minilm": ("mödel", "'model'"),
    "adapter.ränk=8": ("adapter.ränk", "'adapter.rank'"),
    "task=bbc_newś": ("task", "'bbc_news'"),
    "method=ffa_löra": ("method", "'ffa_lora'"),
    "adapter.targets=queryé": ("adapter.targets", "'query_value'"),
    "federation.rounds=zähl": ("federation.rounds", "whole number"),
    f"federation.rounds={'9' * 5000}": ("federation.rounds", "digits"),
    f"federation.local_lr=1{'0' * 400}": ("federation.local_lr", "a float can hold"),
    "experiment=null debug=null seed=-1": ("seed", "0 or more"),
    "task.splits={train:../../x}": ("task.splits.train", "letters"),
    "task.package=os.path": ("task.package", "installed package"),
    "model.source=package:os.path/x": ("model.source", "installed package"),
    "model.name=a/b": ("model.name", "letters"),
    "method.options={_partial_:true}": ("method.options._partial_", "remove"),
    "method.options={a:{b:nan}}": ("method.options.a.b", "finite"),
    "tracking.project='a\x1b[31m'": ("tracking.project", "control"),
    "task.text_columns=[]": ("task.text_columns", "1 or 2"),
    "task.classes=[a]": ("task.classes", "two classes"),
    "task.max_length=3": ("task.max_length", "4 or more"),
    "task.eval_split=dev": ("task.eval_split", "holdout"),
    "-m seed=range(1000000000000)": ("seed", "sweep less"),
    "-m seed=range(0,10,0)": ("seed", "steps of 0"),
    "--quite": ("--quite", "--quiet"),
}


@pytest.mark.parametrize("typed", CASES)
def test_one_line_names_the_key_and_the_remedy(typed, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", *typed.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("ffalora: ")
    assert len(line) <= 200
    for words in CASES[typed]:
        assert words in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", ["./jörg", "/data/模型", "пример", "~/mine"])
def test_a_word_of_letters_that_are_not_ascii_needs_no_quotes(source) -> None:
    (job,) = plan([f"model.source={source}", "model=auto", "model.name=any"])
    assert job.config.model.source == source


def test_there_are_many() -> None:
    assert len(CASES) >= 180


@pytest.mark.parametrize("length", [300, 5000])
def test_a_path_too_long_for_a_file_system_is_one_line(length, capsys) -> None:
    for typed in (["run", f"paths.data={'a' * length}"], ["show", "a" * length]):
        assert main(typed) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert len(line) <= 200


def test_an_environment_variable_never_reaches_the_line(monkeypatch, capsys) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "hush")
    assert main(["run", "model.source=${oc.env:WANDB_API_KEY}"]) == 2
    assert "hush" not in capsys.readouterr().err
