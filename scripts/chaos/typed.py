"""The hostile cases that are typed as overrides of ``ffalora run``."""

from __future__ import annotations


def _reference(text: str) -> list[str]:
    return [f"tracking.project={text}"]


TYPED: dict[str, list[str]] = {
    "target in a section": ["+model._target_=os.system"],
    "target in options": ["method.options={_target_: os.system}"],
    "target in a list": ["method.options={a: [{_target_: os.system}]}"],
    "target by decode": ["method.options=\"${oc.decode:'{_target_: os.system}'}\""],
    "target by create": ['method.options="${oc.create:{_target_:os.system}}"'],
    "partial": ["method.options={_partial_: true}"],
    "args": ["method.options={_args_: [1]}"],
    "recursive": ["method.options={_recursive_: false}"],
    "convert": ["+task._convert_=all"],
    "target in splits": ["task.splits={_target_: os.system}"],
    "env key": _reference("${oc.env:WANDB_API_KEY}"),
    "env path": _reference("${oc.env:PATH}"),
    "env with default": _reference("${oc.env:SHELL,none}"),
    "env nested": _reference("\"${oc.decode:'${oc.env:HOSTNAME}'}\""),
    "unknown resolver": _reference("${eval:1+1}"),
    "select of nothing": _reference('"${oc.select:no.such.key,${oc.env:LANG}}"'),
    "hydra resolver": _reference("${hydra:runtime.cwd}"),
    "self reference": _reference("${tracking.project}"),
    "name dots": ["name=.."],
    "name parent": ["name=../outside"],
    "name absolute": ["name=/outside"],
    "name NUL": ["name=a\0b"],
    "name newline": ["name='a\nb'"],
    "name escape": ["name='a\x1b[31m'"],
    "name empty": ["name=''"],
    "name long": [f"name={'a' * 5000}"],
    "name surrogate": ["name='a\udcff'"],
    "task name leaves": ["task.name=../outside"],
    "split leaves": ["task.splits={train: ../../outside/victim}"],
    "split absolute": ["task.splits={train: /etc/passwd}"],
    "model name leaves": ["model.name=../x"],
    "package imports": ["task.package=os.path"],
    "package leaves": ["task.package=bbc/../../.."],
    "model package imports": ["model.source=package:os.path/x"],
    "runs NUL": ["paths.runs=a\0b"],
    "runs long": [f"paths.runs={'a' * 5000}"],
    "data long": [f"paths.data=/{'a' * 300}"],
    "runs device": ["paths.runs=/dev/null"],
    "source NUL": ["model.source=/a\0b"],
    "project control": ["tracking.project='a\x1b]0;x\x07'"],
    "deep list": ["method.options={a: " + "[" * 400 + "]" * 400 + "}"],
    "endless range": ["-m", "seed=range(1000000000000)"],
    "endless step": ["-m", "seed=range(0,10,0)"],
    "endless shuffle": ["-m", "seed=shuffle(range(100000000000))"],
    "huge number": [f"federation.rounds={'9' * 5000}"],
    "huge float": ["federation.local_lr=1e999"],
    "searchpath": ["hydra.searchpath=[file:///tmp]"],
    "option leaves": ["task=../../evil"],
}
