"""The hostile cases that are planted in folders before a harmless command is typed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from scripts.chaos.scene import Scene

DEEP = b"[" * 100_000 + b"]" * 100_000


def _link(name: str, folder: bool = False) -> Callable[[Scene], list[str]]:
    def plant(scene: Scene) -> list[str]:
        place = scene.run / name
        if place.is_dir():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        place.symlink_to(scene.outside if folder else scene.outside / "victim")
        return scene.resume()

    return plant


def _file(name: str, content: bytes, verb: str = "show") -> Callable[[Scene], list[str]]:
    def plant(scene: Scene) -> list[str]:
        (scene.run / name).write_bytes(content)
        return [verb, str(scene.run)]

    return plant


def _pipe(name: str, verb: str = "show") -> Callable[[Scene], list[str]]:
    def plant(scene: Scene) -> list[str]:
        (scene.run / name).unlink()
        os.mkfifo(scene.run / name)
        return [verb, str(scene.run)]

    return plant


def _pickle(name: str, verb: str = "show") -> Callable[[Scene], list[str]]:
    return lambda scene: _file(name, scene.payload() + b"\n", verb)(scene)


def _run_link(scene: Scene) -> list[str]:
    shutil.copytree(scene.run, scene.outside / "run")
    shutil.rmtree(scene.run)
    scene.run.symlink_to(scene.outside / "run")
    return scene.resume()


def _state(change: Callable[[bytes], bytes]) -> Callable[[Scene], list[str]]:
    """Every checkpoint's tensors changed, with hashes that hold; the run starts over."""

    def plant(scene: Scene) -> list[str]:
        for folder in (scene.run / "ckpt").glob("round-*"):
            state, manifest = folder / "state.safetensors", folder / "manifest.jsonl"
            state.write_bytes(change(state.read_bytes()))
            content = json.loads(manifest.read_bytes().splitlines()[0])
            content["files"][state.name] = hashlib.sha256(state.read_bytes()).hexdigest()
            body = json.dumps(content).encode() + b"\n"
            manifest.write_bytes(body + f'"{hashlib.sha256(body).hexdigest()}"\n'.encode())
        return ["resume", str(scene.run)]  # not quiet: its notes are looked at

    return plant


def _adapter(content: Callable[[Scene], bytes] | None) -> Callable[[Scene], list[str]]:
    """An adapter beside the records of a run, which is then audited; None is a pipe."""

    def plant(scene: Scene) -> list[str]:
        file = scene.run / "adapter.safetensors"
        if content is None:
            os.mkfifo(file)
        else:
            file.write_bytes(content(scene))
        return _audit(scene)

    return plant


def _linked_adapter(scene: Scene) -> list[str]:
    _link("adapter.safetensors")(scene)
    return _audit(scene)


def _audit(scene: Scene) -> list[str]:
    return ["audit", str(scene.run), "--tier=mechanism", "--minutes=0.01"]


def _charge(line: bytes) -> Callable[[Scene], list[str]]:
    """A line more in the ledger, which an audit reads."""

    def plant(scene: Scene) -> list[str]:
        file = scene.run / "privacy_ledger.jsonl"
        file.write_bytes(file.read_bytes() + line + b"\n")
        return _audit(scene)

    return plant


def _header(text: bytes, size: int | None = None) -> Callable[[bytes], bytes]:
    claimed = len(text) if size is None else size
    return lambda data: claimed.to_bytes(8, "little") + text + b"\0" * 64


def _entry(begin: int, end: int, shape: str = "[4]") -> bytes:
    return f'"x":{{"dtype":"F32","shape":{shape},"data_offsets":[{begin},{end}]}}'.encode()


def _model(change: Callable[[Scene, Path], None]) -> Callable[[Scene], list[str]]:
    def plant(scene: Scene) -> list[str]:
        folder = scene.root / "evil"
        shutil.copytree(scene.root / "model", folder)
        change(scene, folder)
        settings = [s for s in scene.settings if not s.startswith("model.source")]
        return ["run", *settings, f"model.source={folder}", "--quiet"]

    return plant


def _only_pickle(scene: Scene, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(scene.payload())


def _as_safetensors(scene: Scene, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(scene.payload())


def _remote_code(*names: str) -> Callable[[Scene, Path], None]:
    def change(scene: Scene, folder: Path) -> None:
        (folder / "evil.py").write_text(f"open({str(scene.sentinel)!r}, 'w').close()\n")
        for name in names:
            content = json.loads((folder / name).read_text())
            content["auto_map"] = {
                "AutoConfig": "evil.Config",
                "AutoModelForSequenceClassification": "evil.Model",
                "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"],
            }
            content["model_type"] = "evil"
            (folder / name).write_text(json.dumps(content))

    return change


def _written(name: str, content: bytes) -> Callable[[Scene, Path], None]:
    return lambda scene, folder: (folder / name).write_bytes(content) and None


def _rows(suffix: str, content: bytes | None) -> Callable[[Scene], list[str]]:
    """Rows of ``rotten_tomatoes``; None is the pickle."""

    def plant(scene: Scene) -> list[str]:
        folder = scene.root / "data" / "rotten_tomatoes"
        folder.mkdir(parents=True)
        for split in ("train", "validation", "test"):
            data = scene.payload() if content is None else content
            (folder / f"{split}.{suffix}").write_bytes(data)
        settings = [*scene.settings, "task=rotten_tomatoes", "task.max_length=8"]
        return ["run", *settings, f"paths.data={folder.parent}", "--quiet"]

    return plant


def anchor_bomb() -> bytes:
    """Nine anchors, each nine times the one before: 200 bytes that unfold to 400 million texts."""
    lines = ["options:", f"  a0: &a0 [{', '.join('x' * 9)}]"]
    for depth in range(1, 9):
        lines.append(f"  a{depth}: &a{depth} [{', '.join([f'*a{depth - 1}'] * 9)}]")
    return "\n".join(lines).encode()


def python_tag(sentinel: Path) -> bytes:
    """A tag that runs a command where YAML is loaded unsafely."""
    return f"!!python/object/apply:os.system ['touch {sentinel}']".encode()


def _in_config(content: Callable[[Scene], bytes], verb: str) -> Callable[[Scene], list[str]]:
    """The content in the place of the method's options, in a config that is otherwise whole."""

    def plant(scene: Scene) -> list[str]:
        file = scene.run / "config.yaml"
        before = file.read_bytes()
        assert before.count(b"  options: {}\n") == 1
        inner = content(scene).replace(b"\n", b"\n  ")
        file.write_bytes(before.replace(b"  options: {}\n", b"  " + inner + b"\n"))
        return [verb, str(scene.run)]

    return plant


PLANTED: dict[str, Callable[[Scene], list[str]]] = {
    "link: rounds": _link("rounds.jsonl"),
    "link: communication": _link("communication.jsonl"),
    "link: privacy ledger": _link("privacy_ledger.jsonl"),
    "link: lock": _link(".lock"),
    "link: checkpoints": _link("ckpt", folder=True),
    "link: tracker folder": _link("wandb", folder=True),
    "link: manifest": _link("manifest.json"),
    "link: config": _link("config.yaml"),
    "link: summary": _link("summary.json"),
    "link: run folder": _run_link,
    "pipe: manifest": _pipe("manifest.json", "resume"),
    "pipe: rounds": _pipe("rounds.jsonl"),
    "pipe: rounds on resume": _pipe("rounds.jsonl", "resume"),
    "pipe: config": _pipe("config.yaml", "resume"),
    "pipe: privacy": _pipe("privacy.json"),
    "pickle: manifest": _pickle("manifest.json"),
    "pickle: config": _pickle("config.yaml"),
    "pickle: rounds": _pickle("rounds.jsonl"),
    "pickle: ledger": _pickle("privacy_ledger.jsonl", "resume"),
    "deep manifest": _file("manifest.json", DEEP),
    "deep rounds": _file("rounds.jsonl", DEEP + b"\n"),
    "deep config": _file("config.yaml", DEEP),
    "deep ledger": _file("privacy_ledger.jsonl", DEEP + b"\n", "resume"),
    "NaN manifest": _file("manifest.json", b'{"schema_version": NaN}'),
    "huge integer": _file("manifest.json", b'{"schema_version": ' + b"9" * 10_000 + b"}"),
    "huge float": _file("rounds.jsonl", b'{"schema_version":1,"round":1e999,"metrics":{}}\n'),
    "not UTF-8": _file("config.yaml", b"name: \xff\xfe\n"),
    "laughs": _in_config(lambda _: anchor_bomb(), "show"),
    "laughs on resume": _in_config(lambda _: anchor_bomb(), "resume"),
    "self anchor": _file("config.yaml", b"&a [*a]\n"),
    "python tag": _in_config(lambda scene: b"options: " + python_tag(scene.sentinel), "show"),
    "python tag on resume": _in_config(
        lambda scene: b"options: " + python_tag(scene.sentinel), "resume"
    ),
    "state: pickle": lambda scene: _state(lambda _: scene.payload())(scene),
    "state: header 2**60": _state(_header(b"{}", 2**60)),
    "state: huge tensor": _state(_header(b"{" + _entry(0, 2**62, "[4611686018427387904]") + b"}")),
    "state: overlap": _state(
        _header(b"{" + _entry(0, 16) + b"," + _entry(8, 24).replace(b'"x"', b'"y"') + b"}")
    ),
    "state: twice": _state(_header(b"{" + _entry(0, 16) + b"," + _entry(0, 16) + b"}")),
    "state: deep": _state(_header(DEEP)),
    "state: empty": _state(lambda _: b""),
    "adapter: pickle": _adapter(lambda scene: scene.payload()),
    "adapter: header 2**60": _adapter(lambda _: _header(b"{}", 2**60)(b"")),
    "adapter: deep": _adapter(lambda _: _header(DEEP)(b"")),
    "adapter: pipe": _adapter(None),
    "adapter: link": _linked_adapter,
    "audit of a target": _in_config(lambda _: b"options: {_target_: os.system}", "audit"),
    "charge without a round": _charge(b'{"clients": null, "steps": 1}'),
    "charge to nobody": _charge(b'{"round": 1, "clients": [999999999], "steps": 1}'),
    "charge of a text": _charge(b'{"round": 1, "clients": "all", "steps": "many"}'),
    "charge beyond numbers": _charge(
        b'{"round": 1, "clients": null, "steps": 1' + b"0" * 40 + b"}"
    ),
    "model: pickle only": _model(_only_pickle),
    "model: pickle as safetensors": _model(_as_safetensors),
    "model: remote code": _model(_remote_code("config.json")),
    "model: remote tokenizer": _model(_remote_code("config.json", "tokenizer_config.json")),
    "model: deep config": _model(_written("config.json", DEEP)),
    "model: config is a list": _model(_written("config.json", b"[1]")),
    "model: header 2**60": _model(_written("model.safetensors", (2**60).to_bytes(8, "little"))),
    "model: tokenizer": _model(_written("tokenizer.json", b'{"version": 9}')),
    "rows: pickle": _rows("parquet", None),
    "rows: pickle as lines": _rows("jsonl", None),
    "rows: deep": _rows("jsonl", DEEP + b"\n"),
    "rows: half a character": _rows("jsonl", b'{"text": "\\ud800", "label": 0}\n'),
    "rows: huge label": _rows("jsonl", b'{"text": "a", "label": "' + b"9" * 6000 + b'"}\n'),
    "rows: mapping as text": _rows("jsonl", b'{"text": {"_target_": "os.system"}, "label": 0}\n'),
    "rows: mixed keys": _rows("jsonl", b'[[1, 2], ["a", 3]]\n'),
    "rows: NUL": _rows("csv", b"text,label\n\0\0,\0\n"),
    "rows: extra cells": _rows("csv", b"txt,label\na,0,1,2,3\n"),
}
