// The metric of each group, over bits.
const panelsOrFloats = (view) => {
  if (view.panels.length) return view.panels;
  const floats = view.configs.filter((config) => !isQuantized(config));
  return floats.length ? [{ variant: "Float models", configs: floats }] : [];
};

const drawAccuracy = (view, { colors, width }) => {
  const panels = panelsOrFloats(view);
  const read = (config, group) => {
    const mean = view.value(config, group.name, { runtime: isQuantized(config) ? view.runtime : "torch" });
    return isNumber(mean) ? { mean } : null;
  };
  const say = ({ mean }) => view.metric.format(mean);
  const isShare = view.metric.format === formatPercent;
  const drawn = drawPanels(view, panels, read, {
    colors,
    width,
    format: { tick: isShare ? ".0%" : "", say },
    yTitle: view.metric.name.toLowerCase(),
  });
  if (drawn.empty) return { empty: view.missing("values", drawn.empty) };
  const { variant, configs } = panels[0];
  const last = configs.at(-1);
  const found = view.groups
    .filter(({ ranked }) => ranked)
    .map((group) => ({ group, mean: read(last, group)?.mean }))
    .filter(({ mean }) => isNumber(mean))
    .sort((a, b) => a.mean - b.mean);
  const summary = found.length
    ? `${last.name}: from ${say(found[0])} (${nameOf(view, found[0].group)}) to ${say(found.at(-1))} (${nameOf(view, found.at(-1).group)}).`
    : "";
  const floats = view.runtime === "torch" ? "" : "Float models answer in torch.";
  return {
    ...drawn,
    title: `${view.metric.name} as the bits fall`,
    summary,
    note: [
      `${sentence(view.saySeeds("values"))}, without intervals: those of losses are in the next chart.`,
      floats,
      sayPicks(view),
      sayDotted(view),
    ].join(" "),
    table: tableOfPanels(view, panels, read, say),
  };
};
