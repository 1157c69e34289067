// Puts Plotly's version of each figure with a chart in the figure's place. Without scripts the figure itself stays.
(async () => {
  const packed = document.getElementById("plotly");
  if (!packed || !window.DecompressionStream) return;
  const bytes = Uint8Array.from(atob(packed.textContent.trim()), (letter) => letter.charCodeAt(0));
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const code = document.createElement("script");
  code.textContent = await new Response(unpacked).text();
  document.head.append(code);
  const narrow = matchMedia("(pointer: coarse)"), dark = matchMedia("(prefers-color-scheme: dark)");
  const config = { responsive: true, displayModeBar: false };

  function choice(name, values) {
    const label = document.createElement("label"), select = document.createElement("select");
    for (const [value, text] of values) select.append(new Option(text, value));
    label.append(name + " ", select);
    return [label, select];
  }

  for (const source of document.querySelectorAll("figure > script")) {
    const figure = source.parentElement, chart = document.createElement("div"), controls = document.createElement("p");
    const read = () => {
      const style = getComputedStyle(document.documentElement);
      return JSON.parse(source.textContent.replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim()));
    };
    const traces = read().data, lines = traces.filter((trace) => trace.meta === undefined).map((trace) => trace.name);
    const replicates = [...new Set(traces.map((trace) => trace.meta))].filter((meta) => Number.isInteger(meta));
    const [lineLabel, line] = choice("Line", [["", "all"], ...lines.map((name) => [name, name])]);
    const [runLabel, run] = choice("Replicate", []);
    // Those of the chosen line. Of all lines: those that most have, for one may have more than the others.
    const offer = () => {
      const having = (n) => traces.filter((trace) => trace.meta === n && (!line.value || trace.legendgroup === line.value)).length;
      const most = Math.max(...replicates.map(having)), offered = replicates.filter((n) => having(n) && 2 * having(n) >= most);
      const before = run.value;
      run.replaceChildren(...["mean", "each", ...offered].map((n) => new Option(n, n)));
      run.value = before;
      if (run.selectedIndex < 0) run.value = "mean";
    };
    const draw = () => {
      const { data, layout } = read();
      for (const trace of data) {
        if (trace.meta === "title") continue;
        const mean = trace.meta === undefined, chosen = !line.value || line.value === (trace.legendgroup ?? trace.name);
        const shown = mean ? run.value === "mean" : run.value === "each" || run.value === String(trace.meta);
        trace.visible = chosen && shown;
        trace.showlegend = mean || run.value === String(trace.meta);
      }
      if (line.value || run.value !== "mean") delete layout.yaxis.range;  // as wide as what is shown needs
      layout.dragmode = narrow.matches ? false : "zoom";
      Plotly.react(chart, data, layout, config);
    };
    chart.className = "chart";
    chart.setAttribute("role", "img");
    chart.setAttribute("aria-label", figure.querySelector("svg").getAttribute("aria-label"));
    controls.className = "controls";
    if (lines.length > 1) controls.append(lineLabel);
    if (replicates.length > 1) controls.append(runLabel);
    figure.prepend(controls, chart);
    figure.classList.add("live");
    document.getElementById("hint").hidden = false;
    line.addEventListener("change", offer);
    for (const changed of [line, run, dark]) changed.addEventListener("change", draw);
    offer();
    draw();
  }
})();
