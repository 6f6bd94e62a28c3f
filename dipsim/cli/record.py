"""`dipsim record`: a trace of a running model."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dipsim.cli.app import Json, app
from dipsim.cli.output import say
from dipsim.cli.progress import Progress
from dipsim.cli.trace_files import Encodings, Out, encodings_of, names_of, show_written
from dipsim.errors import DipsimError

if TYPE_CHECKING:
    from dipsim.lm.load import Loaded


@app.command()
def record(
    model: Annotated[str, typer.Argument(help="a Hugging Face folder, a GGUF, or org/name")],
    out: Out,
    prompt: Annotated[list[str] | None, typer.Option(help="to go on from; may repeat")] = None,
    generate: Annotated[
        int | None, typer.Option(help="tokens after every prompt, at most [64]", min=1, max=2**22)
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="prompts are a user's turns")] = False,
    temperature: Annotated[
        float | None, typer.Option(help="0 takes the likeliest token [0]", min=0, max=1000)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="of every random draw [0]", min=0, max=2**40)
    ] = None,
    text: Annotated[str | None, typer.Option(help="a file to read instead, UTF-8")] = None,
    window: Annotated[
        int | None, typer.Option(help="tokens of the text in a sequence [512]", min=2, max=2**22)
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="of the text, at most", min=1, max=2**32)
    ] = None,
    signals: Annotated[
        str | None, typer.Option(help="e.g. mlp_input,glu,attn_input [mlp_input,glu; or expert]")
    ] = None,
    encoding: Encodings = None,
    license_: Annotated[
        str | None, typer.Option("--license", help="of the trace; kept in it")
    ] = None,
    as_json: Json = False,
) -> None:
    """Record a trace of a model that goes on from prompts, or reads a text."""
    from pathlib import Path

    from dipsim.lm.extra import need_torch
    from dipsim.trace import load_trace

    if (text is None) == (not prompt):
        raise DipsimError("give either --prompt, or --text with a file")
    if prompt:
        _refuse("text", window=window, tokens=tokens)
    else:
        _refuse("prompt", generate=generate, chat=chat or None, temperature=temperature, seed=seed)
    need_torch()
    from dipsim import lm
    from dipsim.lm.quiet import quiet

    meta: dict[str, Any] = {} if license_ is None else {"license": license_}
    with Progress("recording", "tokens") as progress:
        loaded = lm.load(model)
        if prompt:
            generate, temperature = generate or 64, temperature or 0.0
            source = f"{len(prompt)} prompts, up to {generate} tokens each, "
            source += f"temperature {temperature:g}"
            calls = _answers(loaded, prompt, chat, generate, temperature, seed or 0)
        else:
            window = 512 if window is None else window
            source = f"a text, windows of {window} tokens"
            calls = _windows(loaded, str(text), window, tokens)
        meta["source"] = f"{loaded.name}: {source}"
        if loaded.geometry is not None:
            meta["model"] = loaded.geometry
        recorder = lm.record(
            loaded.model,
            out,
            signals=names_of(signals),
            encodings=encodings_of(encoding),
            meta=meta,
        )
        try:
            with recorder, quiet():
                for done, total in calls:
                    progress(done, total)
        except KeyboardInterrupt as stop:
            for note in getattr(stop, "__notes__", []):
                say(note)
            raise
        trace = load_trace(Path(out))
    show_written(trace, _notes(loaded), as_json)


def _notes(loaded: "Loaded") -> list[str]:
    """Return what is to be said of the model that the trace names."""
    if loaded.geometry is None:
        return ["the trace names no model: run with --model"]
    remark = loaded.geometry.get("approximate")
    return [] if remark is None else [f"the trace's model is approximate: {remark}"]


def _refuse(source: str, **options: Any) -> None:
    """Refuse options that mean something to the other source only."""
    for name, given in options.items():
        if given is not None:
            raise DipsimError(f"--{name} is for --{source}: drop it")


def _answers(
    loaded: "Loaded",
    prompts: list[str],
    chat: bool,
    generate: int,
    temperature: float,
    seed: int,
) -> Iterator[tuple[int, int]]:
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
    loaded: "Loaded", text: str, window: int, tokens: int | None
) -> Iterator[tuple[int, int]]:
    """Read a text; yield the tokens done, and in all."""
    import torch

    from dipsim.lm.text import read_ids, windows_of

    windows = windows_of(read_ids(text, loaded.tokenizer), window, tokens, text)
    loaded.check_reads(window)
    with torch.no_grad():
        for i, ids in enumerate(windows, 1):
            loaded.model(torch.from_numpy(ids)[None])
            yield i * window, windows.size
