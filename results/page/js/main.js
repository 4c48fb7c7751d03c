// Starts the page: unpacks plotly.js and the tables, builds the filters, and draws what is seen first.
// CHARTS, the rows of `charts.py` with their functions, stands before this file: `report.py` writes it.
const PAPER = 680; // px: the width of a printed page

const loadScript = async (id) => {
  const script = document.createElement("script");
  script.textContent = await unpack(id); // its hash stands in the page's policy
  document.head.append(script);
};

const start = async () => {
  const started = performance.now();
  const [text] = await Promise.all([unpack("data"), loadScript("plotly")]);
  const db = makeDb(JSON.parse(text));
  const charts = document.getElementById("charts");
  if (!db.allConfigs.some((config) => config.trials.length)) {
    charts.querySelector(".status").textContent = "There is nothing to draw: no trial has finished.";
    document.documentElement.dataset.drawn = "all";
    return;
  }
  const state = new State(db);
  buildControls(document.getElementById("filters"), state);
  document.querySelector(".filter-box").open = window.innerWidth > 736; // on a phone they would fill the screen
  const grid = charts.querySelector(".figures");
  figures = CHARTS.map((chart) => new Figure(chart));
  grid.append(...figures.map((figure) => figure.root));
  const trials = new TrialTable(document.getElementById("trials"));

  const isSeen = (figure) => {
    const { top, bottom } = figure.root.getBoundingClientRect();
    return bottom > -200 && top < window.innerHeight + 200;
  };
  // What is on the screen is drawn at once, the rest one by one, so that the page answers from the start.
  let turn = 0;
  const drawAll = () => {
    document.documentElement.dataset.drawn = "";
    const mine = (turn += 1);
    for (const figure of figures) if (figure.dirty && isSeen(figure)) figure.draw();
    const waiting = figures.filter((figure) => figure.dirty);
    const next = () => {
      if (mine !== turn) return;
      const figure = waiting.shift();
      if (figure) {
        if (figure.dirty) figure.draw();
        setTimeout(next);
      } else document.documentElement.dataset.drawn = "all";
    };
    setTimeout(next);
  };
  const refresh = () => {
    const view = new View(state);
    for (const figure of figures) figure.update(view);
    trials.update(view);
    narrowLosses(view);
    charts.querySelector(".status").textContent = describeView(view, state.unknown);
    drawAll();
  };
  state.listeners.push(refresh);
  refresh();

  const redraw = () => {
    for (const figure of figures) figure.dirty = true;
    drawAll();
  };
  night.addEventListener("change", redraw);
  let width = grid.clientWidth;
  new ResizeObserver(() => {
    if (Math.abs(grid.clientWidth - width) < 8) return;
    width = grid.clientWidth;
    redraw();
  }).observe(grid);
  choose = (group) => {
    if (group && state.options("focus").some(([name]) => name === group)) state.set({ focus: group });
  };
  const groupOf = (target) => target.closest?.("[data-group]")?.dataset.group;
  document.addEventListener("click", ({ target }) => choose(groupOf(target)));
  for (const [enter, leave] of [
    ["mouseover", "mouseout"],
    ["focusin", "focusout"],
  ]) {
    document.addEventListener(enter, ({ target }) => {
      const group = groupOf(target);
      if (group !== undefined) highlight(group);
    });
    document.addEventListener(leave, ({ target }) => {
      if (groupOf(target) !== undefined) highlight(null);
    });
  }
  keepClear(document.querySelector(".filter-box"));
  print({ redraw });
  // What other programs may ask of the page: the command that writes figures, and tests.
  window.quantfair = {
    keys: CHARTS.map(({ key }) => key),
    unknown: state.unknown,
    image: (key, format, options) => figures.find((figure) => figure.key === key).image(format, options),
    startedIn: performance.now() - started,
  };
};

const describeView = (view, unknown) => {
  const seeds = new Set(view.quantized.flatMap((config) => view.trialsOf(config).map((trial) => trial.seed)));
  const counts = `${count(view.quantized.length, "quantized configuration")}, ${count(seeds.size, "seed")}, ${count(view.groups.length, view.noun)}`;
  const lost = unknown.length ? ` This page does not know ${unknown.join(", ")}, which its address asked for.` : "";
  return `${view.shown}. ${counts}.${lost}`;
};

// What is scrolled to stands below what stays at the top.
const keepClear = (box) => {
  const nav = document.querySelector("nav");
  const measure = () => {
    const stuck = getComputedStyle(box).position === "sticky" ? box.offsetHeight : 0;
    document.documentElement.style.scrollPaddingTop = `${nav.offsetHeight + stuck + 12}px`;
  };
  new ResizeObserver(measure).observe(box);
  measure();
};

const print = ({ redraw }) => {
  const opened = [];
  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details:not([open])")) {
      details.open = true;
      opened.push(details);
    }
    for (const figure of figures) {
      const width = Math.min(PAPER, figure.root.clientWidth || PAPER);
      figure.draw({ colors: LIGHT, width });
      figure.plot.style.zoom = Math.min(1, width / (figure.made.minWidth ?? width)); // a wide map is made to fit
      figure.fillTable();
    }
  });
  window.addEventListener("afterprint", () => {
    for (const details of opened.splice(0)) details.open = false;
    for (const figure of figures) figure.plot.style.zoom = "";
    redraw();
  });
};

// Links within the page leave the filters in the address alone.
document.querySelectorAll("a[href^='#']").forEach((link) =>
  link.addEventListener("click", (event) => {
    const target = document.getElementById(link.hash.slice(1));
    if (!target) return;
    event.preventDefault();
    target.setAttribute("tabindex", "-1");
    target.scrollIntoView();
    target.focus({ preventScroll: true });
  }),
);
for (const button of document.querySelectorAll("[data-copies]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const range = document.createRange();
    range.selectNodeContents(document.getElementById(button.dataset.copies));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    document.execCommand("copy"); // the clipboard API does not work from a file
    button.textContent = "Copied";
  });
}
start().catch((error) => {
  document.querySelector("#charts .status").textContent =
    `The charts cannot be drawn: ${error.message}. The tables above need no script; a newer browser draws the charts.`;
  throw error;
});
