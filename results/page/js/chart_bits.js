// Over bits: the metric of each group, and what each group loses.
const panelsOrFloats = (view) => {
  if (view.panels.length) return view.panels;
  const floats = view.configs.filter((config) => !isQuantized(config));
  return floats.length ? [{ variant: "Float models", configs: floats }] : [];
};

const drawValues = (view, { colors, width }) => {
  const panels = panelsOrFloats(view);
  const read = (config, group) => {
    const mean = view.value(config, group.name, { runtime: isQuantized(config) ? view.runtime : "torch" });
    return isNumber(mean) ? { mean } : null;
  };
  const say = ({ mean }) => view.metric.format(mean);
  const isShare = view.metric.format === formatPercent;
  const drawn = drawPanels(view, panels, read, { colors, width, format: { tick: isShare ? ".0%" : "", say } });
  if (drawn.empty) return drawn;
  const { variant, configs } = panels[0];
  const last = configs.at(-1);
  const found = view.groups
    .filter(({ ranked }) => ranked)
    .map((group) => ({ group, mean: read(last, group)?.mean }))
    .filter(({ mean }) => isNumber(mean))
    .sort((a, b) => a.mean - b.mean);
  const summary = found.length
    ? `${variant}, ${last.name}: from ${say(found[0])} (${nameOf(view, found[0].group)}) to ${say(found.at(-1))} (${nameOf(view, found.at(-1).group)}).`
    : "";
  return { ...drawn, summary, table: tableOfPanels(view, panels, read, say) };
};

const drawSlopes = (view, { colors, width }) => {
  const panels = view.panels;
  const read = (config, group) =>
    config.method === "fp32" ? { mean: 0, low: null, high: null } : view.change(config, group.name);
  const say = (found) =>
    view.metricKey === "accuracy" ? sayDrop(found.mean, found.low, found.high) : formatNumber(found.mean);
  const drawn = drawPanels(view, panels, read, {
    colors,
    width,
    format: { tick: "", say },
    bands: true,
    reversed: view.metricKey === "accuracy",
  });
  if (drawn.empty) return drawn;
  const all = panels
    .flatMap(({ configs }) =>
      configs
        .filter(isQuantized)
        .flatMap((config) =>
          view.groups.filter((group) => group.ranked).map((group) => ({ config, group, found: read(config, group) })),
        ),
    )
    .filter(({ found }) => found);
  const worst = all.sort((a, b) => b.found.mean - a.found.mean)[0];
  const summary = worst ? `Largest: ${nameOf(view, worst.group)} ${say(worst.found)} at ${worst.config.name}.` : "";
  return {
    ...drawn,
    summary,
    table: tableOfPanels(view, panels, read, say),
    note: `${sentence(view.metric.change)} against ${COMPARISONS[view.comparison]}, downwards where accuracy is lost. Band: 95 % interval of the highlighted ${view.noun}.`,
  };
};
