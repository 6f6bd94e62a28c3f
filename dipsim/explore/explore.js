// The explorer: asks for figures as settings change, one request at a time, the newest wins.
const form = $("controls");
const fields = [...form.querySelectorAll(".field")];
const inputOf = (field) => field.querySelector("select, input");
const atStart = new Map(fields.map((field) => [field.dataset.option, inputOf(field).value]));
const PAUSE = 250; // milliseconds without a change until what stands beside is asked for
const SLOW = 600; // milliseconds of a run from which on a slider waits until it is let go

// Settings ------------------------------------------------------------------------------------

let notMethods = {}; // why a method cannot run on the trace, by method
let extra = {}; // options of a cell that have no control

function field(option) {
  return fields.find(({ dataset }) => dataset.option === option);
}

const valueOf = (option) => inputOf(field(option)).value;

function asked() {
  const options = { ...extra };
  for (const each of fields) {
    const { option } = each.dataset;
    const input = inputOf(each);
    if (["trace", "profile", "budget", "size"].includes(option) || input.disabled || input.value.trim() === "") continue;
    const value = input.type === "range" ? Number(input.value) : input.value.trim();
    const [name, key] = option.split(".");
    if (key) options[name] = { ...options[name], [key]: value };
    else options[name] = value;
  }
  const size = Number(valueOf("size"));
  if (valueOf("budget") === "dram") options.dram = `${size}%`;
  if (valueOf("budget") === "cache_fraction") options.cache_fraction = size / 100;
  return { trace: valueOf("trace"), profile: valueOf("profile"), options };
}

// A control that the method does not take is disabled, and says so.
function settle() {
  const method = valueOf("method");
  for (const each of fields) {
    const { option, methods } = each.dataset;
    const input = inputOf(each);
    const small = each.querySelector("small");
    small.dataset.help ??= small.textContent;
    let why = methods && !methods.split(" ").includes(method) ? `not of ${method}` : "";
    if (option === "size" && valueOf("budget") === "device") why = "the device says it";
    input.disabled = why !== "";
    each.classList.toggle("off", why !== "");
    small.textContent = why || small.dataset.help;
    const output = each.querySelector("output");
    if (output) output.textContent = option === "size" ? `${input.value} %` : Number(input.value).toFixed(2);
  }
  $("c-size").max = valueOf("budget") === "cache_fraction" ? 100 : 120;
}

function offerMethods(methods) {
  notMethods = methods;
  for (const choice of $("c-method").options) {
    const why = methods[choice.value] || "";
    choice.disabled = why !== "";
    choice.textContent = why ? `${choice.value}: ${why}` : choice.value;
  }
}

// The address keeps what differs from the start, so that a reload, or a bookmark, keeps it too.
function keep() {
  const kept = new URLSearchParams();
  for (const [option, first] of atStart) {
    if (valueOf(option) !== first) kept.set(option, valueOf(option));
  }
  if (Object.keys(extra).length) kept.set("more", JSON.stringify(extra));
  history.replaceState(null, "", kept.size ? `#${kept}` : location.pathname);
}

function restore() {
  const kept = new URLSearchParams(location.hash.slice(1));
  extra = {};
  try {
    extra = JSON.parse(kept.get("more") || "{}");
  } catch {
    history.replaceState(null, "", location.pathname);
  }
  for (const [option, first] of atStart) choose(option, kept.get(option) ?? first);
  settle();
}

function choose(option, value) {
  const input = inputOf(field(option));
  const before = input.value;
  input.value = value;
  if (input.tagName === "SELECT" && input.selectedIndex < 0) input.value = before;
}

// Sets the controls to what repeats a run; what has no control is kept beside them.
function load({ trace, profile, options }) {
  const rest = { ...options };
  for (const [option, first] of atStart) choose(option, first);
  choose("trace", trace);
  choose("profile", profile);
  const share = /^([\d.]+)\s*%$/.exec(rest.dram ?? "");
  const size = share ? Number(share[1]) : rest.cache_fraction * 100;
  if (Number.isInteger(Math.round(size * 1e6) / 1e6) && size >= 1 && size <= 120) {
    choose("budget", share ? "dram" : "cache_fraction");
    choose("size", String(Math.round(size)));
    delete rest.dram;
    delete rest.cache_fraction;
  } else {
    choose("budget", "device");
  }
  const set = new Set();
  for (const each of fields) {
    const [name, key] = each.dataset.option.split(".");
    const given = typeof rest[name] === "object" ? rest[name][key] ?? rest[name]["*"] : rest[name];
    if (given === undefined) continue;
    choose(each.dataset.option, String(given));
    if (valueOf(each.dataset.option) === String(given)) set.add(name);
  }
  extra = Object.fromEntries(Object.entries(rest).filter(([name]) => !set.has(name)));
  settle();
}

// Requests ------------------------------------------------------------------------------------

async function post(name, value, signal) {
  const response = await fetch(name, {
    method: "POST", body: JSON.stringify(value), headers: { "Content-Type": "application/json" }, signal,
  });
  if (!response.ok) throw new Error(`the simulator failed (${response.status}): see its terminal`);
  return response;
}

async function ask(name, value, signal) {
  try {
    return await (await post(name, value, signal)).json();
  } catch (problem) {
    if (problem.name === "AbortError") return { overtaken: true };
    const gone = problem instanceof TypeError;
    return { error: gone ? "the simulator has ended: start dipsim explore again" : problem.message };
  }
}

let wanted = null;
let shownRun = null; // what the figures are of
let resting = null; // of what is asked for while nothing changes
let busy = false;
let took = 0;

function changed(event) {
  if (event?.type === "input" && took > SLOW && event.target.type === "range") {
    settle();
    return;
  }
  settle();
  keep();
  wanted = asked();
  resting?.abort();
  $("now").classList.add("stale");
  $("now").setAttribute("aria-busy", "true");
  run();
}

async function run() {
  if (busy) return;
  busy = true;
  while (wanted) {
    const mine = wanted;
    wanted = null;
    const begun = performance.now();
    const answer = await ask("figures", mine);
    took = performance.now() - begun;
    if (wanted) continue;
    if (answer.overtaken) {
      wanted = mine; // by another window: it has had its turn
      continue;
    }
    if (answer.error) {
      await refuse(answer.error, mine);
      continue;
    }
    show(answer, mine);
    resting = new AbortController();
    await rest(mine, resting.signal);
  }
  busy = false;
}

async function rest(mine, signal) {
  await new Promise((waited) => setTimeout(waited, PAUSE));
  if (signal.aborted) return;
  const held = await ask("held", mine, signal);
  if (signal.aborted) return;
  if (!held.error && !held.overtaken) show(held, mine, true);
  const curve = await ask("curve", mine, signal);
  if (signal.aborted || curve.error || curve.overtaken) return;
  draws.now.update(curve.panels, false);
}

async function refuse(problem, mine) {
  $("problem").textContent = problem;
  $("problem").hidden = false;
  $("now").setAttribute("aria-busy", "false");
  if (study && study.chosen !== null && JSON.stringify(study.cells[study.chosen].asked) === JSON.stringify(mine)) await stored();
}

// Comparison ----------------------------------------------------------------------------------

const MOST = 24;
let compared = [];
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

function nameAdd() {
  const there = compared.some((each) => same(each, shownRun));
  $("add").disabled = !shownRun || there || compared.length >= MOST;
  $("add").textContent = there ? "In the comparison" : "Add to comparison";
}

async function compare(runs) {
  compared = runs;
  sessionStorage.setItem("compared", JSON.stringify(runs));
  nameAdd();
  $("comparison").hidden = runs.length === 0;
  if (!runs.length) return draws.comparison.update([], true);
  const answer = await ask("comparison", { runs });
  if (runs !== compared) return undefined;
  if (answer.error || answer.overtaken) {
    $("comparison-answer").textContent = answer.error ?? "";
    return undefined;
  }
  $("comparison-answer").textContent = answer.answer;
  const actions = [
    ["show", (at) => { load(compared[at]); changed(); $("answer").focus(); }],
    ["remove", (at) => { compare(compared.filter((_, i) => i !== at)); $("add").focus(); }],
  ];
  const table = answer.tables.find(({ name }) => name === "Every run").tables[0];
  $("comparison-table").replaceChildren(tableOf(table, actions));
  return draws.comparison.update(answer.panels, true);
}

$("add").addEventListener("click", () => compare([...compared, shownRun]));
$("clear").addEventListener("click", () => { compare([]); $("add").focus(); });

// Downloads -----------------------------------------------------------------------------------

for (const button of document.querySelectorAll(".download")) {
  button.addEventListener("click", async () => {
    const { file } = button.dataset;
    const label = button.textContent;
    button.textContent = "working ...";
    try {
      const response = await post(file, file.startsWith("comparison") ? { runs: compared } : shownRun);
      const link = make("a", { href: URL.createObjectURL(await response.blob()), download: file });
      link.click();
      URL.revokeObjectURL(link.href);
    } catch (problem) {
      $("problem").textContent = problem.message;
      $("problem").hidden = false;
    }
    button.textContent = label;
  });
}

// The sweep of a store ------------------------------------------------------------------------

let study = null;

async function openStudy() {
  const answer = await ask("study", {});
  if (answer.error) {
    $("problem").textContent = answer.error;
    $("problem").hidden = false;
    return;
  }
  study = { ...answer, chosen: null };
  $("study-answer").textContent = answer.answer;
  $("study").hidden = false;
  const table = answer.tables.find(({ name }) => name === "Every run").tables[0];
  $("study-table").replaceChildren(tableOf(table, [["show", (at) => { chooseCell(at); $("answer").focus(); }]]));
  draws.study.update(answer.panels, true);
  const axes = $("axes");
  answer.axes.forEach(({ name, words, values }, i) => {
    const select = make("select", { id: `a-${i}`, autocomplete: "off" }, ...values.map((text, at) => make("option", { value: at, textContent: text })));
    select.addEventListener("change", chooseByAxes);
    const label = make("label", { textContent: words, htmlFor: select.id, title: name });
    axes.append(make("div", { className: "field" }, label, select));
  });
  axes.append(make("p", { id: "cell-note", className: "note" }));
  axes.hidden = false;
  const first = study.cells.findIndex(({ asked: known }) => known);
  if (!location.hash) chooseCell(Math.max(0, first));
}

function chooseByAxes() {
  const at = study.axes.map((_, i) => Number($(`a-${i}`).value));
  const found = study.cells.findIndex((cell) => cell.at.every((value, i) => value === at[i]));
  if (found >= 0) chooseCell(found);
  else $("cell-note").textContent = "The sweep has no such cell.";
}

function chooseCell(number) {
  study.chosen = number;
  const cell = study.cells[number];
  cell.at.forEach((value, i) => { $(`a-${i}`).value = value; });
  const reason = cell.why ? `impossible: ${cell.why}` : cell.cannot;
  $("cell-note").textContent = reason;
  if (cell.asked) {
    load(cell.asked);
    cell.asked = asked();
    changed();
  } else {
    stored();
  }
}

// The figures of a cell that cannot be run again.
async function stored() {
  const answer = await ask("cell", { cell: study.chosen });
  $("now").classList.remove("stale");
  $("now").setAttribute("aria-busy", "false");
  if (answer.error) {
    $("problem").textContent = answer.error;
    $("problem").hidden = false;
    return;
  }
  $("answer").textContent = `As stored: ${answer.answer}`;
  showTiles(answer.tiles);
  draws.now.update(answer.panels, true);
  $("command").textContent = answer.tables[0]?.tables[0]?.commands[0] ?? "";
  $("copy").dataset.text = $("command").textContent;
}

// Start ---------------------------------------------------------------------------------------

const draws = {
  now: grid("panels", ORDER),
  comparison: grid("comparison-panels"),
  study: $("study") && grid("study-panels"),
};

async function askMethods() {
  const answer = await ask("methods", asked());
  if (answer.methods) offerMethods(answer.methods);
}

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", (event) => { if (event.target.name) changed(event); });
form.addEventListener("change", (event) => {
  if (event.target.type === "range" && took > SLOW) changed(event);
  if (event.target.name === "trace") askMethods();
});
$("reset").addEventListener("click", () => {
  history.replaceState(null, "", location.pathname);
  restore();
  changed();
});
window.addEventListener("hashchange", () => { restore(); changed(); });

restore();
changed();
askMethods();
if ($("study")) openStudy();
try {
  const runs = JSON.parse(sessionStorage.getItem("compared") || "[]");
  if (runs.length) compare(runs);
} catch {
  sessionStorage.removeItem("compared");
}
