"""Recording of a model that goes on from prompts, or reads a text."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from dipsim.errors import DipsimError, check_pairs, check_text, check_type
from dipsim.files import path_of
from dipsim.lists import several
from dipsim.lm.extra import need_torch
from dipsim.trace import Trace, load_trace
from dipsim.trace.archive import Compress, check_compress
from dipsim.trace.checks import names_of
from dipsim.trace.encoding import Encoding
from dipsim.trace.vectors import VectorEncoding

if TYPE_CHECKING:
    from dipsim.lm.load import Loaded

Calls = Iterator[tuple[int, int]]
"""Calls of a model, one after another: tokens done, and in all."""


def record(
    model: "str | os.PathLike[str] | Loaded",
    out: str | os.PathLike[str],
    *,
    text: str | os.PathLike[str] | None = None,
    window: int | None = None,
    bos: str | None = None,
    tokens: int | None = None,
    prompts: str | Sequence[str] = (),
    generate: int | None = None,
    chat: bool = False,
    temperature: float | None = None,
    seed: int | None = None,
    signals: Sequence[str] | None = None,
    encodings: Mapping[str, Encoding | VectorEncoding] | None = None,
    meta: Mapping[str, Any] | None = None,
    compress: Compress = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Trace:
    """Record a trace of a model that reads a text, or goes on from prompts, and open it.

    Give ``text`` or ``prompts``. A model that you run yourself: see `dipsim.lm.record`.

    Args:
        model: a Hugging Face folder, a GGUF file, ``org/name`` of the hub in its local cache, or
            what `dipsim.lm.load` returned.
        out: a `.npz` file, which is replaced, or a new folder of shards.
        text: a file to read, UTF-8.
        window: tokens of the text in a sequence; default: 512.
        bos: auto, the default: sequences of the text begin with what the tokenizer puts before a
            text, if anything; always: with its token of beginning; or never.
        tokens: of the text, at most; default: all.
        prompts: texts to go on from.
        generate: tokens after every prompt, at most; default: 64.
        chat: whether prompts are a user's turns.
        temperature: 0, the default, takes the likeliest token.
        seed: of every random draw; default: 0.
        signals: e.g. mlp_input, attn_input, query, layer_io; default: mlp_input and glu, or
            expert.
        encodings: per signal float16 (default), float32 or log8; of query, key and value int8.
        meta: further entries of the trace's meta, e.g. ``license``.
        compress: see `dipsim.TraceWriter`.
        progress: called with (tokens done, tokens).

    Returns:
        The trace; its ``warnings`` say what it lacks.

    Raises:
        DipsimError: torch is not installed, neither or both of ``text`` and ``prompts``, a model
            or text that cannot be read, or a path that cannot be written.
    """
    given = several(prompts)
    for prompt in given:
        check_text("prompts", prompt, "a text, or a list of texts")
    check_type("text", text, (str, os.PathLike), "a path: a text or a pathlib.Path")
    for name, count in (("window", window), ("tokens", tokens), ("generate", generate)):
        check_type(name, count, Integral, "how many tokens")
    check_type("bos", bos, str, "auto, always or never")
    check_type("temperature", temperature, Real, "a number, e.g. 0.7")
    check_type("seed", seed, Integral, "a whole number")
    check_type("chat", chat, bool, "True or False")
    check_pairs("encodings", encodings, '{"glu": "log8"}')
    check_pairs("meta", meta, '{"license": "CC0"}')
    check_compress(compress)
    if (text is None) == (not given):
        raise DipsimError("give either --prompt, or --text with a file")
    if given:
        _refuse("text", window=window, bos=bos, tokens=tokens)
    else:
        _refuse("prompt", generate=generate, chat=chat or None, temperature=temperature, seed=seed)
    need_torch()
    from dipsim import lm
    from dipsim.lm.text import prefix_of

    target = path_of(out)
    loaded = model if isinstance(model, lm.Loaded) else lm.load(path_of(model, "model"))
    if text is None:
        most, warmth = 64 if generate is None else generate, temperature or 0.0
        source = f"{len(given)} prompts, up to {most} tokens each, temperature {warmth:g}"
        calls = _answers(loaded, given, chat, most, warmth, seed or 0)
    else:
        window = 512 if window is None else window
        source = f"a text, windows of {window} tokens"
        before = prefix_of(loaded.tokenizer, bos or "auto")
        if before:
            source += f", each behind {len(before)} of the tokenizer"
        calls = _windows(loaded, text, window, tokens, before)
    about: dict[str, Any] = {"source": f"{loaded.name}: {source}", **(meta or {})}
    if loaded.geometry is not None:
        about.setdefault("model", loaded.geometry)
    recorder = lm.record(
        loaded.model,
        target,
        signals=names_of(signals),
        encodings=encodings,
        meta=about,
        compress=compress,
    )
    _run(recorder, calls, progress)
    trace = load_trace(target)
    return replace(trace, warnings=(*trace.warnings, *_notes(about)))


def _notes(meta: Mapping[str, Any]) -> list[str]:
    """Return what is to be said of the model that the trace names."""
    if "model" not in meta:
        return ["the trace names no model: run with --model"]
    model = meta["model"]
    remark = model.get("approximate") if isinstance(model, Mapping) else None
    return [] if remark is None else [f"the trace's model is approximate: {remark}"]


def _run(recorder: Any, calls: Calls, progress: Callable[[int, int], None] | None) -> None:
    """Make the calls while the recorder listens."""
    from dipsim.lm.quiet import quiet

    with recorder, quiet():
        for done, total in calls:
            if progress is not None:
                progress(done, total)


def _refuse(source: str, **options: Any) -> None:
    """Refuse options that only ``source`` has, where it is not the one that is recorded."""
    for name, given in options.items():
        if given is not None:
            raise DipsimError(f"--{name} is for --{source}: drop it")


def _answers(
    loaded: "Loaded",
    prompts: Sequence[str],
    chat: bool,
    generate: int,
    temperature: float,
    seed: int,
) -> Calls:
    """Go on from every prompt; yield the tokens done, and in all."""
    import torch

    prompt_ids = [_prompt_ids(loaded, prompt, chat) for prompt in prompts]
    longest = max(map(len, prompt_ids))
    loaded.check_reads(
        longest + generate, f"--generate {generate}, after a prompt of {longest} tokens"
    )
    total = sum(len(ids) + generate for ids in prompt_ids)
    done = 0
    torch.manual_seed(seed)
    sampling: dict[str, Any] = {
        "do_sample": False,
        "temperature": None,
        "top_p": None,
        "top_k": None,
    }
    if temperature > 0:  # of the whole distribution
        sampling = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
    for ids in prompt_ids:
        row = torch.tensor([ids])
        loaded.model.generate(  # the last token is put out, never taken in: one more than recorded
            row,
            attention_mask=torch.ones_like(row),
            max_new_tokens=generate + 1,
            pad_token_id=0,
            **sampling,
        )
        done += len(ids) + generate
        yield done, total


def _prompt_ids(loaded: "Loaded", prompt: str, chat: bool) -> list[int]:
    tokenizer = loaded.tokenizer
    if chat and not tokenizer.chat_template:
        raise DipsimError(f"{loaded.path}: has no chat template: leave --chat out")
    if chat:
        turns = [{"role": "user", "content": prompt}]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(prompt, add_special_tokens=not chat)["input_ids"]
    if not ids:
        raise DipsimError("--prompt '': give some text to go on from")
    return ids


def _windows(
    loaded: "Loaded",
    text: str | os.PathLike[str],
    window: int,
    tokens: int | None,
    prefix: Sequence[int],
) -> Calls:
    """Read a text; yield the tokens done, and in all."""
    import torch

    from dipsim.lm.text import read_ids, windows_of

    windows = windows_of(read_ids(text, loaded.tokenizer), window, tokens, str(text), prefix)
    loaded.check_reads(window)
    with torch.no_grad():
        for i, ids in enumerate(windows, 1):
            loaded.model(torch.from_numpy(ids)[None])
            yield i * window, windows.size
