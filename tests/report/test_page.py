"""The report: nothing from outside, nothing unescaped, nothing private; and in a browser."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources

import pytest

from ffalora_cli.config.errors import ConfigError
from ffalora_cli.report.page.page import page
from ffalora_cli.report.table.rows import Question
from tests.browser import CHROMIUM, browser
from tests.made_runs import made_run

HOSTILE = "<script>alert('x')</script><img src=http://evil.example/a.png onerror=alert(1)>\"'&$x$"
TEMPLATE = (
    resources.files("ffalora_cli.report.page").joinpath("page.html").read_text(encoding="utf-8")
)
STYLE = TEMPLATE.partition("<style>")[2].partition("</style>")[0]
SCORES = [0.2, 0.4, 0.5, 0.7]
VOID = {"meta", "br", "img", "link", "input"}


class Reader(HTMLParser):
    """Tags, their attributes and the text, with a check that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def runs(tmp_path):
    """Two methods, two seeds, one of them not private, one stopped."""
    return [
        made_run(tmp_path, ["seed=0"], SCORES),
        made_run(tmp_path, ["seed=1"], [0.3, 0.3, 0.6, 0.8]),
        made_run(tmp_path, ["method=lora"], SCORES, per_round=2e6),
        made_run(tmp_path, ["method=lora", "privacy=none"], SCORES, per_round=2e6),
        made_run(tmp_path, ["seed=2"], [0.1, 0.2], finished=False),
    ]


def test_it_says_what_the_records_say(runs):
    reader = Reader(page(runs, Question()))
    for words in (
        "5 runs, 4 of them finished",
        "epsilon 10.00 (unit text, add/remove one, delta 1e-05)",
        "a note about noise",
        "training loss",
        "ffalora run method=lora privacy=none",
        "stopped after round 1 of",
        "planned epsilon 10.00",
        "federation.local_lr",
        "75.00",  # mean of 0.7 and 0.8, in percent
        "9.000",  # MB of adapters
    ):
        assert words in reader.text, words
    assert [tag for tag, _ in reader.tags].count("svg") == 5
    assert "a warning" not in reader.text and "1,200" not in reader.text  # they count rows


def test_nothing_comes_from_outside_and_no_script_runs(runs):
    reader = Reader(page(runs, Question()))
    names = {tag for tag, _ in reader.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    identities = [a["id"] for _, a in reader.tags if "id" in a]
    assert len(identities) == len(set(identities))
    for _, attributes in reader.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "action", "style", "clip-path"):
                assert "//" not in (value or ""), (name, value)
                for target in re.findall(r"#([\w-]+)", value or "") if "href" in name else ():
                    assert target in identities
    assert "@import" not in STYLE and "url(" not in STYLE
    policy = next(a for _, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")


def hostile(run, relation=HOSTILE):
    config = {**run.config, "method": {**run.config["method"], "name": HOSTILE}}
    manifest = {**run.manifest, "command": ["ffalora", HOSTILE], "device": HOSTILE}
    privacy = {**run.privacy, "sentence": HOSTILE, "outside": [HOSTILE], "relation": relation}
    path = run.path.parent / "<b>hostile"
    return replace(run, config=config, manifest=manifest, privacy=privacy, path=path)


def test_hostile_names_are_text(runs):
    text = page([hostile(runs[0]), runs[3]], Question())
    reader = Reader(text)
    assert not {tag for tag, _ in reader.tags} & {"script", "img", "b"}
    assert "evil.example" in reader.text
    assert "<script" not in text


def test_folders_of_the_machine_stay(runs):
    typed = ["ffalora", "run", "paths.data=wards/anna", "+paths.x=y", "model.source=~/anna/m"]
    typed += ["task.package=/home/anna/p", "/home/anna/mine.yaml", "seed=1"]
    run = replace(runs[0], manifest={**runs[0].manifest, "command": typed})
    text = Reader(page([run, runs[3]], Question())).text
    assert "anna" not in text
    assert "ffalora run paths.data=FOLDER +paths.x=FOLDER model.source=FOLDER" in text
    assert "FOLDER seed=1" in text


def test_what_is_private_per_client_stays(tmp_path):
    client = ["privacy=client", "federation.num_clients=40", "federation.cohort_size=10"]
    client += ["federation.cohort_sampling=poisson", "federation.weights=uniform"]
    run = made_run(tmp_path, client, SCORES, per_round=7654321.0)
    reader = Reader(page([run], Question()))
    assert "withheld" in reader.text
    assert "22.96" not in reader.text and "7.65" not in reader.text
    assert [tag for tag, _ in reader.tags].count(
        "svg"
    ) == 3  # score by round and epsilon, epsilon by round
    metric = "eval/personalized_accuracy"
    run = made_run(tmp_path, [*client, "seed=1"], SCORES, metric=metric)
    with pytest.raises(ConfigError, match="may not leave"):
        page([run], Question())


def test_own_labels_of_private_runs_are_not_drawn(tmp_path):
    scores = {0: {"accuracy_own_labels": 0.87654}, 1: {"accuracy_own_labels": 0.5}}
    words = ["federation.eval_clients=true"]
    private = made_run(tmp_path, words, SCORES, clients=scores)
    public = made_run(tmp_path, [*words, "privacy=none"], SCORES, clients=scores)
    assert "own mix" not in page([private], Question())
    assert "own mix" in page([public], Question())


def test_settings_clients_and_labels_are_tables_of_a_page(tmp_path):
    scores = {0: {"accuracy_own_labels": 0.87654}, 1: {"accuracy_own_labels": 0.5}}
    words, dealt = ["federation.eval_clients=true"], '{"schema_version":1,"rows":[[31415],[27182]],'
    for override, shown in (("privacy=none", True), ("privacy=example", False)):
        run = made_run(tmp_path, [*words, override], SCORES, clients=scores)
        (run.path / "label_counts.json").write_text(
            dealt + '"labels":["rows"],"names":["Oslo","Bergen"]}'
        )
        text = page([run], Question())
        assert "LoRA α" in text and "learning rate" in text
        for private in ("31415", "27182", "Oslo", ">87.7<"):
            assert (private in text) == shown, (override, private)
    assert re.search(r"\.wide \{ overflow-x: auto", STYLE)
    assert text.count("<table>") == text.count('<div class="wide"')  # each of them scrolls


def test_a_stopped_run_alone_has_a_page(runs):
    reader = Reader(page(runs[4:], Question()))
    assert "none of these runs is finished" in reader.text


def test_words_of_one_private_run(runs):
    alone = next(run for run in runs if run.finished and run.config["privacy"]["unit"] != "none")
    text = page([alone], Question())
    assert "1 run, 1 of them finished" in text
    assert "epsilon spent against" in text and "privacy/epsilon_spent against" not in text


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_of_text_and_lines(scheme):
    light, dark = STYLE.split("@media (prefers-color-scheme: dark)")
    found = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", dark if scheme == "dark" else light))
    assert len(found) == 13
    for name in ("ink", "soft", "link"):
        for behind in ("back", "shade"):
            assert contrast(found[name], found[behind]) >= 4.5, name
    for index in range(7):
        assert contrast(found[f"pen{index}"], found["back"]) >= 3, index


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_in_a_browser(runs, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(page([hostile(runs[0], "add/remove one"), *runs[1:]], Question()))
    with browser(tmp_path / "profile") as tab:
        for width in (400, 1200):
            for dark in (False, True):
                tab.open(file, width, dark)
                size = tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
                assert size[0] <= size[1] == width
                asked = [e for e in tab.events if e["method"] == "Network.requestWillBeSent"]
                assert [e["params"]["request"]["url"] for e in asked] == [file.as_uri()]
                said = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
                assert not [e for e in tab.events if e["method"] in said]
                back = tab.evaluate("getComputedStyle(document.body).backgroundColor")
                assert back == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
                drawn = tab.evaluate(
                    "[...document.querySelectorAll('figure svg')].map(svg => { const box = "
                    "svg.getBoundingClientRect(); return [box.left, box.right, box.height]; })"
                )
                assert len(drawn) == 4
                for left, right, height in drawn:
                    assert 0 <= left < right <= width and height > 150
                letters = tab.evaluate(
                    "const scale = m => Math.hypot(m.a, m.b);"  # of turned letters, too
                    "Math.min(...[...document.querySelectorAll('figure svg text')].map(t => "
                    "parseFloat(getComputedStyle(t).fontSize) * scale(t.getScreenCTM())))"
                )
                assert letters >= 9  # pixels
                inks = tab.evaluate(
                    "[...new Set([...document.querySelectorAll('figure svg text')].map(t => "
                    "getComputedStyle(t).fill))]"
                )
                assert inks == ["rgb(230, 232, 235)" if dark else "rgb(27, 31, 36)"]
