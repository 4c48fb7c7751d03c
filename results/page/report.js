// Draws the figures of the page in the reader's colours, focuses single groups, sorts the table of trials, prints.
"use strict";
(() => {
  const { dark, figures } = JSON.parse(document.getElementById("data").textContent);
  const night = window.matchMedia("(prefers-color-scheme: dark)");
  const plots = [...document.querySelectorAll(".plot")];
  const config = { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: false };
  const MANY = 8; // with more lines than hues all are grey, and one is in focus
  const PAPER = 680; // px: the width of a printed page

  // Every "#rrggbb" or "#rrggbbaa" of the light palette becomes its dark twin.
  const swap = (value) => {
    if (typeof value === "string") return dark[value.slice(0, 7)] ? dark[value.slice(0, 7)] + value.slice(7) : value;
    if (Array.isArray(value)) return value.map(swap);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, swap(item)]));
  };

  const draw = (plot, { isDark = night.matches, width } = {}) => {
    const { data, layout } = structuredClone(figures[plot.id]);
    const colored = isDark ? swap({ data, layout }) : { data, layout };
    if (!plot.drawn) plot.textContent = "";
    Plotly.react(plot, colored.data, { ...colored.layout, width }, config);
    if (plot.drawn || data[0]?.type !== "scatter") return void (plot.drawn = true);
    plot.drawn = true;
    plot.classList.toggle("many", data.length > MANY);
    plot.on("plotly_hover", ({ points }) => mark(plot, points[0].curveNumber));
    plot.on("plotly_unhover", () => mark(plot));
    plot.on("plotly_afterplot", () => mark(plot));
    mark(plot);
  };

  // Focus, by falling rank: the line under the pointer, the pressed button of the section, the figure's own choice.
  const mark = (plot, hovered) => {
    const pressed = plot.closest(".charts").querySelector(".chips [aria-pressed=true]");
    const index = hovered ?? pressed?.dataset.index ?? plot.dataset.focus;
    plot.classList.toggle("focused", index !== undefined);
    plot.querySelectorAll(".scatterlayer .trace").forEach((trace, i) => trace.classList.toggle("focus", i === Number(index)));
    const names = (figures[plot.id].layout.annotations ?? []).map((label) => label.name);
    plot.querySelectorAll(".annotation").forEach((label) =>
      label.classList.toggle("focus", names[label.dataset.index] === String(index)));
  };

  for (const chip of document.querySelectorAll(".chips button")) {
    chip.addEventListener("click", () => {
      const press = chip.getAttribute("aria-pressed") === "false";
      for (const other of chip.parentElement.querySelectorAll("button")) other.setAttribute("aria-pressed", "false");
      chip.setAttribute("aria-pressed", String(press));
      for (const plot of chip.closest(".charts").querySelectorAll(".line .plot")) if (plot.drawn) mark(plot);
    });
  }

  // Rows without a value stay last in both directions.
  const sort = (table, column, direction) => {
    const read = (row) => {
      const cell = row.cells[column];
      if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
      return cell.textContent === "–" ? null : cell.textContent;
    };
    const compare = (a, b) => {
      if (a === null || b === null) return (a === null) - (b === null);
      if (typeof a === "number" && typeof b === "number") return direction * (a - b);
      return direction * String(a).localeCompare(String(b), "en");
    };
    const keyed = [...table.tBodies[0].rows].map((row) => [read(row), row]);
    keyed.sort(([a], [b]) => compare(a, b));
    table.tBodies[0].append(...keyed.map(([, row]) => row));
  };

  for (const table of document.querySelectorAll("table.trials")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const ascending = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        sort(table, column, ascending ? 1 : -1);
      });
    });
  }

  night.addEventListener("change", () => plots.forEach((plot) => plot.drawn && draw(plot)));
  const opened = [];
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details:not([open])")) {
      details.open = true;
      opened.push(details);
    }
    plots.forEach((plot) => draw(plot, { isDark: false, width: Math.min(PAPER, plot.clientWidth || PAPER) }));
  });
  window.addEventListener("afterprint", () => {
    for (const details of opened.splice(0)) details.open = false;
    plots.forEach((plot) => draw(plot));
  });

  // One figure at a time, so that the page answers from the start.
  const waiting = [...plots];
  const next = () => {
    const plot = waiting.shift();
    if (plot && !plot.drawn) draw(plot);
    if (waiting.length) setTimeout(next);
    else document.documentElement.dataset.drawn = "all";
  };
  next();
})();
