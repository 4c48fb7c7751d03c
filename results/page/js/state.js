// The filters: their choices, and the page's address that keeps them.
const LISTS = ["method", "bits", "scheme", "observer"]; // several values at once; none chosen means all

const CHOICES = [
  "dataset",
  "task",
  "network",
  "grouping",
  "runtime",
  "comparison",
  "seed",
  "metric",
  "configuration",
  "focus",
];

const LABELS = {
  dataset: "Data set",
  task: "Task",
  network: "Network",
  grouping: "Grouping",
  comparison: "Compared with",
  runtime: "Runtime",
  seed: "Seed",
  metric: "Metric",
  configuration: "Configuration in detail",
  focus: "Highlight",
  method: "Method",
  bits: "Bits",
  scheme: "Scheme",
  observer: "Observer",
};

const COMPARISONS = {
  usual: "reference; of QAT its control",
  reference: "reference",
  control: "control",
  twin: "itself in torch",
};

const sayComparison = (key) => (key === "usual" ? "its reference or control" : COMPARISONS[key]);

class State {
  constructor(db) {
    this.db = db;
    this.values = {};
    this.listeners = [];
    this.read();
    window.addEventListener("popstate", () => {
      this.read();
      this.tell();
    });
  }

  get dataIndex() {
    const { dataset, task, network } = this.values;
    return this.db.data.findIndex((one) => one.name === dataset && one.task === task && one.network === network);
  }

  // The configurations of the chosen data, before the lists narrow them.
  get ofData() {
    return this.db.allConfigs.filter((config) => config.data === this.dataIndex);
  }

  get matching() {
    const fits = (key, value) => !this.values[key].length || value === null || this.values[key].includes(value);
    return this.ofData.filter(
      (config) =>
        fits("method", config.variant) &&
        fits("bits", config.bits) &&
        fits("scheme", config.scheme) &&
        fits("observer", config.act_observer),
    );
  }

  // Each filter's choices, as [value, text]; those of one filter depend on the filters before it.
  options(key) {
    const { db, values } = this;
    const same = (items) =>
      [...new Set(items)].filter((item) => item !== null).map((item) => [String(item), String(item)]);
    const data = this.dataIndex;
    const inData = (table) => (row) => db.allConfigs[table.get("config", row)]?.data === data;
    switch (key) {
      case "dataset":
        return same(db.data.map((one) => one.name));
      case "task":
        return same(db.data.filter((one) => one.name === values.dataset).map((one) => one.task));
      case "network":
        return same(
          db.data.filter((one) => one.name === values.dataset && one.task === values.task).map((one) => one.network),
        );
      case "grouping": {
        const rows = db.groups.rows((row) => db.groups.get("data", row) === data);
        return [...new Map(rows.map((row) => [row.grouping, row.title]))];
      }
      case "runtime": {
        const found = db.contrasts.distinct("runtime", inData(db.contrasts));
        return same(["torch", ...found]);
      }
      case "comparison": {
        const there = db.contrasts.distinct(
          "comparison",
          (row) => inData(db.contrasts)(row) && db.contrasts.get("runtime", row) === values.runtime,
        );
        return Object.entries(COMPARISONS).filter(([one]) => one === "usual" || there.includes(one));
      }
      case "seed": {
        const seeds = this.ofData.flatMap((config) => config.trials.map((trial) => trial.seed));
        return [["all", "all, the mean"], ...same(seeds.sort((a, b) => a - b))];
      }
      case "metric": {
        const known = Object.keys(db.values.columns).filter(
          (name) => !["runtime", "grouping", "group", "trial"].includes(name),
        );
        return (known.length ? known : ["accuracy"]).map((name) => [name, metricOf(name).name]);
      }
      case "configuration":
        return this.matching
          .filter((config) => isQuantized(config) && config.trials.length)
          .map((config) => [config.id, config.name]);
      case "focus": {
        const rows = db.groups.rows(
          (row) => db.groups.get("data", row) === data && db.groups.get("grouping", row) === values.grouping,
        );
        return [["", "whom the verdict names"], ...rows.map((row) => [row.group, shorten(row.group, 40)])];
      }
      case "method":
        return same(this.ofData.map((config) => config.variant));
      case "bits":
        return same(this.ofData.map((config) => config.bits));
      case "scheme":
        return same(this.ofData.map((config) => config.scheme));
      case "observer":
        return same(this.ofData.map((config) => config.act_observer));
      default:
        throw new Error(`no filter is called ${key}`);
    }
  }

  initial(key, options) {
    if (key !== "configuration") return options[0]?.[0] ?? "";
    // The named one of the fewest bits: where something can be seen, if anywhere.
    const isCompared = ({ index }) =>
      this.values.comparison === "usual" ||
      this.db.contrasts.find(["config", "comparison"], [index, this.values.comparison]).length;
    const some = this.matching.filter((config) => isQuantized(config) && config.primary && config.trials.length);
    const compared = some.filter(isCompared);
    const named = compared.length ? compared : some;
    const few = named.sort((a, b) => bitsOf(a) - bitsOf(b))[0];
    return few?.id ?? options[0]?.[0] ?? "";
  }

  // What the filters leave, in words.
  describe() {
    const { dataset, task, network, runtime, seed, metric, comparison } = this.values;
    const title = new Map(this.options("grouping")).get(this.values.grouping) ?? this.values.grouping;
    const parts = [
      `${dataset} · ${task} · ${network}`,
      `by ${title}`,
      `in ${runtime}`,
      seed === "all" ? "means over all seeds" : `seed ${seed}`,
      `against ${sayComparison(comparison)}`,
      metricOf(metric).name,
    ];
    const detail = this.db.allConfigs.find(({ id }) => id === this.values.configuration);
    if (detail) parts.push(`in detail ${detail.name}`);
    for (const key of LISTS)
      if (this.values[key].length) parts.push(`${LABELS[key].toLowerCase()} ${this.values[key].join(", ")}`);
    return parts.join("; ");
  }

  read() {
    const asked = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
    for (const key of LISTS) this.values[key] = asked.getAll(key);
    for (const key of CHOICES) this.values[key] = asked.get(key);
    this.settle();
    const isKnown = ([key, value]) => [this.values[key]].flat().includes(value);
    this.unknown = [...asked].filter((pair) => !isKnown(pair)).map((pair) => pair.join("="));
    if (this.unknown.length) this.write("replaceState");
  }

  // Every filter has one of its choices, in the order in which they depend on each other. `unusual` are those that are
  // not what the page starts with.
  settle() {
    this.unusual = [];
    for (const key of ["dataset", "task", "network", ...LISTS, ...CHOICES.slice(3)]) {
      const options = this.options(key);
      const known = new Set(options.map(([value]) => value));
      if (LISTS.includes(key)) {
        this.values[key] = this.values[key].filter((value) => known.has(value));
        continue;
      }
      const usual = this.initial(key, options);
      if (!known.has(this.values[key])) this.values[key] = usual;
      if (this.values[key] !== usual) this.unusual.push(key);
    }
  }

  // A choice of the user is a step that the browser's Back undoes.
  write(step = "pushState") {
    const address = new URLSearchParams();
    for (const key of LISTS) for (const value of this.values[key]) address.append(key, value);
    for (const key of this.unusual) address.set(key, this.values[key]);
    const text = String(address);
    const now = text ? `#${text}` : "";
    if (now !== location.hash) history[step](null, "", now || location.pathname + location.search);
  }

  set(changes) {
    Object.assign(this.values, changes);
    this.settle();
    this.unknown = [];
    this.write();
    this.tell();
  }

  tell() {
    for (const listener of this.listeners) listener();
  }
}
