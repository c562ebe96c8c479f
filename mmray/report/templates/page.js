"use strict";
(() => {
  const media = JSON.parse(document.getElementById("media").textContent);
  for (const img of document.querySelectorAll("img[data-media]")) {
    img.src = media[img.dataset.media];
  }

  // Sounds: one at a time
  let playing = null;
  let button = null;
  const stop = () => {
    playing?.pause();
    button?.setAttribute("aria-pressed", "false");
    playing = button = null;
  };
  const play = (name, from) => {
    const again = from && from === button;
    stop();
    if (again || !media[name]) return;
    playing = new Audio(media[name]);
    button = from;
    button?.setAttribute("aria-pressed", "true");
    playing.addEventListener("ended", stop);
    // Another sound may be wanted before this one has begun.
    playing.play().catch((error) => error.name === "AbortError" || console.error(error));
  };
  for (const each of document.querySelectorAll("button[data-sound]")) {
    each.addEventListener("click", () => play(each.dataset.sound, each));
  }

  // Charts
  const quiet = { color: "currentColor", gridOpacity: 0.15, domainOpacity: 0.4, tickOpacity: 0.4 };
  const config = {
    background: "transparent",
    font: "inherit",
    view: { stroke: "currentColor", strokeOpacity: 0.15 },
    axis: { ...quiet, labelColor: "currentColor", titleColor: "currentColor", gridColor: "currentColor", domainColor: "currentColor", tickColor: "currentColor", labelFontSize: 11, titleFontSize: 12, titleFontWeight: 500 },
    legend: { labelColor: "currentColor", titleColor: "currentColor", labelFontSize: 12, titleFontSize: 12, symbolType: "circle" },
    header: { labelColor: "currentColor", titleColor: "currentColor" },
    title: { color: "currentColor" },
    mark: { color: "#5b7cfa" },
    rule: { color: "currentColor" },
    text: { color: "currentColor" },
    range: { category: ["#5b7cfa", "#e0672f", "#2a9d74", "#c65bb0", "#b58a1b", "#3aa0c9", "#d0506b", "#7d8a2e", "#8f6bd8", "#8a6f5a"], heatmap: { scheme: "viridis" }, ramp: { scheme: "viridis" } },
  };
  const filled = (value) => {
    // A picture's name in the data stands for the picture.
    for (const row of value.values ?? []) {
      if (row.picture) row.image = media[row.picture];
    }
  };
  const draw = async (figure) => {
    const spec = JSON.parse(figure.querySelector("script").textContent);
    for (const data of Object.values(spec.datasets ?? {})) filled({ values: data });
    if (spec.data) filled(spec.data);
    const place = figure.querySelector(".vega");
    spec.description = place.getAttribute("aria-label"); // Vega would write its own over it
    const narrow = { orient: "bottom", columns: 3 };
    const legend = place.clientWidth < 480 ? { ...config.legend, ...narrow } : config.legend;
    const options = { renderer: "svg", actions: false, tooltip: { theme: "custom" } };
    const result = await vegaEmbed(place, spec, { ...options, config: { ...config, legend } });
    place.classList.remove("vega-embed");
    result.view.addEventListener("click", (event, item) => {
      if (item?.datum?.sound) play(item.datum.sound, null);
    });
    figure.classList.add("drawn");
  };
  const failed = (figure, error) => {
    console.error(error);
    figure.querySelector(".vega").textContent = "This chart could not be drawn.";
  };
  const figures = [...document.querySelectorAll("figure.chart")];
  Promise.all(figures.map((figure) => draw(figure).catch((error) => failed(figure, error))))
    .then(() => document.documentElement.classList.add("ready"));

  // Tables
  const value = (row, i) => {
    const text = row.cells[i].textContent;
    const number = Number(text.replaceAll(",", ""));
    return Number.isNaN(number) ? text : number;
  };
  const before = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1);
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((cell, i) => {
      const name = cell.textContent;
      if (!name || body.rows.length < 3) return;
      const sort = document.createElement("button");
      sort.type = "button";
      sort.textContent = name;
      cell.replaceChildren(sort);
      sort.addEventListener("click", () => {
        const down = cell.getAttribute("aria-sort") !== "descending";
        for (const other of cell.parentNode.cells) other.removeAttribute("aria-sort");
        cell.setAttribute("aria-sort", down ? "descending" : "ascending");
        const sign = down ? -1 : 1;
        body.append(...[...body.rows].sort((a, b) => sign * before(value(a, i), value(b, i))));
      });
    });
  }
  for (const input of document.querySelectorAll("figure.table input[type=search]")) {
    const rows = [...input.closest("figure").querySelector("tbody").rows];
    input.addEventListener("input", () => {
      const wanted = input.value.trim().toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
  }
})();
