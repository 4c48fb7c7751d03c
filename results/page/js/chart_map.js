// What each group loses under every configuration, as a map.
// Of the excess over all images; the first column is that of all images.
const starOf = (found, i) => (i && found?.isStarred ? " ★" : "");

const drawMap = (view, { colors, width }) => {
  const configs = view.configs.filter((config) => config.method !== "fp32");
  const columns = [{ name: "all", n: view.ofData[0]?.trials[0]?.n_test, ranked: true }, ...view.groups];
  const read = (config, group, i) =>
    view.change(config, group.name, i === 0 ? { grouping: "overall", comparison: view.sideOf(config) } : {});
  const rows = configs
    .map((config) => ({ config, cells: columns.map((group, i) => read(config, group, i)) }))
    .filter(({ cells }) => cells.some(Boolean));
  if (!rows.length)
    return {
      empty: `no configuration that the filters leave is compared with ${COMPARISONS[view.comparison]} in ${view.runtime}`,
    };
  const shown = rows.slice(0, MOST_ROWS);
  const limit = limitOf(
    rows.flatMap(({ cells }) => cells.map((found) => found?.mean)),
    view.metricKey === "accuracy" ? 1 : 0,
  );
  const format = view.metricKey === "accuracy" ? formatPp : formatNumber;
  const visible = (found, i) => found && columns[i].ranked;
  const unranked = columns.flatMap((group, i) => (group.ranked ? [] : [i]));
  const stroke = (x0, x1, color) => ({ type: "line", yref: "paper", x0, x1, y0: 0, y1: 1, line: { color, width: 1 } });
  const drawn = drawHeat(
    {
      rows: shown.map(({ config }) => config.name),
      columns: columns.map(({ name }) => name),
      below: columns.map(({ n }) => n ?? ""),
      z: shown.map(({ cells }) => cells.map((found, i) => (visible(found, i) ? found.mean : null))),
      text: shown.map(({ cells }) =>
        cells.map((found, i) => (visible(found, i) ? format(found.mean) + starOf(found, i) : "")),
      ),
      hover: shown.map(({ config, cells }) =>
        cells.map(
          (found, i) => `${escapeText(config.name)}<br><b>${label(columns[i].name, 40)}</b>: ${sayChange(view, found)}`,
        ),
      ),
      ticks: { x: columns.map(({ name }) => name) },
      limit,
      shapes: [stroke(0.5, 0.5, colors.muted), ...unranked.map((i) => stroke(i - 0.4, i + 0.4, colors.faint))],
    },
    { colors, width },
  );
  const largest = rows
    .flatMap(({ config, cells }) => cells.slice(1).map((found, i) => ({ config, group: view.groups[i], found })))
    .filter(({ found, group }) => found && group.ranked)
    .sort((a, b) => b.found.mean - a.found.mean)[0];
  const against = COMPARISONS[view.comparison];
  return {
    ...drawn,
    summary: largest
      ? `Largest: ${nameOf(view, largest.group)}, ${largest.config.name}: ${sayChange(view, largest.found)}${view.metricKey === "accuracy" ? " pp" : ""}.`
      : "",
    note:
      `${sentence(view.metric.change)} against ${against}. Orange: more is lost; purple: something is gained; colours are full at ±${format(limit)}. ★ the excess over all images is more than noise (see Stars). ` +
      `${!unranked.length ? "" : `Struck out: fewer than ${view.db.minRanked} images. `}${rows.length > shown.length ? `The first ${shown.length} of ${rows.length} configurations; all are in the table.` : ""}`,
    table: {
      head: ["Configuration", "Against", ...columns.map(({ name, n }) => `${name} (n=${n ?? "?"})`)],
      rows: rows.map(({ config, cells }) => [
        cell(config.name),
        cell(view.sideOf(config)),
        ...cells.map((found, i) =>
          cell(sayChange(view, found) + starOf(found, i), found?.mean ?? null, i ? columns[i].name : null),
        ),
      ]),
    },
  };
};
