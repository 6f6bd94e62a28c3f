const panels = [...document.querySelectorAll(".panel")].map((figure) => ({
  chart: figure.querySelector(".chart"),
  legend: figure.querySelector(".legend"),
  caption: figure.querySelector("figcaption"),
  choice: figure.querySelector("select"),
  source: figure.querySelector("script").textContent,
  hidden: new Set(),
}));

async function unpackPlotly() {
  const { textContent: text, dataset } = document.getElementById("plotly");
  const digits = new Uint8Array(128);
  [...dataset.alphabet].forEach((letter, i) => { digits[letter.charCodeAt(0)] = i; });
  const letters = new TextEncoder().encode(text);
  const bytes = new Uint8Array((letters.length / 5) * 4);
  const words = new DataView(bytes.buffer);
  for (let i = 0, at = 0; i < letters.length; i += 5, at += 4) {
    let word = 0;
    for (let k = i; k < i + 5; k++) word = word * 85 + digits[letters[k]];
    words.setUint32(at, word);
  }
  const packed = new Blob([bytes.subarray(0, Number(dataset.bytes))]).stream();
  const script = document.createElement("script");
  script.textContent = await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).text();
  return script;
}

async function start() {
  try {
    const script = unpackPlotly(); // while the page is painted
    await new Promise((painted) => requestAnimationFrame(() => setTimeout(painted)));
    document.head.append(await script);
    for (const { chart } of panels) near.observe(chart);
  } catch (problem) {
    console.error(problem);
    for (const { chart } of panels) chart.textContent = "This browser cannot draw the chart; the tables hold its figures.";
  }
}

// Charts of a section that offer the same choice change together.
for (const { choice } of panels.filter((panel) => panel.choice)) {
  choice.addEventListener("change", () => {
    const section = choice.closest("section");
    for (const panel of panels) {
      if (!section.contains(panel.chart) || panel.choice.innerHTML !== choice.innerHTML) continue;
      panel.choice.value = choice.value;
      panel.hidden.clear();
      if (panel.drawn) draw(panel);
    }
  });
}

// Tables --------------------------------------------------------------------------------------

function filterable(form) {
  const table = document.getElementById(form.dataset.table);
  const rows = [...table.tBodies[0].rows];
  let texts;
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    const wanted = form.querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = [...form.querySelectorAll("select")].filter((select) => select.value);
    let shown = 0;
    texts ??= new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    for (const row of rows) {
      const fits = wanted.every((word) => texts.get(row).includes(word))
        && chosen.every(({ dataset, value }) => row.cells[dataset.column].textContent === value);
      row.hidden = !fits;
      shown += fits;
    }
    form.querySelector("output").textContent = `${shown} of ${rows.length}`;
  });
}
document.querySelectorAll("table").forEach(sortable);
document.querySelectorAll(".filter").forEach(filterable);

start();
