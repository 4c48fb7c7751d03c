// What of the reference goes with the drop: group sizes, margins, curvature.
const STATISTICS = {
  n_train: "training images",
  margin: "margin of the reference",
  accuracy: "accuracy of the reference",
  grad_norm: "norm of the loss's gradient",
  hessian_trace: "trace of the Hessian",
  lambda_max: "largest eigenvalue of the Hessian",
};

const nameOfStatistic = (name) => STATISTICS[name] ?? name.replaceAll("_", " ");

const drawMechanism = (view, { colors, width }) => {
  const { detail } = view;
  if (!detail) return { empty: "no quantized configuration is left" };
  const reference = view.db.allTrials[detail.trials[0]?.reference]?.config;
  const drops = new Map(
    view.groups
      .filter(({ ranked }) => ranked)
      .map((group) => [group.name, view.drop(detail, group.name)])
      .filter(([, drop]) => drop),
  );
  const rows =
    reference === undefined
      ? []
      : view.db.mechanism
          .find(["config", "grouping"], [reference, view.grouping])
          .map((row) => view.db.mechanism.row(row));
  const statistics = [...new Set(rows.map(({ statistic }) => statistic))].filter((one) =>
    rows.some(({ statistic, group }) => statistic === one && drops.has(group)),
  );
  if (!drops.size) return { empty: view.lacksSide };
  if (!statistics.length)
    return {
      empty:
        'the sweep measured nothing of the reference for these groups; analysis = ["curvature"] adds gradients and the Hessian',
    };
  const { places, total } = placePanels(statistics.length, width, 260, { gap: 60 });
  const layout = layoutOf(colors, total, { margin: { l: 48, r: 16, t: 8, b: 8, pad: 4 }, annotations: [] });
  const correlation = (statistic) =>
    view.db.correlations.first(
      ["config", "runtime", "comparison", "grouping", "statistic", "outcome"],
      [detail.index, view.runtime, view.sideOf(detail), view.grouping, statistic, "drop_pp"],
    );
  const data = statistics.map((statistic, i) => {
    const { x: domain, y: high, suffix, titleAt } = places[i];
    const some = rows.filter((row) => row.statistic === statistic && drops.has(row.group));
    layout[`xaxis${suffix}`] = axis(colors, { domain, anchor: `y${suffix}`, automargin: false, nticks: 4 });
    layout[`yaxis${suffix}`] = axis(colors, { domain: high, anchor: `x${suffix}`, automargin: false });
    const rho = correlation(statistic);
    const told = rho ? `ρ = ${formatNumber(rho.rho)}, ${formatP(rho.p)}` : "no ρ under 5 groups";
    layout.annotations.push(
      note(`<b>${nameOfStatistic(statistic)}</b>  ${told}`, colors, {
        x: titleAt[0],
        y: titleAt[1],
        yanchor: "top",
        font: { color: colors.ink, size: 12 },
      }),
    );
    return {
      type: "scatter",
      mode: "markers",
      xaxis: `x${suffix}`,
      yaxis: `y${suffix}`,
      x: some.map(({ value }) => value),
      y: some.map(({ group }) => drops.get(group).drop_pp),
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
      text: some.map(
        ({ group, value }) =>
          `<b>${label(group, 40)}</b><br>${nameOfStatistic(statistic)} ${formatNumber(value)}<br>drop ${formatPp(drops.get(group).drop_pp)} pp`,
      ),
      hovertemplate: "%{text}<extra></extra>",
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
      : `${detail.name}: fewer than five ranked groups, so no correlation is computed.`,
    note: "Upwards: drop in pp. Each point is a group. A correlation over a handful of groups explains nothing by itself.",
    table: {
      head: ["Group", "Drop, pp", ...statistics.map(nameOfStatistic)],
      rows: [...drops].map(([group, drop]) => [
        cell(group, null, group),
        cell(formatPp(drop.drop_pp), drop.drop_pp),
        ...statistics
          .map((statistic) => rows.find((row) => row.statistic === statistic && row.group === group)?.value ?? null)
          .map((value) => cell(formatNumber(value), value)),
      ]),
    },
  };
};
