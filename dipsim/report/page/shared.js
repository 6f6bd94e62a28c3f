"use strict";
// What the page of a report and the explorer share; either has its own `panels`.
const root = document.documentElement;

// Charts --------------------------------------------------------------------------------------

function themed(layout) {
  const style = getComputedStyle(root);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = {
    gridcolor: colour("--grid"), linecolor: colour("--line"), zerolinecolor: colour("--line"),
    tickcolor: colour("--line"), fixedrange: true,
  };
  return {
    ...layout,
    title: { text: "" },
    autosize: true,
    showlegend: false,
    dragmode: false,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 8, r: 12, t: 12, b: 8 },
    font: { color: colour("--ink"), family: getComputedStyle(document.body).fontFamily, size: 13 },
    hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") }, align: "left" },
    xaxis: { ...axis, ...layout.xaxis, title: titled(layout.xaxis) },
    yaxis: { ...axis, ...layout.yaxis, title: titled(layout.yaxis) },
  };
}

const titled = ({ title }) => ({ ...title, font: { size: 13 }, standoff: 10 });

// Where the columns of a map are narrow, fewer are named, and none shows its value.
function thin({ data: [trace], layout: { xaxis } }, width) {
  if (trace.type !== "heatmap") return;
  const room = width / (trace.x.length + 4);
  if (room < 34) delete trace.texttemplate;
  const step = Math.ceil(24 / room);
  xaxis.ticktext = xaxis.ticktext.filter((_, i) => i % step === 0);
  xaxis.tickvals = xaxis.tickvals.filter((_, i) => i % step === 0);
}

function draw(panel) {
  const dark = getComputedStyle(root).colorScheme === "dark";
  const source = dark ? panel.source.replaceAll("#000000", "#ffffff") : panel.source;
  const charts = JSON.parse(source);
  const name = panel.choice ? panel.choice.value : Object.keys(charts)[0];
  thin(charts[name], panel.chart.clientWidth);
  const { data, layout } = charts[name];
  panel.caption.textContent = plainText(layout.title.text);
  for (const trace of data) trace.visible = !panel.hidden.has(trace.name);
  drawLegend(panel, data);
  return Plotly.react(panel.chart, data, themed(layout), { displayModeBar: false, responsive: true });
}

function drawLegend(panel, data) {
  if (data.length < 2) return panel.legend.replaceChildren();
  const buttons = data.map((trace) => {
    const button = document.createElement("button");
    const shown = !panel.hidden.has(trace.name);
    button.type = "button";
    button.setAttribute("aria-pressed", shown);
    button.append(swatch(trace), plainText(trace.name));
    button.addEventListener("click", () => {
      panel.hidden[shown ? "add" : "delete"](trace.name);
      const place = [...panel.legend.children].indexOf(button);
      draw(panel);
      panel.legend.children[place].focus();
    });
    return button;
  });
  panel.legend.replaceChildren(...buttons);
}

function plainText(text) {
  const names = { lt: "<", gt: ">", amp: "&" };
  return text.replace(/&(lt|gt|amp);/g, (_, name) => names[name]);
}

function swatch(trace) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("width", 22);
  svg.setAttribute("height", 10);
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(svg.namespaceURI, "line");
  const dashes = { dash: "6 3", dashdot: "6 2 2 2", dot: "2 2", longdash: "9 3", longdashdot: "9 2 2 2" };
  const joined = (trace.mode || "").includes("lines");
  const style = {
    x1: 0, x2: 22, y1: 5, y2: 5, stroke: trace.marker.color, "stroke-width": joined ? 3 : 10,
    "stroke-dasharray": joined ? dashes[trace.line.dash] || "" : "",
  };
  for (const [key, value] of Object.entries(style)) line.setAttribute(key, value);
  svg.append(line);
  return svg;
}

// A chart is drawn when it comes near, each in a task of its own, so that a page of many opens at
// once.
const near = new IntersectionObserver((entries) => {
  for (const { target } of entries.filter(({ isIntersecting }) => isIntersecting)) {
    const panel = panels.find(({ chart }) => chart === target);
    setTimeout(() => { if (panel && !panel.drawn) drawFirst(panel); });
  }
}, { rootMargin: "200px" });

function drawFirst(panel) {
  near.unobserve(panel.chart);
  panel.drawn = true;
  draw(panel);
}

// Light and dark ------------------------------------------------------------------------------

const themeButton = document.getElementById("theme");
const darkSystem = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : darkSystem.matches);
const redraw = () => panels.filter(({ drawn }) => drawn).forEach(draw);
function nameTheme() {
  themeButton.textContent = isDark() ? "Light" : "Dark";
  themeButton.setAttribute("aria-label", `Change to ${isDark() ? "light" : "dark"} colours`);
}
themeButton.hidden = false;
themeButton.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
  redraw();
});
darkSystem.addEventListener("change", () => { nameTheme(); redraw(); });
nameTheme();

// Paper is light, and narrower than a screen.
const WIDTH_ON_PAPER = 640;
let themeOfScreen;
window.addEventListener("beforeprint", () => {
  themeOfScreen = root.dataset.theme;
  root.dataset.theme = "light";
  if (!window.Plotly) return;
  redraw();
  panels.filter(({ drawn }) => !drawn).forEach(drawFirst);
  panels.forEach(({ chart }) => Plotly.relayout(chart, { width: WIDTH_ON_PAPER }));
});
window.addEventListener("afterprint", () => {
  if (themeOfScreen === undefined) delete root.dataset.theme;
  else root.dataset.theme = themeOfScreen;
  redraw();
});

// Tables --------------------------------------------------------------------------------------

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (head.querySelector(".unseen")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sortBy(table, column, down ? -1 : 1);
    });
  });
}

function sortBy(table, column, sign) {
  const words = new Intl.Collator(undefined, { numeric: true });
  const keyed = [...table.tBodies[0].rows].map((row) => {
    const { dataset, textContent } = row.cells[column];
    return { row, number: dataset.v === undefined ? NaN : Number(dataset.v), textContent };
  });
  keyed.sort((a, b) => {
    if (!Number.isNaN(a.number) && !Number.isNaN(b.number)) return sign * (a.number - b.number);
    if (Number.isNaN(a.number) !== Number.isNaN(b.number)) return Number.isNaN(a.number) ? 1 : -1;
    return sign * words.compare(a.textContent, b.textContent);
  });
  table.tBodies[0].append(...keyed.map(({ row }) => row));
}

// Copying -------------------------------------------------------------------------------------

document.addEventListener("click", async (event) => {
  const button = event.target.closest(".copy");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.dataset.text);
  } catch {
    const area = document.createElement("textarea");
    area.value = button.dataset.text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.textContent = "copied";
  setTimeout(() => { button.textContent = "copy"; }, 1500);
});
