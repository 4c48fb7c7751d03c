// Mean accuracy against how unevenly groups drop. Points that cannot be told from the one that loses least are faded.
const drawTradeoff = (view, { colors }) => {
  const isBase = (config) => config.method === "fp32" && view.sideOf(config) === "reference";
  const points = view.configs
    .map((config) => ({
      config,
      disparity: isBase(config) ? { value: 0 } : view.disparity(config), // a float model beside itself
      overall: isBase(config) ? null : view.drop(config, "all", { grouping: "overall" }),
      accuracy: view.value(config, "all", {
        metric: "accuracy",
        grouping: "overall",
        runtime: isQuantized(config) ? view.runtime : "torch",
      }),
    }))
    .filter(({ disparity, accuracy }) => disparity && isNumber(accuracy));
  if (!points.some(({ config }) => isQuantized(config)))
    return {
      empty: view.missing("values", view.missing("evenness", "no quantized configuration has a disparity here")),
    };
  const keyOf = ({ config }) => `${view.sideOf(config)} ${view.otherOf(config)?.index}`; // what drops are comparable by
  const losing = points.filter(({ config, overall }) => isQuantized(config) && overall);
  const least = new Map(
    [...groupBy(losing, keyOf)].map(([key, some]) => [
      key,
      some.reduce((a, b) => (b.overall.drop_pp < a.overall.drop_pp ? b : a)),
    ]),
  );
  const best = losing.length ? losing.reduce((a, b) => (b.overall.drop_pp < a.overall.drop_pp ? b : a)) : null;
  const isClose = (point) => {
    const first = point.overall && least.get(keyOf(point));
    return Boolean(
      first &&
      point.overall.low_pp <= first.overall.drop_pp &&
      first.overall.drop_pp <= point.overall.high_pp,
    );
  };
  const apart = points.filter((point) => point.overall && !isClose(point)).slice(0, MOST_HUES); // these are named
  const variants = [...new Set(points.map(({ config }) => config.variant))];
  const unit = view.metricKey === "accuracy" ? " pp" : "";
  const data = variants.map((variant, i) => {
    const some = points.filter(({ config }) => config.variant === variant);
    return {
      type: "scatter",
      mode: "markers+text",
      name: variant,
      x: some.map(({ accuracy }) => accuracy),
      y: some.map(({ disparity }) => disparity.value),
      text: some.map((point) => (apart.includes(point) ? label(point.config.name, 22) : "")),
      textposition: "top center",
      textfont: { size: 11, color: colors.muted },
      hovertext: some.map(
        ({ config, accuracy, disparity }) =>
          `<b>${escapeText(config.name)}</b><br>${formatPercent(accuracy, 2)}, groups ${formatNumber(disparity.value)}${unit} apart${isNumber(disparity.floor) ? ` (chance ${formatNumber(disparity.floor)})` : ""}`,
      ),
      error_x: {
        type: "data",
        symmetric: false,
        thickness: 1,
        width: 0,
        color: `${colors.ink}66`,
        array: some.map(({ overall }) => (overall ? (overall.drop_pp - overall.low_pp) / 100 : 0)),
        arrayminus: some.map(({ overall }) => (overall ? (overall.high_pp - overall.drop_pp) / 100 : 0)),
      },
      legendgroup: variant,
      marker: {
        symbol: SYMBOLS[i % SYMBOLS.length],
        color: colors.ink,
        size: some.map(({ config }) => (isQuantized(config) ? 7 + (config.weight_bits ?? 16) / 2 : 10)),
        opacity: some.map((point) => (isClose(point) ? 0.4 : 1)),
        line: { width: 1, color: colors.ground },
      },
      hovertemplate: "%{hovertext}<extra></extra>",
    };
  });
  const floors = points.filter(({ disparity }) => isNumber(disparity.floor));
  if (floors.length)
    data.unshift({
      type: "scatter",
      mode: "markers",
      name: "chance stays under (95 %)",
      x: floors.map(({ accuracy }) => accuracy),
      y: floors.map(({ disparity }) => disparity.floor),
      marker: { symbol: "line-ew-open", size: 14, color: colors.muted },
      hoverinfo: "skip",
    });
  const isAccuracy = view.metricKey === "accuracy";
  const highest = Math.max(...points.map(({ disparity }) => Math.max(disparity.value, disparity.floor ?? 0))) || 1;
  return {
    data,
    layout: layoutOf(colors, 400, {
      margin: { l: 60, r: 16, t: 34, b: 48, pad: 4 },
      showlegend: true,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { color: colors.ink } },
      xaxis: axis(colors, { tickformat: ".1%", title: axisTitle("mean accuracy", colors), automargin: false }),
      yaxis: axis(colors, {
        range: [-0.06 * highest, 1.08 * highest],
        title: axisTitle(isAccuracy ? "drop disparity, pp" : `largest minus smallest ${view.metric.change}`, colors),
        automargin: false,
      }),
    }),
    summary: best
      ? `Least is lost with ${best.config.name}, against ${view.otherOf(best.config)?.name ?? sayComparison(view.sideOf(best.config))}: ${formatPercent(best.accuracy, 2)}, groups ${formatNumber(best.disparity.value)}${unit} apart.`
      : "",
    note: `Against ${sayComparison(view.comparison)}. Symbol: method; size: bits. Bars: limits of the drop of all images.${floors.length ? " Grey dashes: what chance alone stays under." : ""} Faded: these limits hold the drop of the configuration that loses least against the same other side, so they cannot be told apart by accuracy.`,
    table: {
      head: [
        "Configuration",
        "Accuracy",
        "Against",
        "Drop of all images, pp",
        isAccuracy ? "Drop disparity, pp" : "Apart",
        "Chance (95 %)",
        "p",
        "Gap, pp",
      ],
      rows: points.map(({ config, accuracy, overall, disparity }) => [
        cell(config.name),
        cell(formatPercent(accuracy, 2), accuracy),
        cell(overall ? sayComparison(view.sideOf(config)) : MISSING),
        overall ? cell(formatPp(overall.drop_pp), overall.drop_pp, null, limitsOf(overall)) : cell(MISSING),
        cell(formatNumber(disparity.value), disparity.value),
        cell(formatNumber(disparity.floor), disparity.floor ?? null),
        cell(formatP(disparity.p), disparity.p ?? null),
        cell(formatPp(view.gap(config)), view.gap(config)),
      ]),
    },
  };
};
