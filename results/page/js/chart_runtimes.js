// Runtimes side by side: what they answer otherwise, how long they take, how large they are.
const drawRuntimes = (view, { colors, width }) => {
  const { db } = view;
  const measured = view.configs
    .map((config) => {
      const rows = view
        .trialsOf(config)
        .flatMap((trial) => db.runtimes.find(["trial"], [trial.index]).map((row) => db.runtimes.row(row)));
      return { config, rows };
    })
    .filter(({ rows }) => rows.length);
  if (!measured.length) {
    const alone = 'this sweep measured torch alone; runtimes = ["torch", "onnxruntime"] measures what ships';
    return {
      empty: db.runtimes.length
        ? "no configuration that the filters leave was measured in another runtime than torch"
        : alone,
    };
  }
  const runtimes = [...new Set(measured.flatMap(({ rows }) => rows.map(({ runtime }) => runtime)))];
  const lines = measured
    .flatMap(({ config, rows }) =>
      runtimes.map((runtime) => {
        const own = rows.filter((row) => row.runtime === runtime);
        const shipped = own.filter((row) => row.session !== "exact");
        const timed = shipped.filter((row) => row.batch === 1);
        const twin = view.drop(config, "all", { comparison: "twin", runtime, grouping: "overall" });
        const worst = view.groups
          .filter(({ ranked }) => ranked)
          .map((group) => ({ group, drop: view.drop(config, group.name, { comparison: "twin", runtime }) }))
          .filter(({ drop }) => drop)
          .sort((a, b) => b.drop.drop_pp - a.drop.drop_pp)[0];
        return {
          config,
          runtime,
          own,
          p50: meanOf(timed.map((row) => row.p50_ms)),
          p95: meanOf(timed.map((row) => row.p95_ms)),
          bytes: meanOf(own.map((row) => row.file_bytes)),
          twin,
          worst,
          reason: shipped.find((row) => row.reason)?.reason ?? null,
        };
      }),
    )
    .filter(({ own }) => own.length);
  const drawn = lines.filter(({ twin }) => twin).slice(0, MOST_ROWS);
  const table = {
    head: [
      "Configuration",
      "Runtime",
      "All images: drop against torch, pp",
      `Which ${view.noun} drops most`,
      "Its drop, pp",
      "Other answers",
      "p50, ms",
      "p95, ms",
      "File, kB",
      "Status",
    ],
    rows: lines.map(({ config, runtime, twin, worst, p50, p95, bytes, reason, own }) => [
      cell(config.name),
      cell(runtime),
      cell(
        twin ? `${formatPp(twin.drop_pp)}${sayInterval(twin.low_pp, twin.high_pp)}` : MISSING,
        twin?.drop_pp ?? null,
        null,
        twin ? limitsOf(twin) : null,
      ),
      worst ? cell(worst.group.name, null, worst.group.name) : cell(MISSING),
      worst
        ? cell(
            `${formatPp(worst.drop.drop_pp)}${sayInterval(worst.drop.low_pp, worst.drop.high_pp)}`,
            worst.drop.drop_pp,
            null,
            limitsOf(worst.drop),
          )
        : cell(MISSING),
      cell(twin ? formatPercent(twin.flip_rate, 2) : MISSING, twin?.flip_rate ?? null),
      cell(formatNumber(p50), p50),
      cell(formatNumber(p95), p95),
      cell(formatBytes(bytes), bytes && bytes / 1000),
      cell(reason ?? own[0].status),
    ]),
  };
  if (!drawn.length)
    return {
      empty: view.missingDrops(`no configuration here has a result: ${lines[0].reason ?? "see the table"}`),
      table,
    };
  const names = drawn.map(({ config, runtime }) => (runtimes.length > 1 ? `${config.name}, ${runtime}` : config.name));
  const { left, axis: rowNames } = nameRows(names, width, colors);
  const rows = drawn.map((_, i) => i);
  const wide = width > 620;
  const domains = wide
    ? [
        [0, 0.46],
        [0.54, 0.74],
        [0.82, 1],
      ]
    : [[0, 1]];
  const error = { type: "data", symmetric: false, thickness: 1.5, width: 0, color: colors.ink };
  const limits = (drops) => ({
    array: drops.map((drop) => drop.high_pp - drop.drop_pp),
    arrayminus: drops.map((drop) => drop.drop_pp - drop.low_pp),
  });
  const bars = (suffix, values, texts) => ({
    type: "bar",
    orientation: "h",
    xaxis: `x${suffix}`,
    y: rows,
    x: values,
    text: texts,
    textposition: "none",
    hovertemplate: "%{text}<extra></extra>",
    marker: { color: colors.hues[5] },
    width: 0.6,
  });
  const data = [
    {
      type: "scatter",
      mode: "markers",
      y: rows,
      x: drawn.map(({ twin }) => twin.drop_pp),
      error_x: { ...error, ...limits(drawn.map(({ twin }) => twin)) },
      marker: { size: 8, color: colors.ink },
      text: drawn.map(
        ({ twin }, i) =>
          `<b>${escapeText(names[i])}</b><br>all images: ${sayDrop(twin.drop_pp, twin.low_pp, twin.high_pp)}<br>${formatPercent(twin.flip_rate, 2)} other answers`,
      ),
      hovertemplate: "%{text}<extra></extra>",
    },
    {
      type: "scatter",
      mode: "markers",
      y: rows.filter((i) => drawn[i].worst).map((i) => i + 0.22),
      error_x: {
        ...error,
        color: `${colors.focus}88`,
        ...limits(drawn.filter(({ worst }) => worst).map(({ worst }) => worst.drop)),
      },
      x: drawn.filter(({ worst }) => worst).map(({ worst }) => worst.drop.drop_pp),
      marker: { size: 9, symbol: "diamond", color: colors.focus },
      meta: { groups: drawn.filter(({ worst }) => worst).map(({ worst }) => worst.group.name) },
      text: drawn
        .filter(({ worst }) => worst)
        .map(
          ({ worst }) =>
            `<b>${label(worst.group.name, 40)}</b> ${sayDrop(worst.drop.drop_pp, worst.drop.low_pp, worst.drop.high_pp)}`,
        ),
      hovertemplate: "%{text}<extra></extra>",
    },
    ...(wide
      ? [
          bars(
            "2",
            drawn.map(({ p50 }) => p50),
            drawn.map(({ p50, p95 }) => `${formatNumber(p50)} ms, 95 % under ${formatNumber(p95)} ms`),
          ),
          bars(
            "3",
            drawn.map(({ bytes }) => (isNumber(bytes) ? bytes / 1000 : null)),
            drawn.map(({ bytes }) => formatBytes(bytes)),
          ),
        ]
      : []),
  ];
  const titles = ["drop against torch, pp", "ms for one image", "file, kB"];
  const axes = Object.fromEntries(
    domains.map((domain, i) => [
      `xaxis${i ? i + 1 : ""}`,
      axis(colors, {
        domain,
        title: axisTitle(titles[i], colors),
        automargin: false,
        nticks: 4,
        ...(i ? { rangemode: "tozero" } : {}),
      }),
    ]),
  );
  const most = [...drawn].sort((a, b) => (b.twin.flip_rate ?? 0) - (a.twin.flip_rate ?? 0))[0];
  return {
    data,
    layout: layoutOf(colors, 60 + ROW * drawn.length, {
      margin: { l: left, r: 16, t: 8, b: 46, pad: 4 },
      ...axes,
      yaxis: rowNames,
      shapes: [zeroLine(colors, "y")],
    }),
    summary: most.twin.flip_rate
      ? `Farthest from torch: ${most.config.name} in ${most.runtime}, ${formatPercent(most.twin.flip_rate, 2)} of its answers differ; all images: ${sayDrop(most.twin.drop_pp, most.twin.low_pp, most.twin.high_pp)}.`
      : "No answer differs from torch.",
    note: `Dots: all images, with their limits; diamonds: the ${view.noun} that loses most. Latencies were taken beside whatever else the machine did.${wide ? "" : " Latency and size are in the table."}`,
    table,
  };
};
