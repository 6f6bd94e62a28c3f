"""The app's answers: the simulator's own figures, nothing to others, nothing beyond its list."""

import asyncio
import csv
import io
import json
import shlex
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from dipsim.errors import DipsimError
from dipsim.explore.asked import MOST_RUNS, OPTIONS, Asked, asked_of
from dipsim.explore.serve import make_app
from dipsim.explore.turns import Overtaken, Turns
from dipsim.files import shipped
from dipsim.settings import OPTIONS as SETTINGS
from dipsim.simulate import simulate
from tools.cli import Dipsim, done, refused
from tools.reported import cell, figures, fill_store

PORT, TOKEN = 8123, "token"
ORIGIN = f"http://127.0.0.1:{PORT}"
SHORT = {"method": "dip", "policy": "lfu", "dram": "60%", "tokens": "0:8"}
RUN = {"trace": "smollm2-chat", "profile": "snapdragon8", "options": SHORT}


class Client:
    """A browser's requests to an app."""

    def __init__(self, source: str | None = None) -> None:
        self.turns = Turns()
        app = make_app(source, None, None, self.turns)
        self.http = TestClient(app.guarded(PORT, TOKEN), base_url=ORIGIN)

    def post(self, name: str, value: Any, **headers: str) -> Any:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        known = {"origin": ORIGIN, "content-type": "application/json", **headers}
        return self.http.post(f"/{TOKEN}/{name}", content=content, headers=known)

    def answer(self, name: str, value: Any) -> Any:
        response = self.post(name, value)
        assert response.status_code == 200
        return response.json()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    made = Client("smollm2-chat")
    yield made
    made.turns.close()


def run(**options: Any) -> dict[str, Any]:
    """A request for a run, with other options."""
    return {**RUN, "options": {**SHORT, **options}}


# Figures -----------------------------------------------------------------------------------------


def test_figures_are_the_simulators(client: Client) -> None:
    answer = client.answer("figures", run(density=0.5))
    own = simulate("smollm2-chat", "snapdragon8", **SHORT, density=0.5)
    assert answer["answer"].startswith(f"{own.tokens_per_second:.3g} tokens/s")
    assert {each["mark"] for each in answer["marks"]} == set(own.marks)
    assert all(each["meaning"] for each in answer["marks"])
    names = [panel["name"] for panel in answer["panels"]]
    assert {"where-the-time-goes-1", "what-dram-holds-1", "layer-by-layer-1"} <= set(names)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "dip-ca", "gamma": 0.3, "policy": "lru", "dram": "75%", "density": 0.6},
        {"dram": None, "cache_fraction": 0.4, "layout": "row", "admission": "ranked"},
    ],
)
def test_the_command_repeats_the_figures(
    client: Client, dipsim: Dipsim, options: dict[str, Any]
) -> None:
    given = {key: value for key, value in {**SHORT, **options}.items() if value is not None}
    asked = {**RUN, "options": given}
    command = shlex.split(client.answer("figures", asked)["command"])
    saved = client.answer("result.json", asked)
    assert command[0] == "dipsim"
    again = done(dipsim(shlex.join(command[1:]), "--json", "--details")).json
    assert again["tokens_per_second"] == saved["tokens_per_second"]
    assert again["per_layer"] == saved["per_layer"]
    assert again["baselines"] == saved["baselines"]
    assert set(again) == set(saved)


def test_what_stands_beside_is_worked_out_too(client: Client) -> None:
    panels = {panel["name"]: panel for panel in client.answer("held", RUN)["panels"]}
    (chart,) = panels["what-the-same-memory-could-do-1"]["charts"].values()
    assert {"this run", "dense", "optimum"} <= set(chart["data"][0]["x"])
    (panel,) = client.answer("curve", RUN)["panels"]
    (chart,) = panel["charts"].values()
    lines = {line["name"]: line for line in chart["data"]}
    assert list(lines) == ["dip, lfu", "with the optimum", "dense", "this run"]
    assert lines["this run"]["x"] == [60.0]
    at = lines["dip, lfu"]["x"].index(60.0)
    assert lines["dip, lfu"]["y"][at] == lines["this run"]["y"][0]
    own, best = lines["dip, lfu"]["y"], lines["with the optimum"]["y"]
    assert all(a <= b * (1 + 1e-9) for a, b in zip(own, best, strict=True))


def test_other_runs_do_not_leak_into_shared_sets(client: Client) -> None:
    """Runs that share their active sets give what each gives alone."""
    for options in ({"dram": "90%"}, {"policy": "lru"}, {"seed": 1}, {"density": 0.4}, {}):
        shared = client.answer("result.json", run(**options))["hit_rate"]
        assert shared == simulate("smollm2-chat", "snapdragon8", **{**SHORT, **options}).hit_rate


def test_methods_that_the_trace_cannot_run_say_why(client: Client) -> None:
    methods = client.answer("methods", RUN)["methods"]
    assert methods["dip"] == ""
    assert "gate" in methods["cats"]
    assert "sets" in methods["recorded"]


def test_runs_are_compared(client: Client) -> None:
    runs = {"runs": [RUN, run(policy="lru"), run(dram="90%")]}
    answer = client.answer("comparison", runs)
    (section,) = [each for each in answer["tables"] if each["name"] == "Every run"]
    assert len(section["tables"][0]["rows"]) == 3
    assert answer["panels"][0]["name"] == "side-by-side-1"
    rows = list(csv.DictReader(io.StringIO(client.post("comparison.csv", runs).text)))
    assert [row["policy"] for row in rows] == ["lfu", "lru", "lfu"]
    saved = client.answer("comparison.json", runs)["runs"]
    assert [float(row["tokens_per_second"]) for row in rows] == [
        each["tokens_per_second"] for each in saved
    ]
    assert [row["command"] for row in rows] == [each["command"] for each in saved]


def test_the_report_of_a_run_is_whole(client: Client) -> None:
    text = client.post("report.html", RUN).text
    assert text.startswith("<!doctype html>")
    assert "smollm2-chat: dip with lfu on snapdragon8" in text


# Hostile requests --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}", ""]
)
def test_another_name_is_refused(client: Client, host: str) -> None:
    for response in (
        client.http.get(f"/{TOKEN}/", headers={"host": host}),
        client.post("figures", RUN, host=host),
    ):
        assert response.status_code == 403
        assert "refused" in response.text


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": f"http://localhost:{PORT}"},
        {"origin": ORIGIN, "sec-fetch-site": "cross-site"},
    ],
)
def test_another_page_is_refused(client: Client, headers: dict[str, str]) -> None:
    assert client.post("figures", RUN, **headers).status_code == 403


def test_a_post_without_an_origin_is_refused(client: Client) -> None:
    response = client.http.post(f"/{TOKEN}/figures", json=RUN)
    assert response.status_code == 403


def test_the_token_is_needed(client: Client) -> None:
    assert client.http.get("/").status_code == 404
    assert client.http.get("/other/").status_code == 404
    assert client.http.get(f"/{TOKEN}/").status_code == 200


def test_localhost_is_a_name_of_it(client: Client) -> None:
    name = f"localhost:{PORT}"
    assert client.http.get(f"/{TOKEN}/", headers={"host": name}).status_code == 200
    assert client.post("figures", RUN, host=name, origin=f"http://{name}").status_code == 200


@pytest.mark.parametrize("path", ["", "explore.js", "shared.js", "style.css", "plotly.min.js"])
def test_pages_may_fetch_nothing_from_elsewhere(client: Client, path: str) -> None:
    response = client.http.get(f"/{TOKEN}/{path}")
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert response.headers["cache-control"] == "no-store"
    assert "set-cookie" not in response.headers
    assert "access-control-allow-origin" not in response.headers


def test_figures_are_only_given_to_posts(client: Client) -> None:
    for method in ("get", "put", "delete"):
        response = getattr(client.http, method)(f"/{TOKEN}/figures", headers={"origin": ORIGIN})
        assert response.status_code == 405


def test_bodies_that_are_no_request_are_refused(client: Client) -> None:
    assert client.post("figures", b"x" * 2**17).status_code == 413
    assert client.post("figures", b"{").status_code == 400
    assert client.post("figures", b"[" * 60_000).status_code == 400
    assert client.post("figures", b"\xff").status_code == 400
    typed = {"content-type": "text/plain"}
    assert client.post("figures", RUN, **typed).status_code == 415


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "dictionary"),
        ({**RUN, "more": 1}, "more"),
        ({**RUN, "trace": "/etc/passwd"}, "trace '/etc/passwd': use one of smollm2-chat"),
        ({**RUN, "profile": "../phone.yaml"}, "profile '../phone.yaml': use one of"),
        ({**RUN, "trace": 7}, "trace"),
        (run(static_from="x.npz"), "'static_from' cannot be set here"),
        (run(prefetch="x.npz"), "'prefetch' cannot be set here"),
        (run(nonsense=1), "'nonsense' cannot be set here"),
        (run(policy="evil.py:policy"), "only built-in ones"),
        (run(method="evil.py:method"), "only built-in ones"),
        (run(method="evil.py:method:a=1"), "only built-in ones"),
        (run(policy=1), "only built-in ones"),
        (run(density=2.0), "density"),
        (run(gamma={"nothing": 0.5}, method="dip-ca"), "no group 'nothing'"),
        (run(cache_fraction=0.5), "--dram and --cache-fraction exclude"),
        (run(dram="1 elephant"), "--dram"),
        (run(method="cats"), "gate"),
        (run(layout="bundle"), "layout bundle"),
        (run(tokens="9:2"), "9:2"),
        (run(seed=[1]), "seed"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(client: Client, given: Any, said: str) -> None:
    answer = client.answer("figures", given)
    assert list(answer) == ["error"]
    assert said in answer["error"]
    assert "\n" not in answer["error"]


def test_infinities_are_no_numbers(client: Client) -> None:
    for number in ("NaN", "Infinity", "-Infinity"):
        body = json.dumps(run(density=0.25)).replace("0.25", number).encode()
        assert client.post("figures", body).status_code == 400
    assert "density" in client.post("figures", body.replace(b"-Infinity", b"1e999")).text


def test_a_comparison_has_its_limit(client: Client) -> None:
    answer = client.answer("comparison", {"runs": [RUN] * (MOST_RUNS + 1)})
    assert "runs" in answer["error"]


def test_no_option_that_names_a_file_can_be_set() -> None:
    assert set(OPTIONS) <= set(SETTINGS)
    assert not {"static_from", "warm_from", "prefetch", "order_from"} & set(OPTIONS)


# Traces that go and come -------------------------------------------------------------------------


def test_a_trace_that_disappears_is_told_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    shutil.copy(shipped("traces") / "smollm2-chat.npz", path)
    client = Client(str(path))
    asked = {**RUN, "trace": str(path)}
    before = client.answer("figures", asked)["answer"]
    path.rename(tmp_path / "away.npz")
    problem = client.answer("figures", asked)["error"]
    assert "no trace" in problem
    assert "\n" not in problem
    assert client.answer("figures", RUN)["answer"] == before  # another trace goes on
    (tmp_path / "away.npz").rename(path)
    assert client.answer("figures", asked)["answer"] == before
    path.write_bytes(b"no trace any more")
    assert "error" in client.answer("figures", asked)
    client.turns.close()


def test_a_trace_replaced_by_another_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    shutil.copy(shipped("traces") / "smollm2-chat.npz", path)
    client = Client(str(path))
    asked = {**RUN, "trace": str(path), "options": {"method": "dense", "dram": "60%"}}
    before = client.answer("result.json", asked)
    shutil.copy(shipped("traces") / "smollm2-kv.npz", tmp_path / "other.npz")
    (tmp_path / "other.npz").replace(path)
    after = client.answer("result.json", asked)
    own = simulate("smollm2-kv", "snapdragon8", method="dense", dram="60%")
    assert after["tokens_per_second"] == own.tokens_per_second
    assert after["about"]["trace"]["hash"] != before["about"]["trace"]["hash"]
    client.turns.close()


# Turns -------------------------------------------------------------------------------------------


def test_the_newest_request_wins() -> None:
    turns, begun, go = Turns(), threading.Event(), threading.Event()
    worked: list[int] = []

    def work(number: int) -> Any:
        def working(progress: Any) -> int:
            worked.append(number)
            begun.set()
            go.wait()
            progress(1, 2)
            return number

        return working

    async def ask() -> list[Any]:
        first = asyncio.ensure_future(turns.newest("now", work(1)))
        await asyncio.to_thread(begun.wait)
        others = [asyncio.ensure_future(turns.newest("now", work(n))) for n in (2, 3)]
        await asyncio.to_thread(begun.wait)  # both have asked by now
        go.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    answers = asyncio.run(ask())
    assert [type(each) for each in answers] == [Overtaken, Overtaken, int]
    assert worked == [1, 3]  # what waited was never begun
    turns.close()


def test_figures_do_not_wait_for_what_stands_beside() -> None:
    turns, begun, go = Turns(), threading.Event(), threading.Event()

    def beside(progress: Any) -> None:
        begun.set()
        go.wait()
        progress(1, 2)

    async def ask() -> list[Any]:
        slow = asyncio.ensure_future(turns.newest("beside", beside))
        await asyncio.to_thread(begun.wait)
        quick = await turns.newest("now", lambda progress: 1)
        go.set()
        return [quick, *await asyncio.gather(slow, return_exceptions=True)]

    quick, slow = asyncio.run(ask())
    assert quick == 1
    assert isinstance(slow, Overtaken)
    turns.close()


# A store -----------------------------------------------------------------------------------------


def test_a_sweep_is_shown_and_its_cells_can_be_asked_for(tmp_path: Path) -> None:
    cells = [
        cell({"policy": "lru", "dram": "60%"}, figures(20.0)),
        cell({"policy": "mine.py:policy", "dram": "60%"}, figures(30.0)),
        cell({"policy": "lru", "dram": "5%"}, None),
    ]
    client = Client(str(fill_store(tmp_path / "s.db", cells)))
    study = client.answer("study", {})
    assert [axis["name"] for axis in study["axes"]] == ["policy", "dram"]
    first, own, impossible = study["cells"]
    assert first["asked"]["options"] == {"policy": "lru", "dram": "60%"}
    assert "tokens/s" in client.answer("figures", first["asked"])["answer"]
    assert "only built-in" in client.answer("figures", own["asked"])["error"]
    assert client.answer("cell", {"cell": 1})["tiles"][0]["figure"] == "30"
    assert impossible["why"] == "no such density"
    assert "no such density" in client.answer("cell", {"cell": 2})["error"]
    assert "cell 3" in client.answer("cell", {"cell": 3})["error"]
    client.turns.close()


def test_a_cell_with_more_than_a_request_may_set_says_so() -> None:
    options = {"trace": "t", "profile": "p", "kv_policy": "tova"}
    with pytest.raises(DipsimError, match="kv_policy cannot be set here"):
        asked_of(options, ["t"])
    with pytest.raises(DipsimError, match="none that can be chosen"):
        asked_of(options, ["other"])


def test_the_page_begins_with_the_run_that_is_worked_out_first() -> None:
    app = make_app(None, None, None, Turns())
    asked = app._offer.begins_with
    assert asked == Asked.model_validate(asked.model_dump()).check(["snapdragon8"])


# The command -------------------------------------------------------------------------------------


def test_what_cannot_be_served_is_refused(dipsim: Dipsim, tmp_path: Path) -> None:
    refused(dipsim("explore nothing.npz"), "no trace 'nothing.npz'")
    refused(dipsim("explore -p nothing"), "nothing")
    refused(dipsim("explore --sweep x"), "--sweep x", "no store")
