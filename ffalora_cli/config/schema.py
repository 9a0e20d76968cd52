"""The typed configuration: one frozen dataclass a group, built from plain dictionaries.

Every key has its explanation in the YAML that sets it (``configs/``); here are types, allowed
values, and what other rooms rely on. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

AUTOMATIC = "auto"
"""``name`` of a run that was given none: it is made of what was typed."""

INSIDE_CLIENTS = frozenset({"row", "text", "column"})
"""Units of privacy that are groups of rows of one client."""

TEXT_CLASSIFICATION = "text_classification"
"""``task.kind`` of a task that does not say it."""

QUANTISED = {"int8": 8.25, "nf4": 4.5}
"""Precisions of frozen weights that are rounded to few bits: bits each, scales included."""

FEW_CLIENTS = 3
"""``federation.num_clients`` where null, unless the data itself names its clients."""


@dataclass(frozen=True)
class GenerateConfig:
    """Answers that a language model writes to evaluation rows, and how they are scored."""

    rows: int = 100  # of the first evaluation split, the same ones in every run
    every: int = 100  # rounds; the last one is scored whatever it is
    initial: bool = False  # also before training
    max_new_tokens: int = 256  # of an answer
    stop: tuple[str, ...] = ()  # texts that end an answer, beside the model's own end of text
    metrics: tuple[str, ...] = ("exact_match",)  # comparisons with the reference answers
    extract: str | None = None  # exact_match: regular expression of what is compared; null = all


@dataclass(frozen=True)
class TaskConfig:
    """A task as data: its kind, columns, classes, metrics, splits."""

    name: str
    version: int
    text_columns: tuple[str, ...]  # one sentence or a pair
    label_column: str | None  # causal_lm: what rows are dealt by, if anything
    classes: tuple[str, ...]  # class names, in label order; () where a kind has none
    metrics: tuple[str, ...]  # of those its kind knows; the first is the headline
    splits: dict[str, str]  # "train"/"validation"/"test"/... -> file stem (or hub split)
    eval_split: str  # evaluated each eval_every rounds; "holdout" = cut from train
    tune_split: str  # for choosing hyper-parameters; "holdout" = cut from train
    eval_on: Literal["eval", "tune", "test"] = "eval"  # which of them this run looks at
    extra_eval_splits: tuple[str, ...] = ()  # e.g. MNLI mismatched
    holdout_fraction: float = 0.1  # stratified, cut before partitioning
    holdout_seed: int = 2024  # fixed with the task version
    max_length: int = 128  # tokens, truncated beyond
    client_column: str | None = None  # a natural partition, if the data has one
    unit_column: str | None = None  # whose rows privacy.unit=column protects together
    folder: str | None = None  # of the splits' files; in a YAML file it is seen from there
    package: str | None = None  # Python package that ships the rows (embedded default)
    hub_path: str | None = None  # Hugging Face data set id
    hub_name: str | None = None  # its configuration
    license: str = ""
    kind: str = TEXT_CLASSIFICATION  # a file in ``ffalora_cli/tasks``, or a package's
    prompt: str | None = None  # format string; lines of empty columns alone are left out
    completion: str | None = None  # format string of what is learnt
    messages_column: str | None = None  # a chat instead of both, written by its model's template
    template_version: int = 1  # raised when prompt, completion or a chat template changes
    loss_reduction: Literal["mean", "sum"] = "mean"  # of a row's tokens (or words)
    long_rows: Literal["cut", "leave_out"] = "cut"  # cut: from the left of the prompt
    generate: GenerateConfig | None = None  # null = never
    image_column: str | None = None  # files' bytes, paths, or both as the library `datasets` has it
    image_size: int | None = None  # height and width in pixels; null = the model's own
    target_range: tuple[float, ...] = ()  # lowest and highest number there is; () = any


@dataclass(frozen=True)
class LearningRates:
    """Recommended local learning rates of a model, by the number of trained factors."""

    one_factor: float
    two_factors: float


@dataclass(frozen=True)
class Tuned:
    """A setting that a model's recommended rates were found in, or published for."""

    kind: str  # task.kind
    optimizer: Literal["sgd", "adamw"]
    factors: Literal["one_factor", "two_factors"]
    private: bool


@dataclass(frozen=True)
class ModelConfig:
    """A pretrained backbone and what suits it."""

    name: str
    source: str  # hub id, folder, GGUF file, or "package:<module>/<folder or file>"
    revision: str | None
    targets: dict[str, tuple[str, ...]]  # pattern name -> module-name suffixes
    local_lr: dict[str, LearningRates]  # local optimiser -> recommended rates
    max_grad_norm: dict[str, float]  # pattern name -> recommended clip
    head_scale: float  # recommended standard deviation of a freshly drawn head
    tuned: tuple[Tuned, ...] = ()  # where rates and clip were found; a guess anywhere else
    random_weights: bool = False  # real architecture, random weights (benchmarks only)
    cache: str | None = None  # paths.cache: a model inside one file is unpacked there
    dropout: float | Literal["own"] | None = None  # of the frozen model in training; null = off


@dataclass(frozen=True)
class AdapterConfig:
    """What is added at every site: ``W + (alpha / rank) * dW``, with ``dW = B A`` for ``lora``."""

    rank: int
    alpha: float
    targets: str  # a key of model.targets
    init: Literal["kaiming", "orthogonal"]
    seed: int  # of the factors alone
    dropout: float
    form: str = "lora"  # a file in ffalora_cli/adapters, or an entry point of ffalora.forms
    layers: int | tuple[int, ...] | None = None  # the last so many, or these from 0; null = all

    @property
    def scale(self) -> float:
        """Factor of dW: alpha / rank."""
        return self.alpha / self.rank

    @property
    def place(self) -> str:
        """What is adapted, for people: ``value of the last 6 layers``."""
        if self.layers is None:
            return self.targets
        if isinstance(self.layers, int):
            last = "layer" if self.layers == 1 else f"{self.layers} layers"
            return f"{self.targets} of the last {last}"
        return f"{self.targets} of layers {', '.join(map(str, self.layers))}"


@dataclass(frozen=True)
class HeadConfig:
    """The classification head."""

    mode: Literal["frozen", "trained", "personal"]
    scale: float  # sd of freshly drawn weights
    seed: int  # of the head alone


@dataclass(frozen=True)
class EvaluationConfig:
    """How much of a split is scored; ``task`` says which, ``federation.eval_every`` how often."""

    max_examples: int | None = None  # null = all


@dataclass(frozen=True)
class MethodConfig:
    """A federated LoRA method, by the name of its file in ``ffalora_cli/methods``."""

    name: str
    trained_factors: Literal["one_factor", "two_factors"]
    head: Literal["frozen", "trained", "personal"]  # what head.mode defaults to
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PartitionConfig:
    """How the training rows are split over clients."""

    name: Literal["iid", "dirichlet", "label_mix", "shards", "quantity", "natural"]
    seed: int
    dirichlet_alpha: float | None = None  # concentration (label skew, or quantity skew)
    min_client_size: int = 1
    max_tries: int = 100
    label_mix: str | None = None  # "severe" | "mild"
    shards_per_client: int | None = None
    keep_together: str = "text"  # rows dealt as one: "text", "row" (none), or task.unit_column


@dataclass(frozen=True)
class PrivacyConfig:
    """The privacy budget and mechanism.

    The unit inside a client is a group of its rows: one row, all rows of one text, or all rows with
    one value of ``task.unit_column``. At unit ``client`` it is the client itself.
    """

    unit: Literal["none", "row", "text", "column", "client"]
    epsilon_target: float | None
    delta: float | None
    noise_multiplier: float | None  # instead of epsilon_target
    max_grad_norm: float | None
    accountant: Literal["pld", "rdp", "prv"]
    calibration: Literal["per_client", "shared"]
    noise: Literal["reproducible", "secure"]
    clip: Literal["flat", "per_layer", "automatic"] = "flat"
    clip_quantile: float | None = None  # null = max_grad_norm stays as it is
    clip_lr: float = 0.2
    clip_count_noise: float | None = None  # null = expected batch / 20
    client_noise: Literal["central", "local"] = "central"
    sampling: Literal["poisson", "fixed", "shuffled"] = "poisson"  # of the rows of a batch
    rows_per_unit: int | None = None  # rows of a unit used in a step (cost alone); null = all
    budget_guard: Literal["stop", "refuse"] = "stop"  # when the target affords fewer rounds
    participation_quantile: float | None = None  # of a client's number of rounds; null: 4 sd above
    trials: int = 1  # runs of a search on the same rows (their mean); 1 = no tuning
    trial_distribution: Literal["geometric", "poisson", "fixed"] = "geometric"
    trial_runs: tuple[str, ...] = ()  # in paths.runs: they chose these settings

    @property
    def inside_clients(self) -> bool:
        """Whether the unit is a group of rows of one client, which clips and noises by itself."""
        return self.unit in INSIDE_CLIENTS


@dataclass(frozen=True)
class ServerOptimizerConfig:
    """FedOpt (Reddi et al. 2021) on the mean update; ``sgd`` with lr 1 is plain averaging."""

    name: Literal["sgd", "adam", "yogi", "adagrad"]
    lr: float
    momentum: float
    beta2: float
    tau: float


@dataclass(frozen=True)
class FederationConfig:
    """Clients, rounds, local training, and what the server does with the uploads."""

    num_clients: int | None  # null = 3; natural: as many as the data has, known when it is read
    cohort_size: int | None  # null = everybody
    cohort_sampling: Literal["full", "fixed", "poisson"]
    rounds: int
    local_steps: int
    local_batch_size: int
    local_optimizer: Literal["sgd", "adamw"]
    local_lr: float
    local_momentum: float
    local_weight_decay: float
    weights: Literal["size", "uniform"]
    server_optimizer: ServerOptimizerConfig
    downlink: Literal["cached", "stateless"]
    wire_dtype: Literal["float32", "bfloat16"]
    eval_every: int
    eval_clients: bool  # also evaluate every client of the cohort on the evaluation split
    combination: Literal["mean", "median", "trimmed_mean", "krum", "multi_krum", "norm_bound"] = (
        "mean"
    )
    assumed_bad: int | None = None  # bad clients a round may have: trimmed_mean, krum, multi_krum
    max_upload_norm: float | None = None  # of a client's update; null = 10 x the usual
    min_clients: int = 1  # accepted uploads below which a round with rejected ones ends the run
    dropout_rate: float = 0.0  # chance that a client of the cohort does not answer
    straggler_rate: float = 0.0  # chance that it answers too late
    lr_schedule: Literal["constant", "cosine", "linear"] = "constant"  # of local_lr over rounds
    warmup_rounds: int = 0  # first rounds in which local_lr rises
    lr_end: float = 0.0  # share of local_lr towards which a schedule falls
    clip_gradients: float | None = None  # norm of a batch's gradient; without privacy
    budget_megabytes: float | None = None  # of all rounds, both ways; for plans alone


@dataclass(frozen=True)
class EngineConfig:
    """How a cohort is trained."""

    name: Literal["stacked", "reference"]
    device: str  # "auto", "cpu", "cuda", "cuda:1"
    precision: Literal["auto", "fp32", "bf16", "tf32", "int8", "nf4"]  # of the frozen weights
    max_tokens: int | None  # tokens in a micro-batch; null = auto
    threads: int | None  # null = torch's default
    share_secret: bool = False  # of noise=secure, with the other machines of a run
    gradient_checkpointing: bool | None = None  # null = where memory is short
    shard: bool = False  # the frozen weights over the processes of a run


@dataclass(frozen=True)
class TrackingConfig:
    """The tracker that is sent the local records."""

    name: Literal["none", "wandb", "trackio", "tensorboard"]
    project: str
    entity: str | None
    mode: Literal["online", "offline"]
    group: str | None
    tags: tuple[str, ...]
    private_metrics: bool = False  # also send what a private run computes without noise


@dataclass(frozen=True)
class PathsConfig:
    """Where things are. Never part of a run's identity."""

    data: str | None
    runs: str
    cache: str | None
    configs: str | None = None  # own options beside ./configs; typed alone
    plugins: str | None = None  # own methods, forms and kinds of task; typed alone


@dataclass(frozen=True)
class Config:
    """One run."""

    seed: int
    name: str
    task: TaskConfig
    model: ModelConfig
    adapter: AdapterConfig
    head: HeadConfig
    method: MethodConfig
    partition: PartitionConfig
    privacy: PrivacyConfig
    federation: FederationConfig
    engine: EngineConfig
    tracking: TrackingConfig
    paths: PathsConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    diagnostics: Literal["none", "mechanism"] = "none"  # what else a round measures
