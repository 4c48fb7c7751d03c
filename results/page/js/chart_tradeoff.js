// Mean accuracy against how unevenly groups drop. Points that cannot be told from the most accurate one are faded.
const drawTradeoff = (view, { colors }) => {
  const points = view.configs
    .map((config) => ({
      config,
      disparity: config.method === "fp32" ? { value: 0 } : view.disparity(config),
      overall:
        config.method === "fp32" ? null : view.drop(config, "all", { grouping: "overall", comparison: "reference" }),
      accuracy: view.value(config, "all", {
        metric: "accuracy",
        grouping: "overall",
        runtime: isQuantized(config) ? view.runtime : "torch",
      }),
    }))
    .filter(({ disparity, accuracy }) => disparity && isNumber(accuracy));
  if (!points.some(({ config }) => isQuantized(config)))
    return { empty: "no quantized configuration has a disparity here" };
  const best = points
    .filter(({ config, overall }) => isQuantized(config) && overall)
    .sort((a, b) => a.overall.drop_pp - b.overall.drop_pp)[0];
  const isClose = ({ overall }) =>
    Boolean(
      best &&
      overall &&
      overall.drop_ci_low_pp <= best.overall.drop_pp &&
      best.overall.drop_pp <= overall.drop_ci_high_pp,
    );
  const variants = [...new Set(points.map(({ config }) => config.variant))];
  const unit = view.metricKey === "accuracy" ? "pp" : "";
  const data = variants.map((variant, i) => {
    const some = points.filter(({ config }) => config.variant === variant);
    return {
      type: "scatter",
      mode: "markers",
      name: variant,
      x: some.map(({ accuracy }) => accuracy),
      y: some.map(({ disparity }) => disparity.value),
      text: some.map(
        ({ config, accuracy, disparity }) =>
          `<b>${escapeText(config.name)}</b><br>${formatPercent(accuracy, 2)}, uneven by ${formatNumber(disparity.value)} ${unit}${isNumber(disparity.floor) ? ` (chance ${formatNumber(disparity.floor)})` : ""}`,
      ),
      error_x: {
        type: "data",
        symmetric: false,
        thickness: 1,
        width: 0,
        color: `${colors.hues[i % 8]}66`,
        array: some.map(({ overall }) => (overall ? (overall.drop_pp - overall.drop_ci_low_pp) / 100 : 0)),
        arrayminus: some.map(({ overall }) => (overall ? (overall.drop_ci_high_pp - overall.drop_pp) / 100 : 0)),
      },
      marker: {
        symbol: SYMBOLS[i % SYMBOLS.length],
        color: colors.hues[i % 8],
        size: some.map(({ config }) => (isQuantized(config) ? 7 + (config.weight_bits ?? 16) / 2 : 10)),
        opacity: some.map((point) => (isClose(point) ? 0.4 : 1)),
        line: { width: 1, color: colors.ground },
      },
      hovertemplate: "%{text}<extra></extra>",
    };
  });
  const isAccuracy = view.metricKey === "accuracy";
  const highest = Math.max(...points.map(({ disparity }) => disparity.value)) || 1;
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
      ? `Least is lost with ${best.config.name}: ${formatPercent(best.accuracy, 2)}, uneven by ${formatNumber(best.disparity.value)} ${unit}.`
      : "",
    note: "Symbol: method; size: bits. Bars: 95 % interval of the paired drop of all images. Faded: the interval holds the drop of the configuration that loses least, so they cannot be told apart by accuracy.",
    table: {
      head: ["Configuration", "Accuracy", "Drop of all images, pp", "Drop disparity", "Chance (95 %)", "p", "Gap, pp"],
      rows: points.map(({ config, accuracy, overall, disparity }) => [
        cell(config.name),
        cell(formatPercent(accuracy, 2), accuracy),
        cell(overall ? formatPp(overall.drop_pp) : MISSING, overall?.drop_pp ?? null),
        cell(formatNumber(disparity.value), disparity.value),
        cell(formatNumber(disparity.floor), disparity.floor ?? null),
        cell(formatP(disparity.p), disparity.p ?? null),
        cell(formatPp(view.gap(config)), view.gap(config)),
      ]),
    },
  };
};
