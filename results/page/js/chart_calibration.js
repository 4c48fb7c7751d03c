// Confidence beside accuracy, by group: of the reference and of one configuration.
const inPercent = (share) => (100 * share).toFixed(1);

const drawCalibration = (view, { colors, width }) => {
  const { detail, db } = view;
  if (!detail) return { empty: view.lacksDetail };
  const reference = db.allConfigs[db.allTrials[detail.trials[0]?.reference]?.config];
  const shown = [reference, detail].filter(Boolean);
  const read = (config, group) =>
    db.reliability
      .find(
        ["config", "runtime", "grouping", "group"],
        [config.index, isQuantized(config) ? view.runtime : "torch", view.grouping, group],
      )
      .map((row) => db.reliability.row(row))
      .filter(({ n }) => n >= 20);
  const groups = view.groups.filter(({ ranked, name }) => ranked && shown.some((config) => read(config, name).length));
  if (!detail.primary)
    return {
      empty:
        "bins of confidence are on the page for the configurations that val chose; those of all are in tables/reliability",
    };
  if (!groups.length) return { empty: view.missing("reliability", "no reliability is known of these groups") };
  const { places, total } = placePanels(shown.length, width, 320, { gap: 60 });
  const hasLegend = groups.length <= MOST_HUES;
  const layout = layoutOf(colors, total, {
    margin: { l: 52, r: 16, t: hasLegend ? 44 : 8, b: 8, pad: 4 },
    annotations: [],
    shapes: [],
    showlegend: hasLegend,
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { color: colors.ink } },
  });
  const data = shown.flatMap((config, i) => {
    const { x, y, suffix, titleAt } = places[i];
    layout[`xaxis${suffix}`] = axis(colors, { domain: x, anchor: `y${suffix}`, tickformat: ".0%", automargin: false });
    layout[`yaxis${suffix}`] = axis(colors, { domain: y, anchor: `x${suffix}`, tickformat: ".0%", automargin: false });
    layout.annotations.push(
      note(`<b>${label(bitsName(config) === "FP32" ? "FP32" : config.name, 40)}</b>`, colors, {
        x: titleAt[0],
        y: titleAt[1],
        yanchor: "top",
        font: { color: colors.ink, size: 13 },
      }),
    );
    layout.shapes.push({
      type: "line",
      xref: `x${suffix}`,
      yref: `y${suffix}`,
      x0: 0.1,
      y0: 0.1,
      x1: 1,
      y1: 1,
      line: { color: colors.muted, width: 1, dash: "dot" },
      layer: "below",
    });
    return groups.map((group) => {
      const bins = read(config, group.name);
      const color = colorOf(view, group, colors);
      return {
        type: "scatter",
        mode: "lines+markers",
        name: label(group.name, 18),
        legendgroup: group.name,
        showlegend: i === 0,
        xaxis: `x${suffix}`,
        yaxis: `y${suffix}`,
        x: bins.map(({ confidence }) => confidence),
        y: bins.map(({ accuracy }) => accuracy),
        line: { color, width: 1.5 },
        marker: { color, size: 5 },
        opacity: isBright(view, group) ? 1 : 0.4,
        meta: { groups: group.name },
        hovertemplate: "%{text}<extra></extra>",
        text: bins.map(
          (bin) =>
            `<b>${label(group.name, 40)}</b><br>sure of ${formatPercent(bin.confidence)}, right on ${formatPercent(bin.accuracy)}${sayInterval(bin.ci_low, bin.ci_high, inPercent, inPercent)}<br>${bin.n} answers`,
        ),
      };
    });
  });
  const errors = groups
    .map((group) => ({ group, ece: view.value(detail, group.name, { metric: "ece", trials: detail.trials }) }))
    .filter(({ ece }) => isNumber(ece))
    .sort((a, b) => b.ece - a.ece);
  const ends = shown.flatMap((config) => groups.flatMap(({ name }) => read(config, name)));
  const from = (name) => Math.min(...ends.map((bin) => bin[name]), 1) - 0.03;
  for (const { suffix } of places) {
    layout[`xaxis${suffix}`].range = [from("confidence"), 1.03];
    layout[`yaxis${suffix}`].range = [from("accuracy"), 1.03];
  }
  return {
    data,
    layout,
    summary: errors.length
      ? `${detail.name}: the expected calibration error is largest for ${nameOf(view, errors[0].group)}, ${formatNumber(errors[0].ece)}.`
      : "No calibration error is known: groups have under 100 images.",
    note: "Across: confidence; upwards: accuracy. Below the dotted line a model is surer than it is right. Bins with under 20 answers are left out here; seeds are pooled.",
    table: {
      head: ["Configuration", "Group", "Confidence", "Right", "Answers", "ECE"],
      rows: shown.flatMap((config) =>
        groups.flatMap(({ name }) => {
          const ece = view.value(config, name, {
            metric: "ece",
            trials: config.trials,
            runtime: isQuantized(config) ? view.runtime : "torch",
          });
          return read(config, name).map((bin) => [
            cell(config.name),
            cell(name, null, name),
            cell(formatPercent(bin.confidence), bin.confidence),
            cell(formatPercent(bin.accuracy), bin.accuracy),
            cell(bin.n, bin.n),
            cell(formatNumber(ece), ece),
          ]);
        }),
      ),
    },
  };
};
