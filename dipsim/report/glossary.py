"""The glossary: every word that reports print, in a line each. The legend of ``run --details``,
``dipsim explain`` and docs/concepts.md all show these entries."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from dipsim.methods import BUILTIN as METHODS
from dipsim.policies import BUILTIN as POLICIES

Kind = Literal["word", "figure", "mark", "method", "policy"]


@dataclass(frozen=True)
class Entry:
    """A word and what it means."""

    name: str
    meaning: str
    kind: Kind
    also: tuple[str, ...] = ()
    """Other names: heads of columns, labels of rows, keys of JSON."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of the entry, its own first."""
        return (self.name, *self.also)

    def to_dict(self) -> dict[str, str | list[str]]:
        """Return plain values."""
        return {
            "name": self.name,
            "also": list(self.also),
            "kind": self.kind,
            "meaning": self.meaning,
        }


def _entries(kind: Kind, *rows: tuple[str, ...]) -> tuple[Entry, ...]:
    """Return an entry for each row of a name, its meaning and its other names."""
    return tuple(Entry(name, meaning, kind, tuple(also)) for name, meaning, *also in rows)


WORDS = _entries(
    "word",
    ("sweep", "a grid of runs that a file states (docs/sweeps.md); a store keeps what is done"),
    ("cell", "a run of a grid: a value of each axis, and its figures", "cells"),
    ("profile", "a device: DRAM, flash, backends, energy; a source for every number"),
    ("plainly", "of plan: all weights are used, and those that DRAM lacks are read from flash",
     "plain"),
    ("way", "of plan: a change to a run, with what comes of it and what it costs", "ways"),
    ("margin", "of plan: what the system leaves to an app, less all that the model takes"),
    ("backend", "an engine of a device that computes, e.g. cpu"),
    ("model", "the geometry of a network and how its weights are stored; turns units into bytes"),
    ("trace", "what a model did, token by token: scores or active sets of signals"),
    ("token", "a step of the model: prefill for the prompt, decode for the answer"),
    ("step", "what is decoded at once: one token, or several (--batch, --speculate)", "steps"),
    ("decode step", "a pass of the model that decodes: of one token, or of several"),
    ("speculate", "let a small model draft tokens that a step verifies; draft=0 drafts none",
     "speculative decoding", "verify"),
    ("retrieval", "a token reads the blocks of keys and values that suit its query best, not all "
     "(--kv-fetch)", "fetch", "kv_fetch"),
    ("layer", "a block of the network; each has caches of its own", "layers"),
    ("signal", "a vector for each layer and token that drives a group: mlp_input, glu, expert",
     "signals"),
    ("kind of layer", "layers of one geometry: mixer, MLP and sizes; a model may have several",
     "kinds of layers"),
    ("state", "values that a layer keeps of a sequence, as many however long it is",
     "states"),
    ("latent", "one small vector per position that keys and values of all heads are computed from",
     "MLA"),
    ("expert", "a part of a layer of a mixture-of-experts model, loaded whole", "experts"),
    ("shared expert", "an MLP beside the experts of a layer, which every token uses",
     "shared experts"),
    ("router", "the part of a layer that scores its experts and chooses those a token uses",
     "routers"),
    ("routing log", "a file of another program that lists the experts its tokens used; dipsim "
     "import makes a trace of it", "routing logs"),
    ("unit", "the smallest slice of weights that is loaded alone: a column, a row, an expert",
     "units"),
    ("group", "equally large units of one layer that one signal drives and that share a cache",
     "groups"),
    ("method", "decides which units a token needs: its active set"),
    ("policy", "decides which units stay in DRAM"),
    ("layout", "where units lie in flash: which reads a set of misses becomes"),
    ("density, D", "share of the MLP's weights that is kept; sparsity is 1 - density", "density",
     "D"),
    ("gamma", "factor on the score of a unit that is not in DRAM; 1 prefers nothing"),
    ("admission", "which misses stay in the cache: forced or ranked"),
    ("forced", "admission that keeps every miss for which there is room beside the hits"),
    ("ranked", "admission that keeps the C best of what is resident or active, by the policy's "
     "rank"),
    ("scope", "layer: a cache for each layer and group; global: one in bytes for all"),
    ("access", "atomic: a token asks for its whole set at once; sequential: unit by unit"),
    ("resident", "in DRAM: in a cache, or static"),
    ("streamed", "used and not kept"),
    ("open loop", "the trace is of the dense model; what a mask drops changes nothing after it"),
    ("closed loop", "the masks act while the model runs, so what they drop changes what follows"),
    ("closed form", "time as a sum over the steps of a token, where nothing is in another's way"),
    ("discrete events", "time by simulation, where flash, DRAM and heat get in each other's way"),
    ("overlap", "of a device: the share of reading that hides behind use; of tokens: the share "
     "of a token's units that the token before used too"),
    ("prefetch", "reads that go out before it is known what is needed; their counts",
     "read ahead", "issued", "used", "wasted"),
    ("evicted", "units that left a cache to make room for guesses (--prefetch-into cache)"),
    ("warm-up", "decode tokens that are replayed and not measured"),
    ("measured", "the decode tokens that the figures cover, the method, the policy"),
    ("traffic", "the outcome of a replay: counts and bytes"),
    ("timeline", "when flash, DRAM and compute were busy"),
    ("t(s)", "seconds that one read of s bytes adds while others are in flight"),
    ("mark", "a word beside the figures that says what they rest on", "marks"),
    ("estimated", "numbers of the profile that are estimates, or have no source", "estimates"),
    ("config", "everything that repeats the run: dipsim run --config FILE"),
    ("version", "the version of dipsim"),
    ("engine", "closed or events: how the time was worked out"),
    ("name", "of a group: the signal that drives it"),
)  # fmt: skip
FIGURES = _entries(
    "figure",
    ("rate", "measured tokens / their total time", "tokens_per_second", "tok/s"),
    ("tokens", "decode tokens that were measured; of a prefill, tokens of the prompt"),
    ("band", "the rates with no and with full overlap of reading and use",
     "tokens_per_second_range", "rate, overlap none to full"),
    ("hot device", "the rate once the device is hot and throttles", "rate, cold / hot device",
     "thermal", "cold", "sustained"),
    ("interval", "nine of ten true rates lie in it, by what the profile's numbers are worth",
     "tokens_per_second_interval", "level"),
    ("first to measure", "numbers that widen the interval most, with the rates if each alone were "
     "uncertain", "first_to_measure", "key"),
    ("unmeasured", "a method that no phone was measured with; tokens that are not measured"),
    ("request sizes", "whether all reads lie inside the measured points of flash",
     "request_sizes"),
    ("latency", "milliseconds a token, or step of several, takes: the mean, and percentiles",
     "latency mean / p50 / p95 / p99", "latency_ms", "mean", "p50", "p95", "p99"),
    ("batch", "sequences that are decoded side by side"),
    ("drafts", "tokens that another model drafts; a step verifies them and one more", "draft"),
    ("acceptance", "probability that a draft is accepted, if those before it are", "accept"),
    ("tokens per step", "tokens that a step gives: in the mean by chance, and as drawn",
     "tokens_per_step", "tokens_per_step_drawn", "given"),
    ("union", "share of the units' bytes that the tokens of a step need together; and one alone",
     "union_share", "token_share"),
    ("drafting", "time of the drafts of a step; cost is that of one, in tokens decoded alone",
     "draft_ms", "cost"),
    ("seed", "what draws begin with; the same seed draws the same"),
    ("baselines", "what the same memory could do otherwise, on the same tokens and device"),
    ("dense", "the whole model in as much DRAM: what fits stays, the rest is read in order"),
    ("no cache", "experts without a cache: every one that a token needs is read", "no_cache"),
    ("optimum", "the run with opt, the policy that misses least; with --allocate optimal in "
     "this run's division of the cache"),
    ("times", "the run's rate as a multiple of a baseline's"),
    ("tried", "changes of one option that were tried beside the run, and their rates", "option"),
    ("accesses", "units that the tokens needed"),
    ("hits", "share of what tokens needed that was in DRAM; in JSON, how many units",
     "hit rate (bytes / units)", "hit_rate", "unit_hit_rate"),
    ("flash", "bytes a token moves from flash, in how many reads; of the time, waiting for it",
     "flash per token", "flash_bytes_per_token", "flash_reads_per_token", "flash_bytes", "reads",
     "flash_ms"),
    ("useful", "bytes of the missed units alone, without gaps and the rest of pages",
     "flash_useful_bytes_per_token"),
    ("DRAM per token", "bytes of weights and KV that computing reads from DRAM",
     "dram_bytes_per_token"),
    ("mass", "share of the sum of scores that the mask keeps", "mass_kept", "mass_kept_plain"),
    ("energy", "of a group: share of the sum of squared scores that the mask keeps",
     "energy_kept", "energy_kept_plain"),
    ("error of the output", "relative error of a layer's output that the group's mask makes",
     "output_error"),
    ("routing weight lost", "share of the router's weight on its best experts that those used "
     "lack", "routing_weight_lost"),
    ("page cache", "bytes the system keeps of the file it reads", "page cache of the system",
     "page_cache"),
    ("prefill", "the prompt: its tokens, its time, and the first token after it", "ttft_ms",
     "time_ms"),
    ("first token", "of a prompt beside the trace (--prompt): its time and what it takes",
     "first_token"),
    ("cold start", "time to bring what is resident from flash, before the first prompt",
     "cold_start_ms"),
    ("energy per token", "millijoules: bytes and idle power; the same plus the backend's power",
     "energy_mj_per_token", "low", "high"),
    ("perplexity", "bounds that a calibration of the method gives", "perplexity (calibrated)"),
    ("budget", "what DRAM holds: static weights, KV, buffers, and caches with the rest"),
    ("DRAM", "bytes that weights and KV may take together; of the time, using them", "dram_ms"),
    ("static weights", "those every token reads: resident as far as they fit", "static"),
    ("attention", "static: the weights of attention"),
    ("norms", "static: the weights of the norms"),
    ("lm_head", "static: the last matrix", "head"),
    ("dense parts", "static: matrices of the MLP that the method does not prune", "dense_parts"),
    ("scales", "static: scales of quantised weights that do not travel with a unit"),
    ("predictors", "static: networks that guess the active set"),
    ("streamed from flash", "static weights that do not fit: read for every token",
     "- streamed from flash", "streamed_static"),
    ("KV", "keys and values of the context", "kv"),
    ("KV read buffer", "room for keys and values that come from flash, of two layers", "kv_buffer"),
    ("KV index", "what blocks of keys and values are chosen by: a centroid each, or all keys "
     "(--kv-fetch)", "kv_index"),
    ("block hit rate", "share of the blocks of keys and values that tokens read that is in DRAM",
     "block_hit_rate"),
    ("blocks", "blocks of keys and values that a token reads beside the newest", "block"),
    ("positions", "tokens whose keys and values a layer holds; in flash, and computed again",
     "in_flash", "recomputed", "recompute_flops_per_token"),
    ("format", "of keys and values: bits, or how they are rounded (--kv-quant)"),
    ("when", "of eviction: at which tokens positions leave (--kv-when)"),
    ("loop", "of keys and values: whether what they lose is seen by the layer, or only counted"),
    ("bytes of KV", "held in DRAM, by the index, read, and written to DRAM and to flash",
     "held_bytes", "index_bytes", "read_bytes_per_token", "write_bytes_per_token",
     "flash_write_bytes_per_token", "flash_write_bytes_per_million_tokens"),
    ("states that wait", "hidden states of tokens that later layers left out and may take back",
     "aux"),
    ("pruned tokens", "what is left of the tokens that layers compute (--prune-tokens)",
     "pruned_tokens"),
    ("skipped layers", "layers that tokens skip (--skip-layers)", "skipped_layers"),
    ("staging", "the buffer that misses are read into"),
    ("runtime overhead", "what the runtime itself takes", "runtime_overhead"),
    ("read-ahead buffer", "room for reads that go out early", "prefetch_buffer"),
    ("cache", "what is left for units, and its share of them all", "cache_fraction"),
    ("start", "of budgets whose KV grows: KV and caches at first"),
    ("bytes", "of one unit, or of the whole model", "unit_bytes"),
    ("active", "units a token needs of a group in one layer: |A|", "|A|"),
    ("C", "capacity: units that one layer's cache of the group holds", "capacity"),
    ("C/|A|", "capacity over what one token needs; at 1 or less, policies with forced admission "
     "hit alike"),
    ("q*", "the miss density above which reading a group whole is faster than single reads",
     "break_even_miss_density"),
    ("time", "how much each resource adds to the time of a token: exposed time", "time_share"),
    ("compute", "of the time: kernels that are slower than DRAM", "compute_ms"),
    ("sync", "of the time: fixed costs of the backend", "sync_ms"),
    ("management", "of the time: copying misses into the cache", "management_ms"),
    ("about", "of JSON: command, trace, profiles, options, version, units of the figures"),
    ("verdict", "who is to blame for misses and time: the policy, or the working set"),
    ("misses", "units that were not in DRAM, over all tokens"),
    ("first uses", "misses of a cache that holds everything", "first_uses"),
    ("unavoidable", "misses of the optimum in as large a cache"),
    ("lost", "misses beyond the optimum's: the policy's"),
    ("admission misses", "misses of the policy with the other admission", "admission_misses"),
    ("policy's time", "share of a run's time that the faster of optimum and other admission "
     "saves", "policys_time"),
    ("optimum rate", "tokens per second with the optimum", "optimum_rate"),
    ("admission rate", "tokens per second with the other admission", "admission_rate"),
    ("attribution", "what binds each layer, and what would be faster", "parts", "part"),
    ("elasticity", "per cent of rate that one per cent more of something gives", "1 % more of",
     "step"),
    ("bound by", "the resource with the most exposed time", "binding"),
    ("flash, all of its time", "elasticity: flash faster at every size", "flash_bandwidth"),
    ("flash, time per request", "elasticity: less time per read beyond its bytes",
     "flash_requests"),
    ("DRAM bandwidth", "elasticity: faster DRAM", "dram_bandwidth"),
    ("DRAM given to the model", "elasticity: more DRAM for the run", "dram_size"),
    ("cache given", "elasticity: larger caches", "cache_size"),
    ("compute rate", "elasticity: faster kernels"),
    ("sync (1 % less)", "elasticity: smaller fixed costs"),
    ("copying into the cache", "elasticity: faster copies of misses", "cache_copy"),
)  # fmt: skip
MARKS = _entries(
    "mark",
    ("open-loop", "pruning did not feed back into the trace"),
    ("estimate", "times rest on numbers that are estimates or have no source; they are listed"),
    ("extrapolated", "reads were smaller or larger than every measured point of the flash curve"),
    ("clairvoyant", "the policy knew the future, or the whole trace's popularity"),
    ("preloaded", "the first content of the cache was not counted as traffic"),
    ("over-available", "DRAM beyond what the device leaves to an app (dram.available)"),
    ("paged", "the run takes more DRAM than an app may: page faults bring in what is beyond it"),
    ("calibrated", "thresholds come from calibration tokens, which are not measured"),
    ("recorded-experts", "a rule chose among the experts that were recorded, not among all"),
    ("lossy-weights", "what pruned weights (--weights) lose is in no figure"),
    ("held-out", "cache or order were fitted to some tokens, and only the rest is measured"),
    ("part", "some layers only (--layers): rates and bytes are theirs"),
    ("approximate-model", "the model's geometry leaves out what its entry approximate says"),
    ("replaced", "an option or the model replaces bytes or a weight format that the trace states"),
    (
        "stand-ins",
        "tokens that follow in the trace stand for those of other sequences, or for rejected "
        "drafts",
    ),
    ("free-drafts", "the time of the model that drafts is not counted: --speculate cost="),
    ("no-model", "nothing says which model; attention, KV and lm_head are not counted"),
)
GLOSSARY = (*WORDS, *FIGURES, *MARKS)
"""All words that are printed, apart from the names of methods and policies."""


def everything() -> tuple[Entry, ...]:
    """Return the glossary, and the methods and policies with their summaries."""
    methods = [Entry(name, each.summary, "method") for name, each in METHODS.items()]
    policies = [Entry(name, each.summary, "policy") for name, each in POLICIES.items()]
    return (*GLOSSARY, *methods, *policies)


def meanings(word: str) -> list[Entry]:
    """Return every entry that has a word among its names, whatever its case and hyphens."""
    wanted = _plain(word)
    return [entry for entry in everything() if wanted in map(_plain, entry.names)]


def nearest(word: str, most: int = 5) -> list[str]:
    """Return the names most like a word, at most so many: those that hold it first."""
    names = {_plain(name): name for entry in everything() for name in entry.names}
    wanted = _plain(word)
    holding = [name for plain, name in names.items() if wanted and wanted in plain]
    close = [names[plain] for plain in get_close_matches(wanted, names, most, 0.5)]
    return list(dict.fromkeys([*holding, *close]))[:most]


def legend(words: Iterable[str]) -> list[Entry]:
    """Return the entries of printed words, in the order of the glossary.

    Words that have none are left out. What follows a comma may be a name: "error of the output,
    glu".
    """
    parts = (part for word in words for part in (word, word.partition(", ")[0]))
    wanted = set(map(str.casefold, parts))
    return [entry for entry in GLOSSARY if wanted.intersection(map(str.casefold, entry.names))]


def markdown(entries: Iterable[Entry]) -> str:
    """Return entries as a table of docs/concepts.md."""
    rows = ["| word | meaning |", "|---|---|"]
    for entry in entries:
        names = ", ".join(f"`{name}`" for name in entry.names).replace("|A|", r"\|A\|")
        rows.append(f"| {names} | {entry.meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def _plain(word: str) -> str:
    return " ".join(word.casefold().replace("_", " ").replace("-", " ").split())
