// The groups of one configuration, sorted, each with its interval.
const drawGroups = (view, { colors, width }, grouping = view.grouping) => {
  const { detail } = view;
  if (!detail) return { empty: view.lacksDetail };
  const groups = view.db.groups
    .find(["data", "grouping"], [view.dataIndex, grouping])
    .map((row) => view.db.groups.row(row));
  const found = groups
    .map((group) => ({ ...group, change: view.change(detail, group.group, { grouping }) }))
    .filter(({ change }) => change)
    .sort((a, b) => view.sizeOf(b.change.mean) - view.sizeOf(a.change.mean));
  if (!found.length) return { empty: view.lacksSide };
  const ranked = (group) => group.n >= view.db.minRanked;
  const isAccuracy = view.metricKey === "accuracy";
  const rows = found.map((_, i) => i);
  const { left, axis: names } = nameRows(
    found.map(({ group, n }) => `${group} (${n})`),
    width,
    colors,
  );
  const say = ({ mean, low, high }) => (isAccuracy ? sayDrop(mean, low, high) : formatNumber(mean));
  const overall = view.change(detail, "all", { grouping: "overall", comparison: view.sideOf(detail) });
  const part = (some, more) => ({
    type: "scatter",
    mode: "markers",
    x: some.map((i) => found[i].change.mean),
    y: some,
    hovertemplate: "%{text}<extra></extra>",
    text: some.map((i) => `<b>${label(found[i].group, 40)}</b> (n=${found[i].n})<br>${say(found[i].change)}`),
    meta: { groups: some.map((i) => found[i].group) },
    error_x: {
      type: "data",
      symmetric: false,
      thickness: 1.5,
      width: 0,
      color: more.color,
      array: some.map((i) => (found[i].change.high ?? found[i].change.mean) - found[i].change.mean),
      arrayminus: some.map((i) => found[i].change.mean - (found[i].change.low ?? found[i].change.mean)),
    },
    marker: { size: 9, color: more.color, symbol: more.symbol },
  });
  const layout = layoutOf(colors, 56 + ROW * found.length, {
    margin: { l: left, r: 16, t: 8, b: 40, pad: 4 },
    xaxis: axis(colors, { title: axisTitle(view.metric.change, colors), automargin: false }),
    yaxis: names,
    shapes: [
      zeroLine(colors, "y"),
      ...(overall
        ? [
            {
              type: "line",
              yref: "paper",
              y0: 0,
              y1: 1,
              x0: overall.mean,
              x1: overall.mean,
              line: { color: colors.focus, width: 1, dash: "dot" },
            },
          ]
        : []),
    ],
  });
  const worst = found.find((group) => view.isInPlay(detail, { name: group.group, ranked: ranked(group) }, grouping));
  return {
    data: [
      part(
        rows.filter((i) => ranked(found[i])),
        { color: colors.ink, symbol: "circle" },
      ),
      part(
        rows.filter((i) => !ranked(found[i])),
        { color: colors.muted, symbol: "circle-open" },
      ),
    ],
    layout,
    summary: worst
      ? `${detail.name}, ${view.metric.change.replace(", pp", "")}: ${nameOf({ byClass: groups[0].by_class }, { name: worst.group })} ${say(worst.change)}${overall ? `; all images: ${say(overall)}` : ""}.`
      : `${detail.name}: no group of ${view.db.minRanked} images is in play.`,
    note: `Against ${sayComparison(view.sideOf(detail))}. Dotted: all images. Open circles: fewer than ${view.db.minRanked} images, never ranked.`,
    table: {
      head: ["Group", "n", view.metric.change],
      rows: found.map(({ group, n, change }) => [
        cell(group, null, group),
        cell(n, n),
        cell(say(change), change.mean, group, change),
      ]),
    },
  };
};
