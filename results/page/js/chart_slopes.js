// What each group loses, over bits.
const OVERALL = { grouping: "overall" };

// Each line starts at the float model that its configurations are compared with, its base.
const panelsOfChange = (view) =>
  view.panels
    .map((panel) => {
      const quantized = panel.configs.filter((config) => isQuantized(config) && view.change(config, "all", OVERALL));
      const bases = new Set(quantized.map((config) => view.otherOf(config)?.index ?? null));
      const [base] = bases.size === 1 ? bases : [null];
      const isBeside = (config) => base !== null && (config.index === base || view.otherOf(config)?.index === base);
      const floats = panel.configs.filter((config) => !isQuantized(config) && isBeside(config));
      return { ...panel, base, configs: [...floats, ...quantized] };
    })
    .filter(({ configs }) => configs.length);

const drawSlopes = (view, { colors, width }) => {
  const panels = panelsOfChange(view);
  const read = (config, group, base = null) =>
    config.index === base ? { mean: 0, low: null, high: null } : view.change(config, group.name);
  const isAccuracy = view.metricKey === "accuracy";
  const say = (found) => (isAccuracy ? sayDrop(found.mean, found.low, found.high) : formatNumber(found.mean));
  const drawn = drawPanels(view, panels, read, {
    colors,
    width,
    format: { tick: "", say },
    bands: isAccuracy,
    reversed: view.metric.isLoss,
    yTitle: view.metric.change,
  });
  if (drawn.empty) {
    const otherwise = view.quantized.length
      ? `nothing is compared with ${sayComparison(view.comparison)} in ${view.runtime}`
      : view.lacksDetail;
    return { empty: view.missingDrops(otherwise) };
  }
  const all = panels
    .flatMap(({ configs }) =>
      configs
        .filter(isQuantized)
        .flatMap((config) =>
          view.groups
            .filter((group) => view.isInPlay(config, group))
            .map((group) => ({ config, group, found: read(config, group) })),
        ),
    )
    .filter(({ found }) => found);
  const worst = all.sort((a, b) => view.sizeOf(b.found.mean) - view.sizeOf(a.found.mean))[0];
  const summary = worst
    ? view.sizeOf(worst.found.mean) <= 0
      ? `No ${view.noun} does worse.`
      : `Largest: ${nameOf(view, worst.group)} ${say(worst.found)} at ${worst.config.name}.`
    : view.noneInPlay;
  const shown = panels.map(({ configs, ...panel }) => ({
    ...panel,
    configs: configs.filter((config) => config.index !== panel.base),
  }));
  const worse = view.metric.isLoss ? ", downwards where it is worse" : "";
  const band =
    isAccuracy && view.highlighted ? ` Band: limits of ${nameOf(view, { name: view.highlighted })}.` : "";
  const zero = panels.some(({ base }) => base !== null)
    ? " Lines start at 0, the float model they are compared with."
    : "";
  return {
    ...drawn,
    summary,
    table: tableOfPanels(view, shown, read, say),
    note: `${sentence(view.metric.change)} against ${sayComparison(view.comparison)}${worse}.${zero}${band} ${sayPicks(view)} ${sayDotted(view)}`,
  };
};
