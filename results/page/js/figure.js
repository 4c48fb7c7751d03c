// What a figure is: a chart, its sentence, its table and its files. One frame for all charts.
const CONFIG = { displayModeBar: false, responsive: false, scrollZoom: false, doubleClick: false };

const PNG_SCALE = 3;

class Figure {
  constructor({ key, title, draw, ignores = [] }) {
    Object.assign(this, { key, title, make: draw, ignores, dirty: true });
    this.root = document.createElement("figure");
    this.root.id = key;
    this.root.setAttribute("aria-labelledby", `${key}-title ${key}-says`);
    this.root.innerHTML = `<figcaption><h3 id="${key}-title"></h3><p id="${key}-says" class="says"></p></figcaption>
      <div class="scroll"><div class="plot" aria-hidden="true"></div></div><p class="note"></p>
      <details><summary>Table of this chart</summary><div class="scroll" tabindex="0" role="region" aria-label="${title}: all values"></div></details>
      <div class="tools"><button type="button" data-file="csv">CSV</button><button type="button" data-file="svg">SVG</button><button type="button" data-file="png">PNG</button></div>`;
    this.root.querySelector("h3").textContent = title;
    this.plot = this.root.querySelector(".plot");
    this.details = this.root.querySelector("details");
    this.details.addEventListener("toggle", () => this.fillTable());
    for (const button of this.root.querySelectorAll("[data-file]")) {
      button.setAttribute("aria-label", `${title}: download ${button.textContent}`);
      button.addEventListener("click", () => this.save(button.dataset.file));
    }
  }

  build(colors, width) {
    const made = this.make(this.view, { colors, width });
    return made.empty ? { ...made, table: made.table ?? { head: [], rows: [] } } : made;
  }

  update(view) {
    this.view = view;
    this.dirty = true;
  }

  draw({ colors = night.matches ? DARK : LIGHT, width = this.root.clientWidth || 640 } = {}) {
    if (!this.view) return;
    this.made = this.build(colors, width);
    this.dirty = false;
    const { made } = this;
    this.root.classList.toggle("empty", Boolean(made.empty));
    this.root.querySelector("h3").textContent = made.title ?? this.title;
    this.root.querySelector(".says").textContent = made.empty ? `Nothing to draw: ${made.empty}.` : made.summary;
    this.root.querySelector(".note").textContent = [made.note, this.sayIgnored()].filter(Boolean).join(" ");
    if (made.empty) {
      if (this.drawn) Plotly.purge(this.plot);
      this.drawn = false;
      this.plot.replaceChildren();
    } else {
      Plotly.react(this.plot, made.data, { ...made.layout, width: Math.max(width, made.minWidth ?? 0) }, CONFIG);
      if (!this.drawn) {
        this.plot.on("plotly_hover", ({ points }) => highlight(this.groupAt(points[0])));
        this.plot.on("plotly_unhover", () => highlight(null));
        this.plot.on("plotly_click", ({ points }) => choose(this.groupAt(points[0])));
      }
      this.drawn = true;
    }
    this.letScroll(!made.empty && (made.minWidth ?? 0) > width);
    this.table = null;
    if (this.details.open) this.fillTable();
    this.mark(null);
  }

  // A filter that somebody has set and that this chart cannot follow is named.
  sayIgnored() {
    const names = [...this.ignores, ...(this.made.ignores ?? [])]
      .filter((key) => this.view.unusual.includes(key))
      .map((key) => LABELS[key]);
    return names.length ? `Without effect on this chart: ${names.join(", ")}.` : "";
  }

  // A chart that is wider than its place scrolls, by keyboard too.
  letScroll(isWide) {
    const box = this.plot.parentElement;
    if (!isWide) return void ["tabindex", "role", "aria-label"].forEach((name) => box.removeAttribute(name));
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", `${this.title}: chart, scrolls sideways`);
  }

  fillTable() {
    if (!this.made || this.table === this.made) return;
    const box = this.details.querySelector(".scroll");
    box.replaceChildren(
      this.made.table.rows.length ? renderTable(this.made.table, `${this.title}: all values`) : "No values.",
    );
    this.table = this.made;
  }

  groupAt(point) {
    const groups = point.data.meta?.groups;
    if (Array.isArray(groups)) return groups[point.pointIndex ?? point.pointNumber] ?? null;
    if (typeof groups === "string") return groups;
    const ticks = point.data.meta?.ticks;
    return ticks ? (ticks.x?.[point.x] ?? ticks.y?.[point.y] ?? null) : null;
  }

  // Marks of the group stand out, all others step back. Plotly's elements know which trace and point they are.
  mark(group) {
    if (!this.drawn) return;
    for (const element of this.plot.querySelectorAll(".trace")) {
      const groups = element.__data__?.[0]?.trace?.meta?.groups;
      if (typeof groups === "string") element.classList.toggle("dim", group !== null && groups !== group);
      if (Array.isArray(groups)) {
        for (const point of element.querySelectorAll(".point")) {
          const own = groups[point.__data__?.i];
          point.classList.toggle("dim", group !== null && own !== undefined && own !== group);
        }
      }
    }
    const ticks = this.made.data?.find((trace) => trace.meta?.ticks)?.meta.ticks;
    for (const side of ["x", "y"]) {
      if (!ticks?.[side]) continue;
      for (const tick of this.plot.querySelectorAll(`.${side}tick text`)) {
        tick.classList.toggle("dim", group !== null && ticks[side][tick.__data__?.x] !== group);
      }
    }
  }

  async image(format, { width = 720, scale = PNG_SCALE } = {}) {
    const made = this.build(LIGHT, width);
    if (made.empty) throw new Error(`${this.title}: nothing to draw: ${made.empty}`);
    const size = { width: Math.max(width, made.minWidth ?? 0), height: made.layout.height };
    return Plotly.toImage(
      { data: made.data, layout: { ...made.layout, ...size } },
      { format, ...size, scale: format === "png" ? scale : 1 },
    );
  }

  async save(format) {
    if (!this.made) this.draw();
    if (format === "csv") {
      downloadCsv(this.made.table, [`${this.view.shown}.`, this.sayIgnored()].join(" ").trim(), this.key);
      return;
    }
    if (!this.made.empty) download(await this.image(format), `${this.key}.${format}`);
  }
}

// The group under the pointer or the keyboard stands out everywhere: in charts, and in tables.
let figures = [];

// A group that is clicked stays: main.js sets what that means.
let choose = () => {};

const highlight = (group) => {
  for (const figure of figures) figure.mark(group);
  for (const element of document.querySelectorAll("[data-group]"))
    element.classList.toggle("lit", element.dataset.group === group);
};
