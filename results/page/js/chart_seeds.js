// The drop of every seed.
const drawSeeds = (view, { colors, width }) => {
  const group = view.highlighted ?? view.groups.find(({ ranked }) => ranked)?.name;
  const shownGroup = view.groups.find(({ name }) => name === group);
  const read = (config, of, grouping) =>
    config.trials
      .map((trial) => ({
        seed: trial.seed,
        drop:
          view.db.pairs.first(
            ["trial", "runtime", "comparison", "grouping", "group"],
            [trial.index, view.runtime, view.sideOf(config), grouping, of],
          )?.drop_pp ?? null,
      }))
      .filter(({ drop, seed }) => isNumber(drop) && (view.seedNumber === null || seed === view.seedNumber));
  const rows = view.quantized
    .map((config) => ({
      config,
      drops: group ? read(config, group, view.grouping) : [],
      all: read(config, "all", "overall"),
    }))
    .filter(({ drops, all }) => drops.length || all.length);
  if (!rows.length) return { empty: view.missing("pairs", "no finished trial has a drop here") };
  const shown = rows.slice(0, MOST_ROWS);
  const { left, axis: names } = nameRows(
    shown.map(({ config }) => config.name),
    width,
    colors,
  );
  const points = (which, shift) =>
    shown.flatMap((row, i) =>
      row[which].map(({ seed, drop }) => ({ x: drop, y: i + shift, seed, config: row.config })),
    );
  const trace = (which, shift, color, symbol, name) => {
    const some = points(which, shift);
    return {
      type: "scatter",
      mode: "markers",
      name: label(name),
      x: some.map(({ x }) => x),
      y: some.map(({ y }) => y),
      marker: { size: 8, color, symbol, opacity: 0.85 },
      text: some.map(
        ({ config, seed, x }) => `${escapeText(config.name)}, seed ${seed}<br>${label(name, 40)}: ${formatPp(x)} pp`,
      ),
      hovertemplate: "%{text}<extra></extra>",
      ...(which === "drops" ? { meta: { groups: group } } : {}),
    };
  };
  const seeds = new Set(rows.flatMap(({ all, drops }) => [...all, ...drops].map(({ seed }) => seed)));
  return {
    data: [
      trace("all", 0.16, colors.muted, "circle-open", "all images"),
      trace("drops", -0.16, shownGroup ? colorOf(view, shownGroup, colors) : colors.ink, "diamond", group ?? ""),
    ],
    layout: layoutOf(colors, 84 + ROW * shown.length, {
      margin: { l: left, r: 16, t: 32, b: 42, pad: 4 },
      showlegend: true,
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", font: { color: colors.ink } },
      xaxis: axis(colors, { title: axisTitle("drop of each seed, pp", colors), automargin: false }),
      yaxis: names,
      shapes: [zeroLine(colors, "y")],
    }),
    summary: `${count(seeds.size, "seed")}${group ? `; diamonds: ${shownGroup ? nameOf(view, shownGroup) : group}${view.highlighted ? "" : ", the largest"}` : ""}.${seeds.size < 3 ? " Under three seeds no trend can be told." : ""}`,
    note:
      "One point for each seed. Seeds share the test images, so they are not independent of each other." +
      (rows.length > shown.length ? ` The first ${shown.length} of ${rows.length}; all are in the table.` : ""),
    table: {
      head: ["Configuration", "Seed", `${group ?? "group"}: drop, pp`, "All images: drop, pp"],
      rows: rows.flatMap(({ config, drops, all }) =>
        [...new Set([...drops, ...all].map(({ seed }) => seed))].map((seed) => {
          const [own, whole] = [drops, all].map((some) => some.find((one) => one.seed === seed)?.drop ?? null);
          return [cell(config.name), cell(seed), cell(formatPp(own), own, group), cell(formatPp(whole), whole)];
        }),
      ),
    },
  };
};
