"""Generated answers: with a cache as without, as transformers generates, ended and shared out."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ffalora_cli.engine.generate import Ending, generate, prompts
from ffalora_cli.experiment.ranks import Leader, follow
from ffalora_cli.export.peft import merged_model
from tests.export.test_language_models import answered, subject
from tests.language import tokenizer
from tests.two_ranks import on_two_ranks

MOST = 18
BEGINNINGS = [np.random.default_rng(n).integers(4, 60, n) for n in (3, 12, 7, 1, 9, 5, 12)]


def ending(*tokens, stop=(), most=MOST):
    return Ending(most, frozenset(tokens), stop, tokenizer())


def one_by_one(network, values, tokens):
    """Every prompt alone, and every token of it read anew for every token of the answer."""
    network.context.values = dict(values)
    network.model.set_attn_implementation(network.plain.config._attn_implementation)
    found = []
    for beginning in BEGINNINGS:
        ids = [int(token) for token in beginning]
        while len(ids) < len(beginning) + MOST and (
            len(ids) == len(beginning) or ids[-1] not in tokens
        ):
            with torch.no_grad():
                scores = network.model(input_ids=torch.tensor([ids]), use_cache=False).logits
            ids.append(int(scores[0, -1].argmax()))
        found.append(ids[len(beginning) :])
    return found


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2", "opt", "phi3"])
def test_a_cache_changes_nothing(family):
    """Grouped heads, windows shorter than the text, soft caps, tables of positions, Conv1D."""
    _, network, values, _, _ = subject(family)
    free = generate(network, BEGINNINGS, ending(), 64, values)
    assert [len(answer) for answer in free] == [MOST] * len(BEGINNINGS)
    ends = {answer[4 + row] for row, answer in enumerate(free)}
    wanted = one_by_one(network, values, ends)
    assert len({len(answer) for answer in wanted}) > 1
    for max_tokens in (1, 8, 10_000):  # one row, a few and all of them at once
        assert generate(network, BEGINNINGS, ending(*ends), max_tokens, values) == wanted
    other = generate(network, BEGINNINGS, ending(), 64, network.initial)
    assert other != free


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_transformers_generates_the_same_with_the_merged_weights(family):
    # A Llama has no window, but transformers' cache would take one from its configuration.
    window = {"sliding_window": None} if family == "llama" else {}
    _, network, values, _, _ = subject(family, **window)
    found = generate(network, BEGINNINGS, ending(), 64, values)
    merged = merged_model(network, values, {})
    for beginning, answer in zip(BEGINNINGS, found, strict=True):
        ids = torch.from_numpy(beginning)[None]
        settings = {"max_new_tokens": MOST, "do_sample": False, "eos_token_id": None}
        assert merged.generate(ids, **settings)[0, len(beginning) :].tolist() == answer


def test_a_prompt_is_what_stands_before_the_answer():
    examples = answered(6)
    rows = np.array([4, 0, 3])
    for row, prompt in zip(rows, prompts(examples, rows), strict=True):
        first, last = examples.targets.offsets[row : row + 2]
        whole = [*prompt.tolist(), *examples.targets.values[first:last].tolist()]
        assert whole == examples.tokens[row].tolist()


def test_what_ends_an_answer_is_no_part_of_it():
    tokens = tokenizer()
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[1, 2]))
    made = Ending.of(tokens, model, 9, ["ab", "<s>"])
    assert made.tokens == {0, 1, 2} and made.stop == ("ab",)
    plain = Ending.of(tokens, SimpleNamespace(), 9, [])
    assert plain.tokens == {1} and not plain.stop

    class Letters:
        """Tokens of several letters, so that a stop may begin within one."""

        def decode(self, ids, skip_special_tokens=False):
            return "".join({1: "</s>" * (not skip_special_tokens)}.get(i, "xab Q"[i:]) for i in ids)

    stops = Ending(9, frozenset({1}), ("ab", "Q!"), Letters())
    assert stops.reached([3, 0]) and not stops.reached([3, 3])
    assert stops.reached([4, 1]) and stops.text([4, 1]) == "Q"
    assert stops.text([4, 0]) == "Qx" and stops.text([]) == ""


def written(ranks):
    """On rank 0 what was generated, and what was told of it."""
    _, network, values, _, _ = subject("llama")
    write = partial(generate, network, BEGINNINGS, ending(7, 11, 13, 17), 2, ranks=ranks)
    simulation = SimpleNamespace(engine=None, network=network)
    data = SimpleNamespace(evals={})
    parts = SimpleNamespace(simulation=simulation, predict=None, write=write, data=data)
    if ranks.rank:
        return follow(ranks, parts)
    told = []
    found = Leader(ranks, parts).write(values, lambda: None, lambda *how: told.append(how))
    ranks.tell()
    return found, told


def test_two_ranks_write_what_one_does():
    (found, told), _ = on_two_ranks(written)
    _, network, values, _, _ = subject("llama")
    assert found == generate(network, BEGINNINGS, ending(7, 11, 13, 17), 2, values)
    assert {total for _, total in told} == {4}  # of seven rows
    done = [rows for rows, _ in told]
    assert done == sorted(done) and done[0] == 0 and 3 < done[-1] < 4


def test_a_stop_is_noticed_between_two_tokens():
    class Asked(Exception):
        pass

    polls = []

    def poll():
        polls.append(0)
        if len(polls) == 5:
            raise Asked

    _, network, values, _, _ = subject("llama")
    with pytest.raises(Asked):
        generate(network, BEGINNINGS, ending(), 10_000, values, poll)
