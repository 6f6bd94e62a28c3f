// Figures of the explorer: tiles, marks, tables, and charts that are drawn behind them.
const panels = [];
const $ = (id) => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

const ORDER = ["rate-against-memory-1", "what-the-same-memory-could-do-1", "where-the-time-goes-1", "what-dram-holds-1", "where-the-time-goes-2", "layer-by-layer-1"];

// Charts are drawn one by one behind the figures, so that these are seen at once.
const waiting = new Set();

function drawSoon(panel) {
  if (waiting.size === 0) requestAnimationFrame(() => setTimeout(drawNext));
  waiting.add(panel);
}

function drawNext() {
  const [panel] = waiting;
  waiting.delete(panel);
  if (panels.includes(panel)) draw(panel);
  if (waiting.size) setTimeout(drawNext);
}

// The script that draws charts takes a browser a while: it is read behind the first figures.
let plotly = null;

function loadPlotly() {
  if (plotly) return;
  plotly = make("script", { src: "plotly.min.js" });
  plotly.addEventListener("load", () => panels.forEach(({ chart }) => near.observe(chart)));
  requestAnimationFrame(() => setTimeout(() => document.head.append(plotly)));
}

// A grid of charts whose figures change in place.
function grid(id, order = null) {
  const known = new Map();
  const box = $(id);
  function one(name) {
    if (known.has(name)) return known.get(name);
    const figure = make("figure", { className: "panel" });
    const caption = make("figcaption");
    const choice = make("select");
    const label = make("label", { className: "choice" }, "Show ", choice);
    const chart = make("div", { className: "chart" });
    chart.setAttribute("role", "img");
    const legend = make("div", { className: "legend" });
    legend.setAttribute("role", "group");
    const note = make("p", { className: "note" });
    figure.append(caption, label, chart, legend, note);
    const panel = { figure, caption, label, select: choice, choice: null, chart, legend, note, source: "", hidden: new Set(), drawn: false };
    choice.addEventListener("change", () => { panel.hidden.clear(); draw(panel); });
    figure.dataset.name = name;
    known.set(name, panel);
    panels.push(panel);
    box.append(figure);
    return panel;
  }
  function arrange(names) {
    const rank = ({ dataset }) => (names.includes(dataset.name) ? names.indexOf(dataset.name) : names.length);
    const sorted = [...box.children].sort((one, other) => rank(one) - rank(other));
    if (sorted.some((each, i) => each !== box.children[i])) box.append(...sorted);
  }
  function remove(name) {
    const panel = known.get(name);
    known.delete(name);
    panels.splice(panels.indexOf(panel), 1);
    near.unobserve(panel.chart);
    if (panel.drawn) Plotly.purge(panel.chart);
    panel.figure.remove();
  }
  // `whole`: what is not among the figures is taken away; otherwise it is greyed, or left as it is.
  function update(figures, whole, greyed = false) {
    loadPlotly();
    const names = new Set(figures.map(({ name }) => name));
    for (const [name, panel] of [...known]) {
      if (names.has(name)) continue;
      if (whole) remove(name);
      else if (greyed) panel.figure.classList.add("stale");
    }
    for (const { name, charts, described, note } of figures) {
      const panel = one(name);
      panel.figure.classList.remove("stale");
      panel.source = JSON.stringify(charts);
      const choices = Object.keys(charts);
      if (choices.join() !== panel.choices) {
        panel.choices = choices.join();
        panel.select.replaceChildren(...choices.map((each) => make("option", { textContent: each })));
        panel.choice = choices.length > 1 ? panel.select : null;
        panel.label.hidden = choices.length < 2;
      }
      panel.chart.setAttribute("aria-label", described);
      panel.legend.setAttribute("aria-label", `Series of ${described.split(":")[0]}`);
      panel.note.textContent = note;
      panel.note.hidden = !note;
      if (panel.drawn) drawSoon(panel);
      else {
        panel.caption.textContent = described.split(":")[0];
        if (window.Plotly) near.observe(panel.chart);
      }
    }
    arrange(order ?? [...names]);
  }
  return { update };
}

function show(answer, mine, whole = false) {
  shownRun = mine;
  $("problem").hidden = true;
  $("answer").textContent = answer.answer;
  $("mini").textContent = answer.tiles.slice(0, 2).map(({ label, figure }) => `${label} ${figure}`).join(", ");
  showTiles(answer.tiles);
  showMarks(answer.marks);
  $("command").textContent = answer.command;
  $("copy").dataset.text = answer.command;
  listed("warnings", answer.warnings);
  listed("caveats", answer.caveats);
  $("now").classList.remove("stale");
  $("now").setAttribute("aria-busy", "false");
  nameAdd();
  draws.now.update(answer.panels, false, true);
  if (whole) showTables(answer.tables);
}

function listed(id, texts) {
  $(id).replaceChildren(...texts.map((text) => make("li", { textContent: text })));
}

function showTiles(tiles) {
  $("tiles").replaceChildren(...tiles.map(({ label, figure, note }) => {
    const value = make("dd", { textContent: figure });
    if (note) value.append(make("small", { textContent: note }));
    return make("div", {}, make("dt", { textContent: label }), value);
  }));
}

function showMarks(marks) {
  $("marks").replaceChildren(...marks.flatMap(({ mark, meaning }) => [
    make("a", { href: "#meanings", textContent: mark, title: meaning }), " ",
  ]));
  $("mark-list").replaceChildren(...marks.flatMap(({ mark, meaning }) => [
    make("dt", { textContent: mark }), make("dd", { textContent: meaning }),
  ]));
  $("meanings").hidden = marks.length === 0;
}

// A link within the page must not take the place of the settings in the address.
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  if (!link) return;
  event.preventDefault();
  const target = document.querySelector(link.getAttribute("href"));
  target.tabIndex = -1;
  target.scrollIntoView();
  target.focus();
});

function tableOf({ title, heads, numbers, rows, commands }, actions = []) {
  const right = new Set(numbers);
  const named = (column) => (right.has(column) ? "n" : "");
  const unseen = () => make("th", { scope: "col" }, make("span", { className: "unseen", textContent: "actions" }));
  const head = heads.map((text, i) => make("th", { scope: "col", className: named(i), textContent: text }));
  const more = actions.length + (commands.length ? 1 : 0);
  const body = rows.map((row, at) => {
    const cells = row.map(([text, value], i) => {
      const cell = make("td", { className: named(i), textContent: text });
      if (value !== null) cell.dataset.v = value;
      return cell;
    });
    const buttons = actions.map(([name, act]) => {
      const button = make("button", { type: "button", textContent: name });
      button.setAttribute("aria-label", `${name} run ${at + 1}`);
      button.addEventListener("click", () => act(at));
      return button;
    });
    if (commands.length) {
      const button = make("button", { type: "button", className: "copy", textContent: "copy" });
      button.dataset.text = commands[at];
      button.setAttribute("aria-label", `Copy the command of run ${at + 1}`);
      buttons.push(button);
    }
    if (more) cells.push(make("td", {}, ...buttons.flatMap((each) => [each, " "])));
    return make("tr", {}, ...cells);
  });
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...head, ...(more ? [unseen()] : []))), make("tbody", {}, ...body));
  sortable(table);
  const scroll = make("div", { className: "scroll", tabIndex: 0 }, table);
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", title || heads.join(", "));
  return scroll;
}

function showTables(sections) {
  const list = $("table-list");
  const open = new Set([...list.querySelectorAll("details[open]")].map(({ dataset }) => dataset.name));
  list.replaceChildren(...sections.map(({ name, texts, tables }) => {
    const parts = texts.map((text) => make("p", { textContent: text }));
    const details = make("details", { className: "figures", open: open.has(name) }, make("summary", { textContent: name }), ...parts, ...tables.map((each) => tableOf(each)));
    details.dataset.name = name;
    return details;
  }));
  $("tables").hidden = sections.length === 0;
}
