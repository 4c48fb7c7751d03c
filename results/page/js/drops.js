// What each group loses: all configurations in one map, all groups of one configuration, accuracy against evenness.
const ROW = 30; // px of a row: two lines of a name
const MOST_MAP_ROWS = 60;

const sayChange = (view, found) => {
  if (!found) return MISSING;
  return view.metricKey === "accuracy" ? `${formatPp(found.mean)}${sayInterval(found.low, found.high)}` : formatNumber(found.mean);
};
const limitOf = (values, least) => {
  const sizes = values.filter(isNumber).map(Math.abs).sort((a, b) => a - b);
  return Math.max(least, sizes[Math.floor(0.95 * (sizes.length - 1))] ?? 0) || 1;
};
const scaleOf = (colors) => colors.diverging.map((color, i, all) => [i / (all.length - 1), color]);

const drawMap = (view, { colors, width }) => {
  const configs = view.configs.filter((config) => config.method !== "fp32");
  const columns = [{ name: "all", n: view.ofData[0]?.trials[0]?.n_test, ranked: true }, ...view.groups];
  const read = (config, group, i) => view.change(config, group.name, i === 0 ? { grouping: "overall", comparison: view.sideOf(config) } : {});
  const rows = configs.map((config) => ({ config, cells: columns.map((group, i) => read(config, group, i)) })).filter(({ cells }) => cells.some(Boolean));
  if (!rows.length) return { empty: `no configuration that the filters leave is compared with ${COMPARISONS[view.comparison]} in ${view.runtime}` };
  const shown = rows.slice(0, MOST_MAP_ROWS);
  const limit = limitOf(rows.flatMap(({ cells }) => cells.map((found) => found?.mean)), view.metricKey === "accuracy" ? 1 : 0);
  const format = view.metricKey === "accuracy" ? formatPp : formatNumber;
  const visible = (group) => group.ranked;
  const nameLength = width < 560 ? 17 : 34;
  const names = shown.map(({ config }) => wrapLabel(config.name, nameLength));
  const left = 12 + 6.6 * Math.max(...shown.map(({ config }) => Math.min(config.name.length, nameLength)));
  const minWidth = left + (view.metricKey === "accuracy" ? 46 : 56) * columns.length;
  const letters = Math.max(6, Math.floor((Math.max(width, minWidth) - left) / columns.length / 7));
  const z = shown.map(({ cells }) => cells.map((found, i) => (found && visible(columns[i]) ? found.mean : null)));
  const text = shown.map(({ cells }) => cells.map((found, i) => (found && visible(columns[i]) ? format(found.mean) + (i && found.isStarred ? " ★" : "") : "")));
  const hover = shown.map(({ config, cells }) => cells.map((found, i) =>
    `${escapeText(config.name)}<br><b>${label(columns[i].name, 40)}</b>: ${sayChange(view, found)}`));
  const layout = layoutOf(colors, 64 + ROW * shown.length, {
    margin: { l: left, r: 8, t: 56, b: 8, pad: 4 },
    xaxis: axis(colors, { tickvals: columns.map((_, i) => i), ticktext: columns.map(({ name, n }) => `${label(name, letters)}<br>${n ?? ""}`), side: "top", tickangle: 0, showgrid: false, range: [-0.5, columns.length - 0.5], automargin: false }),
    yaxis: axis(colors, { tickvals: shown.map((_, i) => i), ticktext: names, tickfont: { color: colors.muted, size: 11 }, range: [shown.length - 0.5, -0.5], showgrid: false, automargin: false }),
    shapes: [
      { type: "line", yref: "paper", x0: 0.5, x1: 0.5, y0: 0, y1: 1, line: { color: colors.muted, width: 1 } },
      ...columns.flatMap((group, i) => (visible(group) ? [] : [{ type: "line", yref: "paper", x0: i - 0.4, x1: i + 0.4, y0: 0, y1: 1, line: { color: colors.faint, width: 1 } }])),
    ],
  });
  const trace = {
    type: "heatmap", z, text, customdata: hover, x: columns.map((_, i) => i), y: shown.map((_, i) => i), zmid: 0, zmin: -limit, zmax: limit, xgap: 2, ygap: 2,
    colorscale: scaleOf(colors), showscale: false, texttemplate: "%{text}", textfont: { size: 11, color: colors.ink }, hoverongaps: false,
    hovertemplate: "%{customdata}<extra></extra>", meta: { ticks: { x: columns.map(({ name }) => name) } },
  };
  const largest = rows.flatMap(({ config, cells }) => cells.slice(1).map((found, i) => ({ config, group: view.groups[i], found })))
    .filter(({ found, group }) => found && group.ranked).sort((a, b) => b.found.mean - a.found.mean)[0];
  const against = COMPARISONS[view.comparison];
  return {
    data: [trace], layout, minWidth,
    summary: largest ? `Largest: ${nameOf(view, largest.group)}, ${largest.config.name}: ${sayChange(view, largest.found)}${view.metricKey === "accuracy" ? " pp" : ""}.` : "",
    note: `${sentence(view.metric.change)} against ${against}. Orange: more is lost; purple: something is gained; colours are full at ±${format(limit)}. ★ the excess over all images is more than noise (see Stars). `
      + `${view.groups.every(visible) ? "" : `Struck out: fewer than ${view.db.minRanked} images. `}${rows.length > shown.length ? `The first ${shown.length} of ${rows.length} configurations; all are in the table.` : ""}`,
    table: {
      head: ["Configuration", "Against", ...columns.map(({ name, n }) => `${name} (n=${n ?? "?"})`)],
      rows: rows.map(({ config, cells }) => [
        cell(config.name), cell(view.sideOf(config)),
        ...cells.map((found, i) => cell(sayChange(view, found) + (i && found?.isStarred ? " ★" : ""), found?.mean ?? null, i ? columns[i].name : null)),
      ]),
    },
  };
};

// Groups of one configuration, sorted, each with its interval.
const drawGroups = (view, { colors, width }, grouping = view.grouping) => {
  const { detail } = view;
  if (!detail) return { empty: "no quantized configuration is left" };
  const groups = view.db.groups.find(["data", "grouping"], [view.dataIndex, grouping]).map((row) => view.db.groups.row(row));
  const found = groups.map((group) => ({ ...group, change: view.change(detail, group.group, { grouping }) })).filter(({ change }) => change)
    .sort((a, b) => a.change.mean - b.change.mean);
  if (!found.length) return { empty: view.lacksSide };
  const ranked = (group) => group.n >= view.db.minRanked;
  const rows = found.map((_, i) => i);
  const nameLength = width < 560 ? 18 : 36;
  const left = 18 + 6.8 * Math.max(...found.map(({ group, n }) => Math.min(group.length, nameLength) + String(n).length + 3));
  const say = (change) => (view.metricKey === "accuracy" ? sayDrop(change.mean, change.low, change.high) : formatNumber(change.mean));
  const overall = view.change(detail, "all", { grouping: "overall", comparison: view.sideOf(detail) });
  const part = (some, more) => ({
    type: "scatter", mode: "markers", x: some.map((i) => found[i].change.mean), y: some, hovertemplate: "%{text}<extra></extra>",
    text: some.map((i) => `<b>${label(found[i].group, 40)}</b> (n=${found[i].n})<br>${say(found[i].change)}`), meta: { groups: some.map((i) => found[i].group) },
    error_x: {
      type: "data", symmetric: false, thickness: 1.5, width: 0, color: more.color, array: some.map((i) => (found[i].change.high ?? found[i].change.mean) - found[i].change.mean),
      arrayminus: some.map((i) => found[i].change.mean - (found[i].change.low ?? found[i].change.mean)),
    },
    marker: { size: 9, color: more.color, symbol: more.symbol },
  });
  const layout = layoutOf(colors, 56 + 24 * found.length, {
    margin: { l: left, r: 16, t: 8, b: 40, pad: 4 },
    xaxis: axis(colors, { title: axisTitle(view.metric.change, colors), automargin: false }),
    yaxis: axis(colors, { tickvals: rows, ticktext: found.map(({ group, n }) => `${label(group, nameLength)} (${n})`), range: [-0.6, found.length - 0.4], showgrid: false, automargin: false }),
    shapes: [zeroLine(colors, "y"), ...(overall ? [{ type: "line", yref: "paper", y0: 0, y1: 1, x0: overall.mean, x1: overall.mean, line: { color: colors.focus, width: 1, dash: "dot" } }] : [])],
  });
  const worst = found.filter(ranked).at(-1);
  return {
    data: [
      part(rows.filter((i) => ranked(found[i])), { color: colors.ink, symbol: "circle" }),
      part(rows.filter((i) => !ranked(found[i])), { color: colors.muted, symbol: "circle-open" }),
    ],
    layout,
    summary: worst ? `${detail.name}: ${worst.group} ${say(worst.change)}${overall ? `; on all images it ${view.metricKey === "accuracy" ? sayDrop(overall.mean, overall.low, overall.high) : formatNumber(overall.mean)}` : ""}.` : `${detail.name}: no group has ${view.db.minRanked} images.`,
    note: `Against ${view.sideOf(detail)}. Dotted: all images. Open circles: fewer than ${view.db.minRanked} images, never ranked.`,
    table: {
      head: ["Group", "n", view.metric.change],
      rows: [...found].reverse().map(({ group, n, change }) => [cell(group, null, group), cell(n, n), cell(say(change), change.mean, group)]),
    },
  };
};

const drawIntersections = (view, size) => {
  const known = [...new Set(view.db.groups.rows((row) => view.db.groups.get("data", row) === view.dataIndex).map((row) => row.grouping))];
  const crossed = view.grouping.includes("*") ? view.grouping : known.find((grouping) => grouping.includes("*"));
  return crossed ? drawGroups(view, size, crossed) : { empty: 'this sweep has no intersection; group_by = ["ethnicity*gender"] makes one' };
};

// Mean accuracy against how unevenly groups drop. Points that cannot be told from the most accurate one are faded.
const drawTradeoff = (view, { colors }) => {
  const points = view.configs
    .map((config) => ({
      config, disparity: config.method === "fp32" ? { value: 0 } : view.disparity(config), overall: config.method === "fp32" ? null : view.drop(config, "all", { grouping: "overall", comparison: "reference" }),
      accuracy: view.value(config, "all", { metric: "accuracy", grouping: "overall", runtime: isQuantized(config) ? view.runtime : "torch" }),
    }))
    .filter(({ disparity, accuracy }) => disparity && isNumber(accuracy));
  if (!points.some(({ config }) => isQuantized(config))) return { empty: "no quantized configuration has a disparity here" };
  const best = points.filter(({ config, overall }) => isQuantized(config) && overall).sort((a, b) => a.overall.drop_pp - b.overall.drop_pp)[0];
  const isClose = ({ overall }) => Boolean(best && overall && overall.drop_ci_low_pp <= best.overall.drop_pp && best.overall.drop_pp <= overall.drop_ci_high_pp);
  const variants = [...new Set(points.map(({ config }) => config.variant))];
  const unit = view.metricKey === "accuracy" ? "pp" : "";
  const data = variants.map((variant, i) => {
    const some = points.filter(({ config }) => config.variant === variant);
    return {
      type: "scatter", mode: "markers", name: variant, x: some.map(({ accuracy }) => accuracy), y: some.map(({ disparity }) => disparity.value),
      text: some.map(({ config, accuracy, disparity }) => `<b>${escapeText(config.name)}</b><br>${formatPercent(accuracy, 2)}, uneven by ${formatNumber(disparity.value)} ${unit}${isNumber(disparity.floor) ? ` (chance ${formatNumber(disparity.floor)})` : ""}`),
      error_x: {
        type: "data", symmetric: false, thickness: 1, width: 0, color: `${colors.hues[i % 8]}66`, array: some.map(({ overall }) => (overall ? (overall.drop_pp - overall.drop_ci_low_pp) / 100 : 0)),
        arrayminus: some.map(({ overall }) => (overall ? (overall.drop_ci_high_pp - overall.drop_pp) / 100 : 0)),
      },
      marker: {
        symbol: SYMBOLS[i % SYMBOLS.length], color: colors.hues[i % 8], size: some.map(({ config }) => (isQuantized(config) ? 7 + (config.weight_bits ?? 16) / 2 : 10)),
        opacity: some.map((point) => (isClose(point) ? 0.4 : 1)), line: { width: 1, color: colors.ground },
      },
      hovertemplate: "%{text}<extra></extra>",
    };
  });
  const isAccuracy = view.metricKey === "accuracy";
  const highest = Math.max(...points.map(({ disparity }) => disparity.value)) || 1;
  return {
    data,
    layout: layoutOf(colors, 400, {
      margin: { l: 60, r: 16, t: 34, b: 48, pad: 4 }, showlegend: true, legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { color: colors.ink } },
      xaxis: axis(colors, { tickformat: ".1%", title: axisTitle("mean accuracy", colors), automargin: false }),
      yaxis: axis(colors, { range: [-0.06 * highest, 1.08 * highest], title: axisTitle(isAccuracy ? "drop disparity, pp" : `largest minus smallest ${view.metric.change}`, colors), automargin: false }),
    }),
    summary: best ? `Least is lost with ${best.config.name}: ${formatPercent(best.accuracy, 2)}, uneven by ${formatNumber(best.disparity.value)} ${unit}.` : "",
    note: "Symbol: method; size: bits. Bars: 95 % interval of the paired drop of all images. Faded: the interval holds the drop of the configuration that loses least, so they cannot be told apart by accuracy.",
    table: {
      head: ["Configuration", "Accuracy", "Drop of all images, pp", "Drop disparity", "Chance (95 %)", "p", "Gap, pp"],
      rows: points.map(({ config, accuracy, overall, disparity }) => [
        cell(config.name), cell(formatPercent(accuracy, 2), accuracy), cell(overall ? formatPp(overall.drop_pp) : MISSING, overall?.drop_pp ?? null),
        cell(formatNumber(disparity.value), disparity.value), cell(formatNumber(disparity.floor), disparity.floor ?? null), cell(formatP(disparity.p), disparity.p ?? null),
        cell(formatPp(view.gap(config)), view.gap(config)),
      ]),
    },
  };
};
