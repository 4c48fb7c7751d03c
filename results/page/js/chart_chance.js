// How unevenly groups drop, beside what chance alone shows.
const drawNull = (view, { colors, width }) => {
  const points = view.configs
    .filter((config) => config.method !== "fp32")
    .map((config) => ({ config, disparity: view.disparity(config) }))
    .filter(({ disparity }) => disparity);
  if (!points.length) return { empty: "no finished configuration has a disparity here" };
  const shown = points.slice(0, MOST_ROWS);
  const { left, axis: names } = nameRows(
    shown.map(({ config }) => config.name),
    width,
    colors,
  );
  const tested = points.filter(({ disparity }) => isNumber(disparity.p));
  const above = tested.filter(({ disparity }) => disparity.p < 0.05);
  const floors = shown.map(({ disparity }) => disparity.floor ?? 0);
  return {
    data: [
      {
        type: "bar",
        orientation: "h",
        x: floors,
        y: shown.map((_, i) => i),
        width: 0.62,
        marker: { color: colors.faint },
        hovertemplate: "chance stays under %{x:.3g} in 95 of 100<extra></extra>",
      },
      {
        type: "scatter",
        mode: "markers",
        x: shown.map(({ disparity }) => disparity.value),
        y: shown.map((_, i) => i),
        marker: {
          size: 9,
          color: shown.map(({ disparity }) =>
            isNumber(disparity.p) && disparity.p < 0.05 ? colors.focus : colors.ink,
          ),
          symbol: shown.map(({ disparity }) => (isNumber(disparity.p) && disparity.p < 0.05 ? "diamond" : "circle")),
        },
        text: shown.map(
          ({ config, disparity }) =>
            `<b>${escapeText(config.name)}</b><br>${formatNumber(disparity.value)}, chance ${formatNumber(disparity.floor)}, ${formatP(disparity.p)}`,
        ),
        hovertemplate: "%{text}<extra></extra>",
      },
    ],
    layout: layoutOf(colors, 56 + ROW * shown.length, {
      margin: { l: left, r: 16, t: 8, b: 42, pad: 4 },
      xaxis: axis(colors, {
        rangemode: "tozero",
        title: axisTitle(
          view.metricKey === "accuracy" ? "drop disparity, pp" : `largest minus smallest ${view.metric.change}`,
          colors,
        ),
        automargin: false,
      }),
      yaxis: names,
    }),
    summary: tested.length
      ? `Of ${count(tested.length, "configuration")} ${above.length} ${above.length === 1 ? "has" : "have"} groups that drop differently (p < .05); one in twenty would by chance.`
      : "No permutation test is known for these.",
    note:
      "Grey bar: what chance alone stays under in 95 of 100 permutations. Orange diamonds: p < .05 of the studentized test, which weighs small and large groups fairly, so it need not agree with the bar." +
      (points.length > shown.length ? ` The first ${shown.length} of ${points.length}; all are in the table.` : ""),
    table: {
      head: ["Configuration", "Disparity", "Chance, mean", "Chance (95 %)", "p", "q", "Gap, pp"],
      rows: points.map(({ config, disparity }) => [
        cell(config.name),
        cell(formatNumber(disparity.value), disparity.value),
        cell(formatNumber(disparity.mean), disparity.mean ?? null),
        cell(formatNumber(disparity.floor), disparity.floor ?? null),
        cell(formatP(disparity.p), disparity.p ?? null),
        cell(isNumber(disparity.q) ? formatNumber(disparity.q) : MISSING, disparity.q ?? null),
        cell(formatPp(view.gap(config)), view.gap(config)),
      ]),
    },
  };
};
