"""Routing logs of others: each format, written by an independent program, against what went in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dipsim
from dipsim.trace import Trace, load_trace
from dipsim.trace.encoding import unpack_sets
from dipsim.trace.logs import FORMATS, recognised
from dipsim.trace.logs.usage import import_uses
from tools.routing_logs import EXPERTS, FIXTURES, NAMES, SMALL, Fixture, K, Routes, drawn, expected

ODD = (1, 2, 4)
"""Layers with experts of a model whose others are dense."""


def sets_of(trace: Trace) -> np.ndarray:
    words = np.concatenate([part["expert"] for _, _, part in trace.blocks({"expert": "sets"})])
    return unpack_sets(words, trace.signals["expert"].units)


def scores_of(trace: Trace) -> np.ndarray:
    return np.concatenate([part["expert"] for _, _, part in trace.blocks({"expert": "scores"})])


def check(trace: Trace, routes: Routes, fixture: Fixture) -> None:
    np.testing.assert_array_equal(sets_of(trace)[:, :, :EXPERTS], expected(routes.ids))
    phase = [int(t >= routes.prefill) for t in range(routes.tokens)] if fixture.phase else None
    assert trace.phase.tolist() == (phase or [1] * routes.tokens)
    assert trace.sequence.tolist() == [0] * routes.tokens
    assert trace.meta["experts_per_token"] == K
    assert trace.signals["expert"].scored == fixture.weights
    if fixture.weights:
        scores = scores_of(trace)
        for token, of_layers in enumerate(routes.ids):
            for layer, experts in enumerate(of_layers):
                assert scores[token, layer, experts].tolist() == routes.weights[token][layer]
        assert (scores[~sets_of(trace)] == 0).all()


@pytest.mark.parametrize("fixture", FIXTURES, ids=NAMES)
def test_a_log_is_imported_exactly(fixture: Fixture, tmp_path: Path) -> None:
    routes = drawn(layers=ODD if fixture.any_layers else (0, 1, 2))
    log = fixture.write(routes, tmp_path)
    found = recognised(log)
    assert found is not None
    assert found.name == fixture.format
    trace = dipsim.import_(log, tmp_path / "t.npz", **fixture.options)
    check(trace, routes, fixture)
    assert trace.meta.get("layer_numbers") == (list(ODD) if fixture.any_layers else None)
    if fixture.guesses:
        guesses = load_trace(tmp_path / "t.guesses.npz")
        np.testing.assert_array_equal(sets_of(guesses), expected(routes.guesses))


@pytest.mark.parametrize("fixture", FIXTURES, ids=NAMES)
def test_a_log_that_leaves_nothing_open_is_a_trace(fixture: Fixture, tmp_path: Path) -> None:
    routes = drawn(1, layers=(0, 1, 2))
    log = fixture.write(routes, tmp_path)
    if fixture.options:
        with pytest.raises(dipsim.DipsimError, match=r"give --.*dipsim import"):
            load_trace(log)
        return
    trace = load_trace(log)
    check(trace, routes, fixture)
    imported = dipsim.import_(log, tmp_path / "t.npz")
    run: dict[str, Any] = {"unit_bytes": "1MB", "cache": "12MB", "policy": "lru"}
    direct, through = (dipsim.simulate(one, "snapdragon8", **run) for one in (log, imported))
    assert direct.to_dict()["hits"] == through.to_dict()["hits"]
    assert direct.to_dict()["accesses"] > 0


def test_every_format_has_a_fixture() -> None:
    assert {fixture.format for fixture in FIXTURES} == {format_.name for format_ in FORMATS}


# What a log leaves open ---------------------------------------------------------------------------

DENSE_FIRST = {
    **SMALL,
    "layers": 4,
    "kinds": {"dense": {"experts": None, "intermediate": 32}},
    "pattern": ["dense", "main", "main", "main"],
}


def text(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_layers_are_the_models_or_count_those_with_experts(tmp_path: Path) -> None:
    def lattice_of(*layers: int) -> Path:
        return FIXTURES[NAMES.index("F9-lattice")].write(drawn(layers=layers), tmp_path)

    out = tmp_path / "t.npz"
    for layers, said in (
        ((0, 1, 2), None),
        ((1, 2, 3), None),
        ((1, 2, 3), "model"),
        ((0, 1, 2), "moe"),
    ):
        trace = dipsim.import_(lattice_of(*layers), out, model=DENSE_FIRST, layers_are=said)
        assert trace.meta["layer_numbers"] == [1, 2, 3]
        result = dipsim.simulate(out, "snapdragon8", cache_fraction=0.5, policy="lru")
        assert result.to_dict()["accesses"] == 9 * 3 * K
    for layers, said in ((0, 1, 2), "model"), ((1, 2, 4), None), ((0, 1), None):
        with pytest.raises(
            dipsim.DipsimError, match=r"experts in 1 to 3 \(3\): give --layers-are|the --model"
        ):
            dipsim.import_(lattice_of(*layers), out, model=DENSE_FIRST, layers_are=said)
    with pytest.raises(dipsim.DipsimError, match="do not count from 0: --layers-are model"):
        dipsim.import_(lattice_of(1, 2, 4), out, layers_are="moe")
    dipsim.import_(lattice_of(1, 2, 4), out, unit_bytes=10)
    with pytest.raises(dipsim.DipsimError, match="and not in those: pass the --model"):
        dipsim.simulate(out, "snapdragon8", model=DENSE_FIRST)


def test_a_log_of_fewer_experts_than_the_model_has_its_experts(tmp_path: Path) -> None:
    log = text(tmp_path / "l.jsonl", '{"tok": 0, "layers": [[0, 1, 2]]}')
    model = {**SMALL, "layers": 1}
    direct = dipsim.simulate(log, "snapdragon8", model=model, cache_fraction=0.5).to_dict()
    through = dipsim.import_(log, tmp_path / "t.npz", model=model)
    imported = dipsim.simulate(through, "snapdragon8", cache_fraction=0.5).to_dict()
    assert direct["groups"][0]["units"] == imported["groups"][0]["units"] == EXPERTS
    assert direct["groups"][0]["capacity"] == imported["groups"][0]["capacity"]
    assert dipsim.import_(log, tmp_path / "t.npz", model=model).signals["expert"].units == EXPERTS
    assert dipsim.import_(log, tmp_path / "t.npz", experts=40).signals["expert"].units == 40


def test_batches_without_a_token_are_asked_about(tmp_path: Path) -> None:
    log = FIXTURES[NAMES.index("F12-llama_cpp")].write(drawn(), tmp_path)
    with pytest.raises(dipsim.DipsimError, match=r"hold 3 to 12 experts, batches .*: give --top-k"):
        dipsim.import_(log, tmp_path / "t.npz")
    trace = dipsim.import_(log, tmp_path / "t.npz", top_k=K, decode_only=True)
    assert trace.phase.tolist() == [1] * 5
    plain = text(
        tmp_path / "d.csv", *(f"{n},{e}" for _ in range(3) for n in range(2) for e in (3, 5))
    )
    trace = dipsim.import_(plain, tmp_path / "t.npz")
    assert (trace.tokens, trace.layers, trace.meta["experts_per_token"]) == (3, 2, 2)
    assert "2 experts a token, as every visit of a layer holds 2" in trace.warnings
    twice = text(tmp_path / "e.csv", *(f"{n},{e}" for n in range(2) for e in (3, 5, 3, 4)))
    with pytest.raises(dipsim.DipsimError, match="give --top-k"):
        dipsim.import_(twice, tmp_path / "t.npz")
    more = text(tmp_path / "f.csv", *(f"{n},{e}" for n in range(2) for e in (3, 5, 7, 4)), "0,1")
    with pytest.raises(dipsim.DipsimError, match="no multiple of 3"):
        dipsim.import_(more, tmp_path / "t.npz", top_k=3)


def test_the_last_layer_may_compute_the_last_token_of_a_prompt_alone(tmp_path: Path) -> None:
    prompt = [
        (0, 1),
        (0, 2),
        (0, 3),
        (0, 4),
        (1, 5),
        (1, 6),
    ]  # two tokens, of which layer 1 has one
    log = text(
        tmp_path / "l.csv", *(f"{n},{e}" for n, e in [*prompt, (0, 1), (0, 2), (1, 3), (1, 4)])
    )
    sets = sets_of(dipsim.import_(log, tmp_path / "t.npz", top_k=2))
    found = [[np.flatnonzero(layer).tolist() for layer in token] for token in sets]
    assert found == [[[1, 2], []], [[3, 4], [5, 6]], [[1, 2], [3, 4]]]


@pytest.mark.parametrize("name", ["F12-llama_cpp", "F14-kimi_pairs", "F4-colibri"])
def test_a_prompt_after_decode_tokens_is_another_sequence(name: str, tmp_path: Path) -> None:
    fixture = FIXTURES[NAMES.index(name)]
    log = fixture.write(drawn(), tmp_path)
    data = log.read_bytes()
    again = data.removeprefix(b"layer,expert\n")
    if name == "F4-colibri":  # calls go on being counted
        rows = [line.split(b" ", 1) for line in data.splitlines()]
        calls = int(rows[-1][0]) + 1
        again = b"".join(b"%d %s\n" % (int(call) + calls, rest) for call, rest in rows)
    log.write_bytes(data + again)
    trace = dipsim.import_(log, tmp_path / "t.npz", **fixture.options)
    assert trace.sequence.tolist() == [0] * 9 + [1] * 9
    assert trace.phase.tolist() == ([0] * 4 + [1] * 5) * 2
    alone = dipsim.import_(log, tmp_path / "t.npz", decode_only=True, **fixture.options)
    assert alone.sequence.tolist() == [0] * 5 + [1] * 5


def test_a_log_that_ends_within_a_row_loses_that_token(tmp_path: Path) -> None:
    pairs = FIXTURES[NAMES.index("F12-llama_cpp")].write(drawn(prefill=0), tmp_path)
    pairs.write_text("\n".join(pairs.read_text().splitlines()[:-1]) + "\n")
    for options in {}, {"top_k": K}:
        trace = dipsim.import_(pairs, tmp_path / "t.npz", **options)
        assert trace.tokens == 8
        assert any("the log ends within them" in note for note in trace.warnings)
    lines = FIXTURES[NAMES.index("F7-waste")].write(drawn(), tmp_path)
    lines.write_bytes(lines.read_bytes()[:-20])
    trace = dipsim.import_(lines, tmp_path / "t.npz")
    assert trace.tokens == 8
    assert any("the last line is left out" in note for note in trace.warnings)


def test_unknown_weights_are_no_scores_and_said(tmp_path: Path) -> None:
    log = FIXTURES[NAMES.index("F18-route_trace")].write(drawn(), tmp_path)
    rows = log.read_text().splitlines()
    rows[-1] = ",".join([*rows[-1].split(",")[:6], "nan", *rows[-1].split(",")[7:]])
    trace = dipsim.import_(text(tmp_path / "r.csv", *rows), tmp_path / "t.npz")
    assert not trace.signals["expert"].scored
    assert any("some weights are nan" in note for note in trace.warnings)


def test_ranks_are_scores_where_the_user_says_so(tmp_path: Path) -> None:
    routes = drawn()
    log = FIXTURES[NAMES.index("F7-waste")].write(routes, tmp_path)
    trace = dipsim.import_(log, tmp_path / "t.npz", rank_order=True)
    scores = scores_of(trace)
    assert scores[0, 0, routes.ids[0][0]].tolist() == [3, 2, 1]
    best = dipsim.simulate(trace, "snapdragon8", method="moe", top_k=1, unit_bytes=9, cache="90 B")
    assert best.to_dict()["accesses"] == routes.tokens * len(routes.layers)


def test_arrays_of_layers_first_are_told_apart_or_asked_about(tmp_path: Path) -> None:
    ids = np.array(drawn(tokens=300, layers=(0, 1, 2)).ids, np.int16)
    np.save(tmp_path / "a.npy", ids)
    np.save(tmp_path / "b.npy", ids.swapaxes(0, 1).copy())
    wanted = sets_of(dipsim.import_(tmp_path / "a.npy", tmp_path / "t.npz"))
    with pytest.raises(
        dipsim.DipsimError, match=r"\[3, 300, 3\].*: give --layers-first, or --layers 300"
    ):
        dipsim.import_(tmp_path / "b.npy", tmp_path / "t.npz")
    for options in {"layers_first": True}, {"layers": 3}, {"model": {**SMALL, "layers": 3}}:
        trace = dipsim.import_(tmp_path / "b.npy", tmp_path / "t.npz", **options)
        np.testing.assert_array_equal(sets_of(trace), wanted)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"top_k": 0}, "--top-k 0: from 1"),
        ({"layers": -1}, "--layers -1: from 1"),
        ({"experts": 10**9}, "--experts 1000000000: from 1 to 65535"),
        ({"top_k": 2}, "--top-k 2: rows of .* hold 3 experts"),
        ({"top_k": 5}, "--top-k 5: rows of .* hold 3 experts"),
        ({"format": "nothing"}, "--format nothing: use one of route_trace"),
        ({"encodings": {"expert": "bits"}}, "--encoding is for arrays of values"),
        ({"unit_bytes": "5"}, "--unit-bytes"),
        ({"unit_bytes": 0}, "--unit-bytes 0: an expert has 1 byte"),
    ],
)
def test_options_that_no_log_has_are_refused(
    options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    log = FIXTURES[NAMES.index("F7-waste")].write(drawn(), tmp_path)
    with pytest.raises(dipsim.DipsimError, match=said):
        dipsim.import_(log, tmp_path / "t.npz", **options)
    assert [path.name for path in tmp_path.iterdir()] == [log.name]


def test_padding_is_no_expert_and_the_last_position_has_no_row(tmp_path: Path) -> None:
    ids = np.array(drawn(tokens=6).ids, np.int32)
    ids[:, :, 2] = -1  # every token uses two
    np.save(tmp_path / "a.npy", ids)
    trace = dipsim.import_(tmp_path / "a.npy", tmp_path / "t.npz")
    assert (sets_of(trace).sum(axis=2) == 2).all()
    ids[2] = -1  # a token that no layer routed
    np.save(tmp_path / "a.npy", ids)
    with pytest.raises(dipsim.DipsimError, match="token 2 has no experts"):
        dipsim.import_(tmp_path / "a.npy", tmp_path / "t.npz")


def test_a_log_that_ends_within_a_token_loses_that_token(tmp_path: Path) -> None:
    log = FIXTURES[NAMES.index("F9-lattice")].write(drawn(), tmp_path)
    lines = log.read_text().splitlines()
    trace = dipsim.import_(text(tmp_path / "cut.jsonl", *lines[:-1]), tmp_path / "t.npz")
    assert trace.tokens == 8
    assert any("the last token lacks layers" in note for note in trace.warnings)
    with pytest.raises(dipsim.DipsimError, match="decode token 7 has no experts in layer 2"):
        dipsim.import_(text(tmp_path / "cut.jsonl", *lines[:-4], *lines[-3:]), tmp_path / "t.npz")


def test_sequences_begin_where_tokens_begin_anew(tmp_path: Path) -> None:
    rows = [(t, n) for t in (0, 1, 2, 0, 1, 2, 3) for n in range(2)]
    log = text(
        tmp_path / "l.jsonl",
        *(f'{{"token": {t}, "layer": {n}, "experts": [{t}, {n + 4}]}}' for t, n in rows),
    )
    trace = dipsim.import_(log, tmp_path / "t.npz")
    assert trace.sequence.tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_a_rejected_guess_is_a_token_of_its_own(tmp_path: Path) -> None:
    order = (0, 1, 2, 3, 2, 3, 4)  # 2 and 3 were guessed, rejected, and routed again
    log = text(
        tmp_path / "l.jsonl",
        *(
            f'{{"t": {t}, "layer": 0, "experts": [{i}], "phase": "decode"}}'
            for i, t in enumerate(order)
        ),
    )
    trace = dipsim.import_(log, tmp_path / "t.npz")
    assert [int(np.flatnonzero(token[0])[0]) for token in sets_of(trace)] == [*range(7)]
    assert any("1 steps were routed again" in note for note in trace.warnings)


# Counts of use ------------------------------------------------------------------------------------


def test_a_history_of_use_pins_experts(tmp_path: Path) -> None:
    counts = np.zeros((3, 8), np.int64)
    counts[1, [2, 5]], counts[2, [0, 7]] = (9, 4), (3, 8)  # layer 0 is dense
    rows = [f"{n} {e} {counts[n, e]}" for n, e in zip(*np.nonzero(counts), strict=True)]
    history = text(tmp_path / ".coli_usage", "-1 3 8", "-2 1 4027", *rows)
    binary = tmp_path / "b"
    binary.write_bytes(b"IKU1" + np.array([3, 8], "<u4").tobytes() + counts.astype("<u4").tobytes())
    tokens = [[[2, 5], [0, 1]], [[2, 3], [7, 0]], [[5, 6], [7, 1]]]
    log = text(
        tmp_path / "l.jsonl", *(f'{{"tok": {t}, "layers": {row}}}' for t, row in enumerate(tokens))
    )
    imported = tmp_path / "u.npz"
    import_uses(history, imported)
    for source in (history, binary, imported):
        result = dipsim.simulate(
            dipsim.import_(log, tmp_path / "t.npz", experts=8),
            "snapdragon8",
            unit_bytes=10,
            cache="40 B",
            policy="static",
            static_from=str(source),
        ).to_dict()
        assert result["hits"] == 4 + 4  # layer 1 holds 2 and 5, layer 2 holds 7 and 0
        assert "clairvoyant" not in result["marks"]


@pytest.mark.parametrize("rows", [["7 3 50", "9 5 50"], ["2 3 50", "3 5 50"], ["0 0 0"]])
def test_a_history_of_other_layers_is_refused(rows: list[str], tmp_path: Path) -> None:
    routes = drawn()
    log = FIXTURES[NAMES.index("F7-waste")].write(routes, tmp_path)
    history = text(tmp_path / "u", *rows)
    with pytest.raises(dipsim.DipsimError, match="give those of the same model"):
        dipsim.simulate(
            log,
            "snapdragon8",
            unit_bytes=10,
            cache="90 B",
            policy="static",
            static_from=str(history),
        )


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["1 2"], "layer expert count"),
        (["-1 2 4", "5 0 1"], "says 2 layers of 4 experts"),
        (["-2 2 9", "0 0 1"], "version 2 of the history"),
        (["0 70000 1"], "from 0 on"),
        (["0 1 99999999999"], "a count of"),
        (["-1 2 4"], "no expert was used"),
        (["0 0 1", "x y z"], "line 2"),
    ],
)
def test_a_history_that_is_damaged_is_refused(lines: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(dipsim.DipsimError, match=said):
        import_uses(text(tmp_path / "u", *lines), tmp_path / "u.npz")


def test_a_pickle_is_refused_with_what_converts_it(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(
        dipsim.DipsimError, match=r"opens no pickle; .* d = torch.load\('.*a.pt', w"
    ):
        dipsim.import_(tmp_path / "a.pt", tmp_path / "t.npz")
