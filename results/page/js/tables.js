// The page's copy of the tables: columns of values, read by row; and what is looked up in them.
const unpack = async (id) => {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).text();
};

class Table {
  constructor(columns) {
    this.columns = columns ?? {};
    const first = Object.values(this.columns)[0];
    this.length = first ? (first.codes ?? first).length : 0;
    this.indexes = new Map();
  }

  has(name) {
    return name in this.columns;
  }

  get(name, row) {
    const column = this.columns[name];
    if (column === undefined) return null;
    if (column.codes === undefined) return column[row];
    return column.codes[row] === null ? null : column.values[column.codes[row]];
  }

  row(number) {
    return Object.fromEntries(Object.keys(this.columns).map((name) => [name, this.get(name, number)]));
  }

  rows(where = () => true) {
    const found = [];
    for (let row = 0; row < this.length; row += 1) if (where(row)) found.push(this.row(row));
    return found;
  }

  // The rows whose columns `names` have these values, by an index that is made when it is first asked for.
  find(names, values) {
    const key = names.join();
    if (!this.indexes.has(key)) {
      const index = new Map();
      for (let row = 0; row < this.length; row += 1) {
        const own = names.map((name) => this.get(name, row)).join("\u0001");
        if (index.has(own)) index.get(own).push(row);
        else index.set(own, [row]);
      }
      this.indexes.set(key, index);
    }
    return this.indexes.get(key).get(values.join("\u0001")) ?? [];
  }

  first(names, values) {
    const [row] = this.find(names, values);
    return row === undefined ? null : this.row(row);
  }

  distinct(name, where = () => true) {
    const found = new Set();
    for (let row = 0; row < this.length; row += 1) if (where(row)) found.add(this.get(name, row));
    return [...found].filter((value) => value !== null && value !== undefined);
  }
}

// Everything with a name: configurations with their trials, data sets with their groupings.
const makeDb = (raw) => {
  const tables = Object.fromEntries(Object.entries(raw.tables).map(([name, columns]) => [name, new Table(columns)]));
  const trials = tables.trials.rows().map((trial, index) => ({ ...trial, index }));
  const configs = tables.configs.rows().map((config, index) => ({ ...config, index, trials: [] }));
  for (const trial of trials) if (trial.status === "ok") configs[trial.config].trials.push(trial);
  return { ...raw, ...tables, allTrials: trials, allConfigs: configs };
};
