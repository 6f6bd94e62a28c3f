"""The result: the figures a user came for, with all that is needed to reproduce them."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from dipsim.budget.divide import Budget
from dipsim.errors import brief
from dipsim.marks import estimates, marks
from dipsim.repeat import make_config
from dipsim.replay.traffic import Traffic
from dipsim.run import Run
from dipsim.timeline.closed import RESOURCES
from dipsim.timeline.first_token import first_token
from dipsim.timeline.interval import RateInterval, rate_interval
from dipsim.timeline.steps import kv_step
from dipsim.timeline.timing import Timing
from dipsim.timeline.together import step_figures
from dipsim.trace import Trace
from dipsim.units import BYTES, show_number
from dipsim.views import Viewed, frame, report_module

if TYPE_CHECKING:
    from pandas import DataFrame

    from dipsim.systems.quality import KvQuality

Array = NDArray[Any]


@dataclass(frozen=True)
class Result(Viewed):
    """Figures of a run. ``to_dict()`` gives the stable keys of docs/concepts.md.

    Figures cover the measured decode tokens: those behind the warm-up. Of decode steps of several
    tokens (``batch``, ``speculate``) what is said of a token is a step's by the tokens that it
    gives; latencies, and what stands in `per_token`, are of steps. The picture shows how long each
    token or step takes, by what it waits for.
    """

    report: ClassVar[str] = "run"

    run: Run = field(repr=False)
    traffic: Traffic
    timing: Timing

    # What was run

    @property
    def title(self) -> str:
        """Trace, method, policy and device, in a line."""
        trace = brief(Path(self.run.trace.name).name, 60)
        return f"{trace}, {self.method}, {self.policy}, on {brief(self.run.device.name, 40)}"

    @property
    def budget(self) -> Budget:
        """Division of the DRAM."""
        return self.run.budget

    @property
    def unit_bytes(self) -> NDArray[np.float64]:
        """[layers, groups] bytes of a unit."""
        return self.run.unit_bytes

    @cached_property
    def break_even(self) -> NDArray[np.float64]:
        """[layers, groups] q*: miss density above which reading whole matrices is faster."""
        return self.run.placement.break_even(self.run.flash)

    @cached_property
    def plain_kept(self) -> NDArray[np.float64] | None:
        """[groups, 3] mass, energy and error of plain top-k; None unless cache-aware."""
        plain = self.traffic.plain
        return None if plain is None else mean_share(self._of_units(plain))

    @cached_property
    def layer_units(self) -> NDArray[np.int64]:
        """[layers, groups] units of each group."""
        return self.run.method.units_in(self.run.trace.layers)

    def _of_units(self, shares: Array) -> Array:
        """Return the rows of decode tokens, [tokens, layers, groups, ...], nan in layers that have
        no units."""
        rows = shares[self._token_rows]
        if not self.layer_units.all():
            rows = rows.copy()
            rows[:, self.layer_units == 0] = np.nan
        return rows

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """Words for what a reader must know before believing the figures (docs/concepts.md)."""
        return marks(self.run, self.traffic, self.timing, self.estimates)

    @cached_property
    def interval(self) -> RateInterval | None:
        """Interval of the rate, from what the profile's numbers are worth; None in the paper's
        modes."""
        return rate_interval(self.run, self.traffic, self.timing)

    @property
    def request_sizes(self) -> Literal["inside", "extrapolated"]:
        """``inside`` if all reads lie within the profile's measured points of flash."""
        return "extrapolated" if "extrapolated" in self.marks else "inside"

    @cached_property
    def estimates(self) -> tuple[str, ...]:
        """Keys of the profile that the times rest on and that are estimates or have no source."""
        return estimates(self.run, self.timing)

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.run.method.name

    @property
    def policy(self) -> str:
        """Name of the policy, with its parameters."""
        return self.run.policy.label

    @property
    def other_admission(self) -> Literal["forced", "ranked"] | None:
        """The other way the policy could admit misses."""
        return self.run.other_admission

    @property
    def model_bytes(self) -> float | None:
        """Bytes of the whole model; None where nothing says them."""
        return None if self.run.model is None else self.run.model.total_bytes

    @property
    def page_cache(self) -> float | None:
        """Bytes the system's page cache may hold; None with direct reads."""
        return None if self.run.page_cache is None else self.run.page_cache.size

    @property
    def cold_start(self) -> float | None:
        """Seconds to load static weights and first cache contents; None without a model."""
        return self.timing.cold_start

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Everything that repeats the run."""
        return make_config(self.run)

    @property
    def version(self) -> str:
        """Version of dipsim."""
        return version("dipsim")

    # Counts

    @property
    def _rows(self) -> NDArray[np.bool_]:
        return self.traffic.measured

    @property
    def tokens(self) -> int:
        """Measured decode tokens: those that were given."""
        return int(self.run.given(np.flatnonzero(self._rows)).sum())

    @cached_property
    def tokens_per_step(self) -> float:
        """Tokens that a decode step gives, in the mean; 1 where it takes one."""
        return self.run.tokens_per_step(self._rows)

    @property
    def _token_rows(self) -> NDArray[np.bool_]:
        """[tokens] rows of all tokens that measured steps take."""
        steps = self.run.steps
        return self._rows if steps is None else steps.all_tokens(self._rows)

    @cached_property
    def accesses(self) -> int:
        """Units the measured tokens needed."""
        return int(self.traffic.active[self._rows].sum(dtype=np.int64))

    @cached_property
    def hits(self) -> int:
        """Units found in DRAM."""
        return int(self.traffic.hits[self._rows].sum(dtype=np.int64))

    @property
    def unit_hit_rate(self) -> float:
        """hits / accesses."""
        return self.hits / self.accesses if self.accesses else 0.0

    @cached_property
    def _active_bytes(self) -> float:
        return self.run.unit_bytes_of(self.traffic.active, self._rows)

    @cached_property
    def _hit_bytes(self) -> float:
        return self.run.unit_bytes_of(self.traffic.hits, self._rows)

    @property
    def hit_rate(self) -> float:
        """Bytes hit / bytes active."""
        return self._hit_bytes / self._active_bytes if self._active_bytes else 0.0

    # Bytes per token

    @property
    def flash_bytes_per_token(self) -> float:
        """Bytes the device moves: pages, gaps, whole matrices, streamed static weights."""
        return (
            float(self.traffic.all_moved[self._rows].sum()) / self.tokens
            + self.timing.static_flash_bytes / self.tokens_per_step
        )

    @property
    def flash_useful_bytes_per_token(self) -> float:
        """Bytes of the missed units, those apart that a page cache held, and of guesses that
        entered the caches and were needed."""
        copied, useful = self.traffic.copied, self._active_bytes - self._hit_bytes
        ahead = self.traffic.ahead
        if ahead is not None and ahead.enters:
            useful += self.run.unit_bytes_of(ahead.used, self._rows)
        if copied is not None:
            useful -= float((copied[self._rows].sum(axis=0) * self.unit_bytes).sum())
        return useful / self.tokens

    @property
    def flash_reads_per_token(self) -> float:
        """Read requests."""
        return (
            float(self.traffic.all_reads[self._rows].sum()) / self.tokens
            + self.timing.static_flash_reads / self.tokens_per_step
        )

    @property
    def dram_bytes_per_token(self) -> float:
        """Static weights, KV, hit and missed bytes read by compute; DMA apart."""
        beside = float(self.timing.dram_bytes.mean()) / self.tokens_per_step
        return beside + self._active_bytes / self.tokens

    @cached_property
    def kv(self) -> dict[str, Any] | None:
        """Keys and values: their bytes and FLOP per token; None where all lie in DRAM."""
        from dipsim.kv.offload import wear

        cache = self.run.kv
        step = kv_step(self.run, np.flatnonzero(self._rows))
        if cache is None or step is None:
            return None
        eviction, quality = cache.eviction, self.kv_quality
        given, sequences = self.tokens_per_step, self.run.beside.sequences
        written = float(step.flash_written.sum(axis=1).mean()) / given
        worn = wear(written, self.tokens_per_second)
        return {
            "policy": "full" if eviction is None else eviction.rule.label,
            "budget": None if eviction is None else _one_or_all(eviction.budgets),
            "when": None if eviction is None else eviction.when,
            **cache.block_figures(np.flatnonzero(self._rows)),
            "format": cache.format.name,
            "loop": "counts" if quality is None else "layer-closed",
            "mass_kept": None if quality is None else quality.mass_kept,
            "output_error": None if quality is None else quality.output_error,
            "positions": float(step.held.mean()) / sequences,
            "in_flash": float(step.in_flash.mean()) / sequences,
            "recomputed": float(step.recomputed.mean()) / sequences,
            "held_bytes": cache.dram_bytes * sequences,
            "index_bytes": cache.index_bytes,
            "read_bytes_per_token": float(step.read.sum(axis=1).mean()) / given,
            "flash_bytes_per_token": float(step.flash_read.sum(axis=1).mean()) / given,
            "write_bytes_per_token": float(step.written.sum(axis=1).mean()) / given,
            "flash_write_bytes_per_token": written,
            "flash_write_bytes_per_million_tokens": worn.bytes_per_million_tokens,
            "recompute_flops_per_token": float(step.flops.sum(axis=1).mean()) / given,
        }

    @cached_property
    def kv_quality(self) -> "KvQuality | None":
        """Proxies of what eviction loses; None where the trace holds no vectors."""
        run = self.run
        if run.kv is None or run.model is None or not isinstance(run.trace, Trace):
            return None
        from dipsim.systems.quality import kv_quality

        return kv_quality(run.trace, run.model, run.kv)

    @property
    def pruned_tokens(self) -> dict[str, Any] | None:
        """Tokens that layers still compute, in figures; None where they compute all."""
        pruned = self.run.beside.tokens
        return None if pruned is None else pruned.to_dict(np.flatnonzero(self._rows))

    @property
    def skipped_layers(self) -> dict[str, Any] | None:
        """Rule, and the layers a token skips, or runs in part; None where it runs all."""
        skipped = self.run.beside.layers
        if skipped is None:
            return None
        counts = skipped.counts(np.flatnonzero(self._rows))
        return {"rule": skipped.rule, "kv": skipped.skip_kv, **counts}

    @property
    def step(self) -> dict[str, Any] | None:
        """Decode steps of several tokens, in figures; None where each takes one token."""
        return step_figures(self.run, self.traffic)

    # Time

    @cached_property
    def first_token(self) -> dict[str, Any] | None:
        """The first token behind ``prompt``, in figures; None where no prompt is asked for."""
        found = first_token(self.run, self.traffic)
        return None if found is None else found.to_dict()

    @property
    def tokens_per_second(self) -> float:
        """Measured tokens, as far as they are given, / their total time (of ``compat="authors"``:
        see `Timing.rate`)."""
        return self.timing.rate

    @property
    def latency_ms(self) -> dict[str, float]:
        """Milliseconds per token, or decode step of several: mean and percentiles."""
        ms = self.timing.times.latency * 1e3
        p50, p95, p99 = np.percentile(ms, (50, 95, 99))
        return {"mean": float(ms.mean()), "p50": float(p50), "p95": float(p95), "p99": float(p99)}

    @property
    def prefetch(self) -> dict[str, int] | None:
        """Units read ahead: issued = used + wasted, and where they enter the caches those that
        were evicted for them; None when nothing was."""
        ahead = self.traffic.ahead
        if ahead is None:
            return None
        counts = {"issued": ahead.issued, "used": ahead.used, "wasted": ahead.wasted}
        if ahead.evicted is not None:
            counts["evicted"] = ahead.evicted
        return {name: int(count[self._rows].sum(dtype=np.int64)) for name, count in counts.items()}

    @property
    def time_share(self) -> dict[str, float]:
        """Exposed time per resource; sums to 1."""
        per_resource = self.timing.times.exposed.sum(axis=0)
        total = per_resource.sum()
        shares = per_resource / total if total else np.zeros(len(RESOURCES))
        return dict(zip(RESOURCES, map(float, shares), strict=True))

    # Quality proxies

    @property
    def mass_kept(self) -> tuple[float, ...]:
        """Per group, the mean share of the score mass that was kept."""
        return tuple(map(float, mean_share(self._of_units(self.traffic.mass))))

    @property
    def energy_kept(self) -> tuple[float, ...]:
        """Per group, the mean share of the squared scores that was kept."""
        return tuple(map(float, mean_share(self._of_units(self.traffic.energy))))

    @property
    def output_error(self) -> tuple[float | None, ...]:
        """Per group, the mean relative error of the layer's output that its mask makes; None where
        the trace has no column norms."""
        rows = self.traffic.error[self._token_rows]
        errors = rows.mean(axis=(0, 1), dtype=np.float64)
        if not self.layer_units.all():
            known = [rows[:, units > 0, i] for i, units in enumerate(self.layer_units.T)]
            errors = np.array([each.sum() / max(1, each.size) for each in known])
        return tuple(None if np.isnan(error) else float(error) for error in errors)

    @property
    def routing_weight_lost(self) -> float | None:
        """Share of the weight of the router's k best experts that those used do not have; None
        without experts that a rule chooses."""
        if self.plain_kept is None or self.traffic.groups != ("expert",):
            return None
        return 1 - self.mass_kept[0] / float(self.plain_kept[0, 0])

    # Arrays

    @property
    def per_token(self) -> dict[str, Array]:
        """Arrays over the measured tokens: row, accesses, hits, flash bytes, reads, latency and
        exposed time per resource (ms).

        Of decode steps of several tokens an entry is a step: the row of its first token, and
        ``given``, the tokens it gives.
        """
        rows, traffic, timing = self._rows, self.traffic, self.timing
        ends, first = np.flatnonzero(rows), self.run.tokens.begins_decode_step()[rows]
        several = {} if self.run.steps is None else {"given": self.run.given(ends)}
        return {
            "token": self.run.sets.source[first],
            **several,
            "accesses": traffic.active[rows].sum(axis=(1, 2)),
            "hits": traffic.hits[rows].sum(axis=(1, 2)),
            "flash_bytes": traffic.all_moved[rows].sum(axis=(1, 2))
            + self.timing.static_flash_bytes,
            "flash_reads": traffic.all_reads[rows].sum(axis=(1, 2))
            + self.timing.static_flash_reads,
            "latency_ms": timing.times.latency * 1e3,
            **{f"{r}_ms": timing.times.exposed[:, i] * 1e3 for i, r in enumerate(RESOURCES)},
        }

    @property
    def per_layer(self) -> dict[str, Array]:
        """Arrays [layers, groups] over the measured tokens: accesses, hits, flash bytes per token
        and flash milliseconds per token (busy, not exposed)."""
        rows, traffic, given = self._rows, self.traffic, self.tokens_per_step
        return {
            "accesses": traffic.active[rows].sum(axis=0, dtype=np.int64),
            "hits": traffic.hits[rows].sum(axis=0, dtype=np.int64),
            "flash_bytes_per_token": traffic.all_moved[rows].mean(axis=0) / given,
            "flash_ms_per_token": traffic.all_flash_seconds[rows].mean(axis=0) * 1e3 / given,
        }

    def to_frame(self, which: Literal["tokens", "layers"] = "tokens") -> "DataFrame":
        """Return a row per measured token, or per layer and group, as a pandas DataFrame.

        Args:
            which: ``tokens``: token of the trace, its sequence and position, accesses and hits
                (units), flash bytes and reads, latency and exposed time per resource (ms).
                ``layers``: layer, group, units, unit_bytes, capacity (units; none in global
                scope), accesses and hits, their ratio, flash bytes and milliseconds a token.

        Raises:
            DipsimError: neither of them, or pandas is not installed.
        """
        return frame(report_module("frames").records(self, which))

    def groups(self) -> list[dict[str, Any]]:
        """Return an entry per group.

        ``capacity`` and ``unit_bytes`` are lists when layers differ, and ``capacity`` is None when
        all groups share one cache.
        """
        traffic, rows, plain = self.traffic, self._rows, self.plain_kept
        mass, energy, error = self.mass_kept, self.energy_kept, self.output_error
        entries = []
        for i, name in enumerate(traffic.groups):
            units = self.layer_units[:, i]
            active, filled = traffic.active[rows, :, i], int((units > 0).sum())
            differ = {} if (units == units[0]).all() else {"layer_units": units.tolist()}
            entries.append(
                {
                    "name": name,
                    "layers": traffic.active.shape[1],
                    "units": int(units.max()),
                    **differ,
                    "unit_bytes": _one_or_all(self.unit_bytes[:, i]),
                    "capacity": None
                    if traffic.capacity is None
                    else _one_or_all(traffic.capacity[:, i]),
                    "active": float(active.sum(dtype=np.int64) / max(1, len(active) * filled)),
                    "accesses": int(active.sum(dtype=np.int64)),
                    "hits": int(traffic.hits[rows, :, i].sum(dtype=np.int64)),
                    "mass_kept": mass[i],
                    "energy_kept": energy[i],
                    "mass_kept_plain": None if plain is None else float(plain[i, 0]),
                    "energy_kept_plain": None if plain is None else float(plain[i, 1]),
                    "output_error": error[i],
                    "break_even_miss_density": _one_or_all(self.break_even[:, i]),
                }
            )
        return entries

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and texts: what ``dipsim run --json`` prints."""
        return {**self.figures(), "config": dict(self.config), "version": self.version}

    def figures(self) -> dict[str, Any]:
        """Return the same without what repeats the run."""
        budget, prefill = self.budget, self.timing.prefill
        return {
            "tokens": self.tokens,
            "accesses": self.accesses,
            "hits": self.hits,
            "unit_hit_rate": self.unit_hit_rate,
            "hit_rate": self.hit_rate,
            "flash_bytes_per_token": self.flash_bytes_per_token,
            "flash_useful_bytes_per_token": self.flash_useful_bytes_per_token,
            "flash_reads_per_token": self.flash_reads_per_token,
            "dram_bytes_per_token": self.dram_bytes_per_token,
            "tokens_per_second": finite(self.tokens_per_second),
            "tokens_per_second_range": [finite(rate) for rate in self.timing.rate_range],
            "tokens_per_second_interval": None
            if self.interval is None
            else self.interval.to_dict(),
            "request_sizes": self.request_sizes,
            "latency_ms": self.latency_ms,
            "prefill": None
            if prefill is None
            else {
                "tokens": prefill.tokens,
                "accesses": prefill.accesses,
                "hits": prefill.hits,
                "time_ms": prefill.seconds * 1e3,
            },
            "prefetch": self.prefetch,
            "engine": self.timing.engine,
            "thermal": None
            if self.timing.thermal is None
            else dict(zip(("cold", "sustained"), map(finite, self.timing.thermal), strict=True)),
            "ttft_ms": None if self.timing.ttft is None else self.timing.ttft * 1e3,
            "cold_start_ms": None if self.cold_start is None else self.cold_start * 1e3,
            "first_token": self.first_token,
            "groups": self.groups(),
            "kv": self.kv,
            "pruned_tokens": self.pruned_tokens,
            "skipped_layers": self.skipped_layers,
            "step": self.step,
            "routing_weight_lost": self.routing_weight_lost,
            "budget": {
                "dram": budget.dram,
                **{name: float(size) for name, size in budget.static._asdict().items()},
                "streamed_static": budget.streamed,
                "kv": budget.kv,
                "kv_buffer": budget.kv_buffer,
                "kv_index": budget.kv_index,
                "aux": budget.aux,
                "staging": budget.staging,
                "runtime_overhead": budget.overhead,
                "prefetch_buffer": budget.buffer,
                "cache": budget.cache,
                "cache_fraction": budget.fraction,
                "start": None
                if budget.start is None
                else dict(zip(("kv", "cache"), budget.start, strict=True)),
                "page_cache": self.page_cache,
                "model": self.model_bytes,
            },
            "time_share": self.time_share,
            "energy_mj_per_token": None
            if self.timing.energy is None
            else dict(zip(("low", "high"), (e * 1e3 for e in self.timing.energy), strict=True)),
            "marks": list(self.marks),
            "estimates": list(self.estimates),
        }

    def to_json(self) -> str:
        """Return `to_dict` as the text of a JSON object."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    # For people

    @property
    def fits(self) -> bool:
        """True if everything fits in DRAM that an app may use, and nothing was loaded twice."""
        units = int(self.layer_units.sum())
        whole = self.budget.fits and "paged" not in self.marks
        loaded, ahead = int(self.traffic.misses.sum(dtype=np.int64)), self.traffic.ahead
        if ahead is not None and ahead.enters:
            loaded += int(ahead.issued.sum(dtype=np.int64))
        return whole and loaded <= units

    @property
    def verdict(self) -> str:
        """The run in one sentence."""
        rate = f"{show_number(self.tokens_per_second, 3)} tokens/s"
        if self.fits:
            row = " and for embedding rows" if self.timing.static_flash_bytes else ""
            return f"{rate}: everything fits in DRAM; flash is read only at the first touch{row}."
        moved = BYTES.show(self.flash_bytes_per_token)
        streamed = ", static weights among them" if self.budget.streamed else ""
        paged = ", page faults among them" if "paged" in self.marks else ""
        return (
            f"{rate}: {self.hit_rate:.1%} of the active bytes are in DRAM; "
            f"{moved} a token come from flash{streamed}{paged}."
        )

    def summary(self) -> list[tuple[str, str]]:
        """Return the main figures as (label, text)."""
        rows: list[tuple[str, str]] = report_module("summary").rows(self)
        return rows

    def write_report(self, path: str | os.PathLike[str]) -> None:
        """Write the page of `dipsim report` on this run.

        Args:
            path: a .html, .md, .png or .svg file; a page needs plotly and Jinja2.

        Raises:
            DipsimError: another suffix, a package is missing, or the file cannot be written.
        """
        report_module("page.output").write_result(self, path)

    def __repr__(self) -> str:
        moved, tokens = BYTES.show(self.flash_bytes_per_token), self.tokens
        return (
            f"Result of {self.title}, {tokens} tokens measured\n{self.tokens_per_second:.4g} "
            f"tokens/s, {self.hit_rate:.1%} of the active bytes hit, {moved} of flash a token"
        )

    def _repr_html_(self) -> str:
        card: str = report_module("card").html(self)
        return card


def mean_share(shares: Array) -> Array:
    """Return means over tokens and layers, [groups, ...]; rows that are nan do not count."""
    known = ~np.isnan(shares)
    total = np.where(known, shares, 0).sum(axis=(0, 1), dtype=np.float64)
    counts = known.sum(axis=(0, 1))
    return np.where(counts > 0, total / np.maximum(counts, 1), 1.0)


def finite(rate: float) -> float | None:
    """Return a rate; None where tokens take no time, as JSON has no infinity."""
    return rate if math.isfinite(rate) else None


def _one_or_all(values: Array) -> Any:
    plain = values.tolist()
    return plain[0] if len(set(plain)) == 1 else plain
