const isQuantized = (config) => !["fp32", "fp32_ft"].includes(config.method);

const bitsOf = (config) => (config.weight_bits ?? 32) * (config.act_bits ?? 32);

// What the filters leave: groups, configurations, and their numbers. Charts ask here and nowhere else.
class View {
  constructor(state) {
    const { db, values } = state;
    Object.assign(this, {
      db,
      ...values,
      metricKey: values.metric,
      metric: metricOf(values.metric),
      unusual: state.unusual,
      shown: state.describe(),
    });
    this.seedNumber = values.seed === "all" ? null : Number(values.seed);
    this.dataIndex = state.dataIndex;
    this.groups = db.groups
      .find(["data", "grouping"], [this.dataIndex, values.grouping])
      .map((row, index) => ({ ...db.groups.row(row), index }))
      .map((row) => ({ ...row, name: row.group, ranked: row.n >= db.minRanked }));
    this.byClass = Boolean(this.groups[0]?.by_class);
    this.noun = this.byClass ? "class" : "group";
    this.title = this.groups[0]?.title ?? values.grouping;
    this.ofData = state.ofData.filter((config) => config.trials.length);
    this.matching = state.matching;
    this.configs = state.matching.filter((config) => this.trialsOf(config).length);
    this.quantized = this.configs.filter(isQuantized);
    const chosen = state.matching.find((config) => config.id === values.configuration);
    this.detail = this.quantized.find((config) => config === chosen) ?? null;
    this.lacksDetail = chosen
      ? `${chosen.name} has no finished trial of seed ${this.seedNumber}`
      : "no quantized configuration is left";
  }

  // Why there are no rows of a table: the page has none, or the reason that the chart knows.
  missing(name, otherwise) {
    const why = this.db.leftOut[name];
    return why ? `the page has no ${name} ${why.startsWith("of ") ? why : `(${why})`}` : otherwise;
  }

  // The same where drops are lacking, which over seeds and of one seed are in tables of their own.
  missingDrops(otherwise) {
    return this.missing(this.seedNumber === null ? "contrasts" : "pairs", otherwise);
  }

  // Whether a group is ranked, and has something to lose: the verdict says which have not.
  isInPlay(config, group, grouping = this.grouping) {
    return group.ranked && !this.verdict(config, grouping)?.out_of_play?.split("\u0001").includes(group.name);
  }

  get noneInPlay() {
    return `No ${this.noun} of ${this.db.minRanked} images is in play.`;
  }

  // Of changes the worst first; where more is not worse, the largest first.
  sizeOf(mean) {
    return this.metric.isLoss ? mean : Math.abs(mean);
  }

  // The other side that a configuration is compared with, under the filter.
  sideOf(config) {
    if (this.comparison !== "usual") return this.comparison;
    if (config.method !== "qat") return "reference";
    return this.drop(config, "all", { comparison: "control", grouping: "overall" }) ? "control" : "reference";
  }

  trialsOf(config) {
    return config.trials.filter((trial) => this.seedNumber === null || trial.seed === this.seedNumber);
  }

  // The drop of a group in pp with its limits and excess: over seeds a row of `contrasts`, of one seed a row of `pairs`.
  drop(config, group, { comparison = this.sideOf(config), runtime = this.runtime, grouping = this.grouping } = {}) {
    const place = [runtime, comparison, grouping, group];
    const names = ["runtime", "comparison", "grouping", "group"];
    if (this.seedNumber === null) {
      const row = this.db.contrasts.first(["config", ...names], [config.index, ...place]);
      return row && { ...row, losesMore: row.excess_lower_pp > 0 };
    }
    const trial = this.trialsOf(config)[0];
    const row = trial && this.db.pairs.first(["trial", ...names], [trial.index, ...place]);
    if (!row) return null;
    const rates = { flip_rate: row.n_flip / row.n, bad_flip_rate: row.n_rw / row.n, good_flip_rate: row.n_wr / row.n };
    return { ...row, ...rates, n_seeds: 1, losesMore: row.excess_lower_pp > 0 };
  }

  // The share of answers that the float models on the other side change from seed to seed, whatever seed is chosen.
  churn(config, group) {
    const place = [config.index, this.runtime, this.sideOf(config), this.grouping, group];
    return this.db.contrasts.first(["config", "runtime", "comparison", "grouping", "group"], place)?.churn_rate ?? null;
  }

  value(config, group, options = {}) {
    const { metric = this.metricKey, runtime = this.runtime, grouping = this.grouping } = options;
    const { trials = this.trialsOf(config) } = options;
    return meanOf(trials.map((trial) => this.valueOf(trial, group, metric, runtime, grouping)));
  }

  valueOf(trial, group, metric, runtime = this.runtime, grouping = this.grouping) {
    const names = ["trial", "runtime", "grouping", "group"];
    const [row] = this.db.values.find(names, [trial.index, runtime, grouping, group]);
    return row === undefined ? null : this.db.values.get(metric, row);
  }

  // Means over these trials: of a table that has rows of each, or else, since those were too many, the means of all seeds.
  meansOf(name, trials, place, keys, value) {
    const table = this.db[name];
    const [owner, owners] = table.has("trial")
      ? ["trial", trials.map((trial) => trial.index)]
      : ["config", [...new Set(trials.map((trial) => trial.config))]];
    const rows = owners
      .flatMap((one) => table.find([owner, ...Object.keys(place)], [one, ...Object.values(place)]))
      .map((row) => table.row(row));
    const alike = groupBy(rows, (row) => keys.map((key) => row[key]).join("\u0001"));
    return [...alike.values()].map((some) => ({ ...some[0], [value]: meanOf(some.map((row) => row[value])) }));
  }

  // Of what seeds such means are.
  saySeeds(name) {
    if (this.seedNumber === null) return "means over seeds";
    return this.db[name].has("trial")
      ? `seed ${this.seedNumber}`
      : "means over all seeds, since the page has no others";
  }

  // The change of the chosen metric: of accuracy the paired drop, of others the mean difference to the other side.
  change(config, group, options = {}) {
    if (this.metricKey === "accuracy") {
      const drop = this.drop(config, group, options);
      return drop && { mean: drop.drop_pp, low: drop.low_pp, high: drop.high_pp, losesMore: drop.losesMore };
    }
    const { comparison = this.sideOf(config), grouping = this.grouping } = options;
    const differences = this.trialsOf(config).map((trial) => {
      const twin = comparison === "twin";
      const other = twin ? trial : this.db.allTrials[trial[comparison]];
      const own = this.valueOf(trial, group, this.metricKey, this.runtime, grouping);
      const before = other && this.valueOf(other, group, this.metricKey, "torch", grouping);
      return isNumber(own) && isNumber(before) ? this.metric.times * (own - before) : null;
    });
    const mean = meanOf(differences);
    return isNumber(mean) ? { mean, low: null, high: null, losesMore: false } : null;
  }

  // How unevenly the groups drop, with what chance shows: over seeds of the mean drops, else of one trial.
  disparity(config) {
    const place = [this.runtime, this.sideOf(config), this.grouping];
    const names = ["runtime", "comparison", "grouping"];
    if (this.metricKey === "loss_nats") return this.trialDisparity(config, "phi_loss_nats", place);
    if (this.metricKey !== "accuracy") return this.spreadOfChanges(config);
    if (this.seedNumber !== null) return this.trialDisparity(config, "drop_disparity_pp", place);
    const row = this.db.evenness.first(["config", ...names], [config.index, ...place]);
    if (!row || !isNumber(row.drop_disparity_pp)) return null;
    return {
      value: row.drop_disparity_pp,
      mean: row.null_mean_pp,
      floor: row.null_q95_pp,
      p: row.null_p,
    };
  }

  trialDisparity(config, metric, place) {
    const names = ["trial", "metric", "runtime", "comparison", "grouping"];
    const rows = this.trialsOf(config)
      .map((trial) => this.db.disparities.first(names, [trial.index, metric, ...place]))
      .filter(Boolean);
    if (!rows.length) return null;
    if (rows.length === 1)
      return { value: rows[0].value, mean: rows[0].null_mean, floor: rows[0].null_q95, p: rows[0].null_p };
    return { value: meanOf(rows.map((row) => row.value)), mean: null, floor: null, p: null }; // chance is of one trial
  }

  spreadOfChanges(config) {
    const means = this.groups
      .filter((group) => group.ranked)
      .map((group) => this.change(config, group.name)?.mean)
      .filter(isNumber);
    return means.length > 1
      ? { value: Math.max(...means) - Math.min(...means), mean: null, floor: null, p: null }
      : null;
  }

  gap(config) {
    const names = ["trial", "metric", "runtime", "comparison", "grouping"];
    const read = (trial) =>
      this.db.disparities.first(names, [trial.index, "acc_gap_maxmin_pp", this.runtime, null, this.grouping])?.value;
    return meanOf(this.trialsOf(config).map(read));
  }

  verdict(config, grouping = this.grouping) {
    const names = ["config", "runtime", "comparison", "grouping"];
    return this.db.verdicts.first(names, [config.index, this.runtime, this.sideOf(config), grouping]);
  }

  // One configuration for each method and bits: the primary one if the filters leave it, else the first they leave.
  get picks() {
    const found = new Map();
    for (const config of this.configs) {
      const key = `${config.variant}\u0001${config.bits}`;
      if (!found.has(key) || (config.primary && !found.get(key).primary)) found.set(key, config);
    }
    return [...found.values()];
  }

  // Panels of the charts over bits: a quantizing method each, which starts with the float models that it comes from.
  get panels() {
    const floats = this.ofData.filter((config) => !isQuantized(config));
    const start = (method) => floats.filter((config) => config.method === method).slice(0, 1);
    const variants = [...new Set(this.picks.filter(isQuantized).map((config) => config.variant))];
    return variants.map((variant) => ({
      variant,
      configs: [
        ...start("fp32"),
        ...(variant === "PTQ" || variant === "QAT from scratch" ? [] : start("fp32_ft")),
        ...this.picks.filter((config) => config.variant === variant),
      ],
    }));
  }

  // The float model that a configuration is compared with; none beside itself in torch.
  otherOf(config) {
    const other = config.trials.map((trial) => this.db.allTrials[trial[this.sideOf(config)]]).find(Boolean);
    return other ? this.db.allConfigs[other.config] : null;
  }

  // Why nothing is known of the configuration in detail: what it lacks is the other side.
  get lacksSide() {
    const { name } = this.detail;
    return this.missingDrops(
      this.metricKey === "accuracy"
        ? `${name} is not compared with ${sayComparison(this.comparison)} in ${this.runtime}`
        : `${this.metric.name.toLowerCase()} of ${name} is not known of these groups`,
    );
  }

  // The group that stands out: the chosen one, else the one that the verdict names. A verdict on all images names none.
  get highlighted() {
    const named = this.focus || (this.detail && this.verdict(this.detail)?.group);
    return this.groups.some(({ name }) => name === named) ? named : null;
  }
}

const groupBy = (items, keyOf) => {
  const found = new Map();
  for (const item of items) {
    const key = keyOf(item);
    if (found.has(key)) found.get(key).push(item);
    else found.set(key, [item]);
  }
  return found;
};

// The limits of a drop as cells of tables hold them.
const limitsOf = (drop) => ({ low: drop.low_pp, high: drop.high_pp });

const meanOf = (values) => {
  const known = values.filter(isNumber);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
};

const bitsName = (config) =>
  config.method === "fp32"
    ? "FP32"
    : config.method === "fp32_ft"
      ? "FP32-FT"
      : /^\d+$/.test(config.bits)
        ? `${config.bits} bits`
        : config.bits;

const nameOf = ({ byClass }, { name }) => `${byClass ? "class " : ""}${shorten(name, 40)}`;

const sayChange = (view, found) => {
  if (!found) return MISSING;
  return view.metricKey === "accuracy"
    ? `${formatPp(found.mean)}${sayInterval(found.low, found.high)}`
    : formatNumber(found.mean);
};
