// Is it noise: disparity against chance, seeds, and flips.
const namesAxis = (configs, width, colors) => {
  const length = width < 560 ? 18 : 34;
  const names = configs.map((config) => wrapLabel(config.name, length));
  const left = 14 + 6.6 * Math.max(...configs.map((config) => Math.min(config.name.length, length)));
  return { left, axis: axis(colors, { tickvals: configs.map((_, i) => i), ticktext: names, tickfont: { color: colors.muted, size: 11 }, range: [configs.length - 0.5, -0.5], showgrid: false, automargin: false }) };
};
const MOST_ROWS = 60;

const drawNull = (view, { colors, width }) => {
  const points = view.configs.filter((config) => config.method !== "fp32").map((config) => ({ config, disparity: view.disparity(config) })).filter(({ disparity }) => disparity);
  if (!points.length) return { empty: "no finished configuration has a disparity here" };
  const shown = points.slice(0, MOST_ROWS);
  const { left, axis: names } = namesAxis(shown.map(({ config }) => config), width, colors);
  const tested = points.filter(({ disparity }) => isNumber(disparity.p));
  const above = tested.filter(({ disparity }) => disparity.p < 0.05);
  const floors = shown.map(({ disparity }) => disparity.floor ?? 0);
  return {
    data: [
      {
        type: "bar", orientation: "h", x: floors, y: shown.map((_, i) => i), width: 0.62, marker: { color: colors.faint }, hovertemplate: "chance stays under %{x:.3g} in 95 of 100<extra></extra>",
      },
      {
        type: "scatter", mode: "markers", x: shown.map(({ disparity }) => disparity.value), y: shown.map((_, i) => i),
        marker: { size: 9, color: shown.map(({ disparity }) => (isNumber(disparity.p) && disparity.p < 0.05 ? colors.focus : colors.ink)), symbol: shown.map(({ disparity }) => (isNumber(disparity.p) && disparity.p < 0.05 ? "diamond" : "circle")) },
        text: shown.map(({ config, disparity }) => `<b>${escapeText(config.name)}</b><br>${formatNumber(disparity.value)}, chance ${formatNumber(disparity.floor)}, ${formatP(disparity.p)}`), hovertemplate: "%{text}<extra></extra>",
      },
    ],
    layout: layoutOf(colors, 56 + ROW * shown.length, {
      margin: { l: left, r: 16, t: 8, b: 42, pad: 4 }, xaxis: axis(colors, { rangemode: "tozero", title: axisTitle(view.metricKey === "accuracy" ? "drop disparity, pp" : `largest minus smallest ${view.metric.change}`, colors), automargin: false }), yaxis: names,
    }),
    summary: tested.length ? `Of ${count(tested.length, "configuration")} ${above.length} ${above.length === 1 ? "has" : "have"} groups that drop differently (p < .05); one in twenty would by chance.` : "No permutation test is known for these.",
    note: "Grey bar: what chance alone stays under in 95 of 100 permutations. Orange diamonds: p < .05 of the studentized test, which weighs small and large groups fairly, so it need not agree with the bar."
      + (points.length > shown.length ? ` The first ${shown.length} of ${points.length}; all are in the table.` : ""),
    table: {
      head: ["Configuration", "Disparity", "Chance, mean", "Chance (95 %)", "p", "q", "Gap, pp"],
      rows: points.map(({ config, disparity }) => [
        cell(config.name), cell(formatNumber(disparity.value), disparity.value), cell(formatNumber(disparity.mean), disparity.mean ?? null), cell(formatNumber(disparity.floor), disparity.floor ?? null),
        cell(formatP(disparity.p), disparity.p ?? null), cell(isNumber(disparity.q) ? formatNumber(disparity.q) : MISSING, disparity.q ?? null), cell(formatPp(view.gap(config)), view.gap(config)),
      ]),
    },
  };
};

const drawSeeds = (view, { colors, width }) => {
  const group = view.highlighted ?? view.groups.find(({ ranked }) => ranked)?.name;
  const read = (config, of, grouping) =>
    config.trials.map((trial) => ({ seed: trial.seed, drop: view.db.pairs.first(["trial", "runtime", "comparison", "grouping", "group"], [trial.index, view.runtime, view.sideOf(config), grouping, of])?.drop_pp ?? null }))
      .filter(({ drop, seed }) => isNumber(drop) && (view.seedNumber === null || seed === view.seedNumber));
  const rows = view.quantized.map((config) => ({ config, drops: group ? read(config, group, view.grouping) : [], all: read(config, "all", "overall") })).filter(({ drops, all }) => drops.length || all.length);
  if (!rows.length) return { empty: view.db.leftOut.pairs ? `single trials are ${view.db.leftOut.pairs}` : "no finished trial has a drop here" };
  const shown = rows.slice(0, MOST_ROWS);
  const { left, axis: names } = namesAxis(shown.map(({ config }) => config), width, colors);
  const points = (which, shift) => shown.flatMap((row, i) => row[which].map(({ seed, drop }) => ({ x: drop, y: i + shift, seed, config: row.config })));
  const trace = (which, shift, color, symbol, name) => {
    const some = points(which, shift);
    return {
      type: "scatter", mode: "markers", name: label(name), x: some.map(({ x }) => x), y: some.map(({ y }) => y), marker: { size: 8, color, symbol, opacity: 0.85 },
      text: some.map(({ config, seed, x }) => `${escapeText(config.name)}, seed ${seed}<br>${label(name, 40)}: ${formatPp(x)} pp`), hovertemplate: "%{text}<extra></extra>",
      ...(which === "drops" ? { meta: { groups: group } } : {}),
    };
  };
  const seeds = new Set(rows.flatMap(({ all, drops }) => [...all, ...drops].map(({ seed }) => seed)));
  return {
    data: [trace("all", 0.16, colors.muted, "circle-open", "all images"), trace("drops", -0.16, colors.focus, "diamond", group ?? "")],
    layout: layoutOf(colors, 84 + ROW * shown.length, {
      margin: { l: left, r: 16, t: 32, b: 42, pad: 4 }, showlegend: true, legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", font: { color: colors.ink } },
      xaxis: axis(colors, { title: axisTitle("drop of each seed, pp", colors), automargin: false }), yaxis: names, shapes: [zeroLine(colors, "y")],
    }),
    summary: `${count(seeds.size, "seed")}${group ? `; in colour ${view.byClass ? "class " : ""}${group}` : ""}.${seeds.size < 3 ? " Under three seeds no trend can be told." : ""}`,
    note: "One point for each seed. Seeds share the test images, so they are not independent of each other." + (rows.length > shown.length ? ` The first ${shown.length} of ${rows.length}; all are in the table.` : ""),
    table: {
      head: ["Configuration", "Seed", `${group ?? "group"}: drop, pp`, "All images: drop, pp"],
      rows: rows.flatMap(({ config, drops, all }) => [...new Set([...drops, ...all].map(({ seed }) => seed))].map((seed) => {
        const [own, whole] = [drops, all].map((some) => some.find((one) => one.seed === seed)?.drop ?? null);
        return [cell(config.name), cell(seed), cell(formatPp(own), own, group), cell(formatPp(whole), whole)];
      })),
    },
  };
};

// Answers that changed: bad flips to the right, good ones to the left.
const drawFlips = (view, { colors, width }) => {
  const { detail } = view;
  if (!detail) return { empty: "no quantized configuration is left" };
  const found = view.groups.map((group) => ({ group, drop: view.drop(detail, group.name) })).filter(({ drop }) => drop && isNumber(drop.bad_flip_rate));
  if (!found.length) return { empty: view.lacksSide };
  const length = width < 560 ? 16 : 30;
  const left = 18 + 6.8 * Math.max(...found.map(({ group }) => Math.min(group.name.length, length)));
  const bar = (name, sign, color) => ({
    type: "bar", orientation: "h", x: found.map(({ drop }) => sign * 100 * drop[name]), y: found.map((_, i) => i), marker: { color }, width: 0.7,
    meta: { groups: found.map(({ group }) => group.name) }, hovertemplate: "%{text}<extra></extra>", textposition: "none",
    text: found.map(({ group, drop }) => `<b>${label(group.name, 40)}</b><br>${formatPercent(drop[name], 2)} ${sign > 0 ? "were right before" : "are right now"}`),
  });
  const most = [...found].sort((a, b) => b.drop.flip_rate - a.drop.flip_rate)[0];
  return {
    data: [bar("bad_flip_rate", 1, colors.hues[1]), bar("good_flip_rate", -1, colors.hues[0])],
    layout: layoutOf(colors, 60 + 26 * found.length, {
      barmode: "relative", margin: { l: left, r: 16, t: 8, b: 42, pad: 4 }, shapes: [zeroLine(colors, "y")],
      xaxis: axis(colors, { title: axisTitle("good flips ← % of images → bad flips", colors), automargin: false }),
      yaxis: axis(colors, { tickvals: found.map((_, i) => i), ticktext: found.map(({ group }) => label(group.name, length)), range: [found.length - 0.5, -0.5], showgrid: false, automargin: false }),
    }),
    summary: `${detail.name}: most answers change for ${nameOf(view, most.group)}, ${formatPercent(most.drop.flip_rate)}.`,
    note: `Against ${view.sideOf(detail)}. What both bars of a ${view.noun} differ by is its drop; flips from one wrong answer to another are in the table only.`,
    table: {
      head: [view.byClass ? "Class" : "Group", "Changed", "Bad", "Good"],
      rows: found.map(({ group, drop }) => [
        cell(group.name, null, group.name), ...["flip_rate", "bad_flip_rate", "good_flip_rate"].map((name) => cell(formatPercent(drop[name], 2), drop[name])),
      ]),
    },
  };
};
