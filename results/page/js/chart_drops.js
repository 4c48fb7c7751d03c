// What each group loses under every configuration, as a map.
// The group loses more than the others for certain; the first column is that of all images.
const markOf = (found, i) => (i && found?.losesMore ? " ▲" : "");

const drawDrops = (view, { colors, width }) => {
  const configs = view.configs.filter((config) => config.method !== "fp32");
  const columns = [{ name: "all", n: view.ofData[0]?.trials[0]?.n_test, ranked: true }, ...view.groups];
  const read = (config, group, i) =>
    view.change(config, group.name, i === 0 ? { grouping: "overall", comparison: view.sideOf(config) } : {});
  const rows = configs
    .map((config) => ({ config, cells: columns.map((group, i) => read(config, group, i)) }))
    .filter(({ cells }) => cells.some(Boolean));
  if (!rows.length) {
    const otherwise = `no configuration that the filters leave is compared with ${sayComparison(view.comparison)} in ${view.runtime}`;
    return { empty: view.missingDrops(otherwise) };
  }
  const shown = rows.slice(0, MOST_ROWS);
  const limit = limitOf(
    rows.flatMap(({ cells }) => cells.map((found) => found?.mean)),
    view.metricKey === "accuracy" ? 1 : 0,
  );
  const format = view.metricKey === "accuracy" ? formatPp : formatShort;
  const visible = (found, i) => found && columns[i].ranked;
  const unranked = columns.flatMap((group, i) => (group.ranked ? [] : [i]));
  const edge = { yref: "paper", y0: 0, y1: 1, line: { color: colors.muted, width: 1 } };
  const cover = (i) => ({
    ...edge,
    type: "rect",
    x0: i - 0.48,
    x1: i + 0.48,
    fillcolor: colors.faint,
    line: { width: 0 },
  });
  const drawn = drawHeat(
    {
      rows: shown.map(({ config }) => config.name),
      columns: ["all", ...tellApart(view.groups.map(({ name }) => name))],
      below: columns.map(({ n }) => n ?? ""),
      z: shown.map(({ cells }) => cells.map((found, i) => (visible(found, i) ? found.mean : null))),
      text: shown.map(({ cells }) =>
        cells.map((found, i) => (visible(found, i) ? format(found.mean) + markOf(found, i) : "")),
      ),
      hover: shown.map(({ config, cells }) =>
        cells.map(
          (found, i) => `${escapeText(config.name)}<br><b>${label(columns[i].name, 40)}</b>: ${sayChange(view, found)}`,
        ),
      ),
      ticks: { x: columns.map(({ name }) => name) },
      limit,
      shapes: [{ ...edge, type: "line", x0: 0.5, x1: 0.5 }, ...unranked.map(cover)],
    },
    { colors, width },
  );
  const largest = rows
    .flatMap(({ config, cells }) => cells.slice(1).map((found, i) => ({ config, group: view.groups[i], found })))
    .filter(({ config, found, group }) => found && view.isInPlay(config, group))
    .sort((a, b) => view.sizeOf(b.found.mean) - view.sizeOf(a.found.mean))[0];
  const isAccuracy = view.metricKey === "accuracy";
  const colours = view.metric.isLoss ? "Orange: it is worse; purple: it is better" : "Orange: more; purple: less";
  const marks = isAccuracy
    ? " ▲ it loses more than the others: the lower limit of its excess, corrected for the groups, is above 0."
    : "";
  return {
    ...drawn,
    title: isAccuracy ? undefined : `${sentence(view.metric.change)} of each group, by configuration`,
    summary: largest
      ? view.sizeOf(largest.found.mean) <= 0
        ? `No ${view.noun} does worse.`
        : `Largest: ${nameOf(view, largest.group)}, ${largest.config.name}: ${sayChange(view, largest.found)}${view.metricKey === "accuracy" ? " pp" : ""}.`
      : view.noneInPlay,
    note:
      `${sentence(view.metric.change)} against ${sayComparison(view.comparison)}. ${colours}; colours are full at ±${format(limit)}.${marks} ` +
      `${!unranked.length ? "" : `Grey columns: fewer than ${view.db.minRanked} images; their numbers are in the table. `}${rows.length > shown.length ? `The first ${shown.length} of ${rows.length} configurations; all are in the table.` : ""}`,
    table: {
      head: ["Configuration", "Against", ...columns.map(({ name, n }) => `${name} (n=${n ?? "?"})`)],
      rows: rows.map(({ config, cells }) => [
        cell(config.name),
        cell(view.sideOf(config)),
        ...cells.map((found, i) =>
          cell(sayChange(view, found) + markOf(found, i), found?.mean ?? null, i ? columns[i].name : null, found),
        ),
      ]),
    },
  };
};
