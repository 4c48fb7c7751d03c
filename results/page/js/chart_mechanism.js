// What of the float model goes with the drop: group sizes, margins, curvature.
const STATISTICS = {
  n_train: "training images",
  margin: "margin of the float model",
  accuracy: "accuracy of the float model",
  grad_norm: "norm of the loss's gradient",
  hessian_trace: "trace of the Hessian",
  lambda_max: "largest eigenvalue of the Hessian",
};

const nameOfStatistic = (name) => STATISTICS[name] ?? name.replaceAll("_", " ");

// Names of neighbours stand above and below by turns.
const alternate = (values) => {
  const order = values.map((_, i) => i).sort((a, b) => values[a] - values[b]);
  return values.map((_, i) => (order.indexOf(i) % 2 ? "bottom center" : "top center"));
};

const sayWhyNone = (view, nGroups) => {
  if (view.metricKey !== "accuracy" || view.seedNumber !== null)
    return "correlations are computed of the drops over all seeds alone";
  return nGroups < 5
    ? "fewer than five ranked groups, so no correlation is computed"
    : `no correlation is computed against ${sayComparison(view.sideOf(view.detail))}`;
};

const drawMechanism = (view, { colors, width }) => {
  const { detail } = view;
  if (!detail) return { empty: view.lacksDetail };
  const side = view.sideOf(detail) === "twin" ? "reference" : view.sideOf(detail);
  const floats = view
    .trialsOf(detail)
    .map((trial) => view.db.allTrials[trial[side]])
    .filter(Boolean);
  const changes = new Map(
    view.groups
      .filter(({ ranked }) => ranked)
      .map((group) => [group.name, view.change(detail, group.name)])
      .filter(([, change]) => change),
  );
  const rows = view.meansOf("mechanism", floats, { grouping: view.grouping }, ["group", "statistic"], "value");
  const statistics = [...new Set(rows.map(({ statistic }) => statistic))].filter((one) =>
    rows.some(({ statistic, group }) => statistic === one && changes.has(group)),
  );
  if (!changes.size) return { empty: view.lacksSide };
  if (!statistics.length)
    return { empty: view.missing("mechanism", `nothing of the ${side} is known for these groups`) };
  const narrow = width / Math.min(statistics.length, Math.floor(width / PANEL) || 1) < 400;
  const { places, total } = placePanels(statistics.length, width, 280, { gap: 60, head: narrow ? 0.17 : 0.09 });
  const isNamed = view.groups.length <= 12;
  const names = tellApart(view.groups.map(({ name }) => name));
  const nameOfPoint = (group) => label(names[view.groups.findIndex(({ name }) => name === group)], 12);
  const layout = layoutOf(colors, total, { margin: { l: 48, r: 16, t: 8, b: 8, pad: 4 }, annotations: [] });
  const isOfTable = view.metricKey === "accuracy" && view.seedNumber === null; // `correlations` is of drops over all seeds
  const correlation = (statistic) =>
    isOfTable &&
    view.db.correlations.first(
      ["config", "runtime", "comparison", "grouping", "statistic", "outcome"],
      [detail.index, view.runtime, view.sideOf(detail), view.grouping, statistic, "drop_pp"],
    );
  const data = statistics.map((statistic, i) => {
    const { x: domain, y: high, suffix, titleAt } = places[i];
    const some = rows.filter((row) => row.statistic === statistic && changes.has(row.group));
    layout[`xaxis${suffix}`] = axis(colors, { domain, anchor: `y${suffix}`, automargin: false, nticks: 4 });
    layout[`yaxis${suffix}`] = axis(colors, { domain: high, anchor: `x${suffix}`, automargin: false });
    const rho = correlation(statistic);
    const why = isOfTable && changes.size < 5 ? "no ρ under 5 groups" : "";
    const told = rho ? `ρ = ${formatNumber(rho.rho)}, ${formatP(rho.p)}` : why;
    layout.annotations.push(
      note(`<b>${nameOfStatistic(statistic)}</b>${told && (narrow ? "<br>" : "  ")}${told}`, colors, {
        x: titleAt[0],
        y: titleAt[1],
        yanchor: "top",
        align: "left",
        font: { color: colors.ink, size: 12 },
      }),
    );
    return {
      type: "scatter",
      mode: isNamed ? "markers+text" : "markers",
      textposition: alternate(some.map(({ value }) => value)),
      textfont: { size: 11, color: colors.muted },
      cliponaxis: false,
      xaxis: `x${suffix}`,
      yaxis: `y${suffix}`,
      x: some.map(({ value }) => value),
      y: some.map(({ group }) => changes.get(group).mean),
      marker: {
        size: 9,
        color: some.map(({ group }) =>
          colorOf(
            view,
            view.groups.find(({ name }) => name === group),
            colors,
          ),
        ),
      },
      meta: { groups: some.map(({ group }) => group) },
      text: some.map(({ group }) => nameOfPoint(group)),
      hovertext: some.map(
        ({ group, value }) =>
          `<b>${label(group, 40)}</b><br>${nameOfStatistic(statistic)} ${formatNumber(value)}<br>${view.metric.change}: ${sayChange(view, changes.get(group))}`,
      ),
      hovertemplate: "%{hovertext}<extra></extra>",
    };
  });
  const strongest = statistics
    .map((statistic) => ({ statistic, rho: correlation(statistic) }))
    .filter(({ rho }) => rho)
    .sort((a, b) => a.rho.p - b.rho.p)[0];
  return {
    data,
    layout,
    summary: strongest
      ? `${detail.name}: the drop goes most with ${nameOfStatistic(strongest.statistic)} (Spearman's ρ = ${formatNumber(strongest.rho.rho)}, ${formatP(strongest.rho.p)}, uncorrected).`
      : `${detail.name}: ${sayWhyNone(view, changes.size)}.`,
    note: `Upwards: ${view.metric.change}; across: what the ${side} says, ${view.saySeeds("mechanism")}. Each point is a group. A correlation over a handful of groups explains nothing by itself.`,
    table: {
      head: [view.byClass ? "Class" : "Group", sentence(view.metric.change), ...statistics.map(nameOfStatistic)],
      rows: [...changes].map(([group, change]) => [
        cell(group, null, group),
        cell(sayChange(view, change), change.mean),
        ...statistics
          .map((statistic) => rows.find((row) => row.statistic === statistic && row.group === group)?.value ?? null)
          .map((value) => cell(formatNumber(value), value)),
      ]),
    },
  };
};
