// The table of trials: what the filters leave, sortable, failed ones first.
const FIRST_TRIALS = 200; // rows at once: a browser takes seconds to lay out thousands
const TRIAL_HEAD = [
  "Trial",
  "Status",
  "Configuration",
  "Seed",
  "Accuracy",
  "Drop, pp",
  "Limits",
  "Against",
  "Worst group",
  "Its drop, pp",
  "Seconds",
];

class TrialTable {
  constructor(root) {
    this.root = root;
    this.sorted = { column: null, rising: true };
    this.most = FIRST_TRIALS;
    root.querySelector("[data-more]").addEventListener("click", () => {
      this.most = Infinity;
      this.draw();
    });
    root.querySelector("[data-file]").addEventListener("click", () => {
      downloadCsv(this.table, this.view.shown, "trials");
    });
  }

  update(view) {
    this.view = view;
    this.most = FIRST_TRIALS;
    this.draw();
  }

  rowsOf(view) {
    const { db } = view;
    const places = ["trial", "runtime", "comparison", "grouping"];
    const allowed = new Set(view.matching.map((config) => config.index));
    const chosen = db.allTrials.filter(
      (trial) => allowed.has(trial.config) && (view.seedNumber === null || trial.seed === view.seedNumber),
    );
    return chosen
      .sort((a, b) => (a.status === "ok") - (b.status === "ok"))
      .map((trial) => {
        const config = db.allConfigs[trial.config];
        const side = trial.status === "ok" && config.method !== "fp32" ? view.sideOf(config) : null;
        const overall =
          side && db.pairs.first([...places, "group"], [trial.index, view.runtime, side, "overall", "all"]);
        const rows = side
          ? db.pairs.find(places, [trial.index, view.runtime, side, view.grouping]).map((row) => db.pairs.row(row))
          : [];
        const worst = rows
          .filter(
            ({ n, group, excess_pp }) =>
              excess_pp > 0 && view.isInPlay(config, { name: group, ranked: n >= db.minRanked }),
          )
          .sort((a, b) => b.excess_pp - a.excess_pp)[0];
        return [
          cell(trial.id.slice(0, 8)),
          cell(trial.status === "ok" ? "ok" : `${trial.status}: ${trial.error ?? "no reason was written down"}`),
          cell(config.name),
          cell(trial.seed ?? MISSING, trial.seed),
          cell(formatPercent(trial.accuracy, 2), trial.accuracy),
          overall ? cell(formatPp(overall.drop_pp), overall.drop_pp, null, limitsOf(overall)) : cell(MISSING),
          cell(overall ? sayInterval(overall.low_pp, overall.high_pp).trim() : MISSING),
          cell(side ?? MISSING),
          worst ? cell(shorten(worst.group, 30), null, worst.group) : cell(MISSING),
          cell(worst ? formatPp(worst.drop_pp) : MISSING, worst?.drop_pp ?? null),
          cell(isNumber(trial.total_s) ? trial.total_s.toFixed(1) : MISSING, trial.total_s),
        ];
      });
  }

  draw() {
    const rows = this.rowsOf(this.view);
    const { column, rising } = this.sorted;
    if (column !== null) {
      const key = (row) => row[column].value ?? (row[column].text === MISSING ? null : row[column].text);
      const order = (a, b) =>
        a === null || b === null
          ? (a === null) - (b === null)
          : (rising ? 1 : -1) *
            (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en"));
      rows.sort((a, b) => order(key(a), key(b)));
    }
    this.table = { head: TRIAL_HEAD, rows };
    const made = renderTable({ head: TRIAL_HEAD, rows: rows.slice(0, this.most) }, "Trials");
    made.className = "trials";
    [...made.tHead.rows[0].cells].forEach((head, number) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: head.textContent });
      head.replaceChildren(button);
      head.setAttribute("aria-sort", column !== number ? "none" : rising ? "ascending" : "descending");
      button.addEventListener("click", () => {
        this.sorted = { column: number, rising: column === number ? !rising : true };
        this.draw();
        this.root.querySelectorAll("thead button")[number].focus();
      });
    });
    this.root.querySelector(".scroll").replaceChildren(made);
    const hidden = rows.length - this.most;
    this.root.querySelector("[data-count]").textContent =
      `${count(rows.length, "trial")}${hidden > 0 ? `, the first ${this.most} shown` : ""}.`;
    this.root.querySelector("[data-more]").hidden = hidden <= 0;
  }
}

// The tables of losses are plain HTML, over all seeds and in torch: the filters show what they leave of them.
const narrowLosses = (view) => {
  const fits = (key, value) => !view[key].length || view[key].includes(value);
  for (const details of document.querySelectorAll("#losses details")) {
    details.hidden = Number(details.dataset.data) !== view.dataIndex || details.dataset.grouping !== view.grouping;
    for (const head of details.querySelectorAll("th[data-variant]")) {
      head.parentElement.hidden = !fits("method", head.dataset.variant) || !fits("bits", head.dataset.bits);
    }
  }
};
