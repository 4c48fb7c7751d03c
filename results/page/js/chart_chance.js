// How unevenly groups drop, beside what chance alone shows.
const drawChance = (view, { colors, width }) => {
  const points = view.configs
    .filter((config) => config.method !== "fp32")
    .map((config) => ({ config, disparity: view.disparity(config) }))
    .filter(({ disparity }) => disparity);
  if (!points.length) return { empty: view.missing("evenness", "no finished configuration has a disparity here") };
  const shown = points.slice(0, MOST_ROWS);
  const { left, axis: names } = nameRows(
    shown.map(({ config }) => config.name),
    width,
    colors,
  );
  const tested = points.filter(({ disparity }) => isNumber(disparity.p));
  const above = tested.filter(({ disparity }) => disparity.p < 0.05);
  const unit = view.metricKey === "accuracy" ? " pp" : "";
  const largest = Math.max(...shown.flatMap(({ disparity }) => [disparity.value, disparity.floor ?? 0])) || 1;
  const hasFloors = points.some(({ disparity }) => isNumber(disparity.floor));
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
        hovertemplate: `chance stays under %{x:.3g}${unit} in 95 of 100<extra></extra>`,
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
        range: [-0.02 * largest, 1.05 * largest],
        title: axisTitle(
          view.metricKey === "accuracy" ? "drop disparity, pp" : "largest minus smallest change",
          colors,
        ),
        automargin: false,
      }),
      yaxis: names,
    }),
    summary: tested.length
      ? `Of ${count(tested.length, "configuration")} ${above.length} ${above.length === 1 ? "has" : "have"} groups that drop differently (p < .05); one in twenty would by chance.`
      : "Of several seeds no test is known: choose one seed.",
    note:
      (hasFloors
        ? "Grey bar: what chance alone stays under in 95 of 100 draws under one common drop. Orange diamonds: p < .05 of a sharper test, which weighs each group by its noise, so it need not agree with the bar. Over all ranked groups, also those out of play in verdicts. No verdict rests on it."
        : "What chance alone shows is not known of these.") +
      (points.length > shown.length ? ` The first ${shown.length} of ${points.length}; all are in the table.` : ""),
    table: {
      head: ["Configuration", "Disparity", "Chance, mean", "Chance (95 %)", "p", "Gap, pp"],
      rows: points.map(({ config, disparity }) => [
        cell(config.name),
        cell(formatNumber(disparity.value), disparity.value),
        cell(formatNumber(disparity.mean), disparity.mean ?? null),
        cell(formatNumber(disparity.floor), disparity.floor ?? null),
        cell(formatP(disparity.p), disparity.p ?? null),
        cell(formatPp(view.gap(config)), view.gap(config)),
      ]),
    },
  };
};
